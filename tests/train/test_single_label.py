"""Metrics of images with one label each, against float64 NumPy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, f1_score, log_loss, recall_score, top_k_accuracy_score
from support.scores import log_probabilities, random_scores

from normhpc.train.metrics import Evaluation
from normhpc.train.single_label import SingleLabel


def found(logits: torch.Tensor, labels: torch.Tensor, classes: int | None = None) -> Evaluation:
    measured = SingleLabel(len(labels), classes or logits.shape[1], torch.device("cpu"))
    for start in range(0, len(labels), 64):
        measured.put(start, logits[start : start + 64], labels[start : start + 64])
    return measured.evaluation()


def right(logits: torch.Tensor, labels: torch.Tensor) -> list[list[int]]:
    """Of each image on its own: whether it is right, and whether it is among the top five."""
    singly = [found(logits[row : row + 1], labels[row : row + 1]).metrics for row in range(len(labels))]
    return [[int(metrics["top1"]), int(metrics["top5"])] for metrics in singly]


@pytest.mark.parametrize("classes", [2, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_against_numpy_and_scikit_learn(classes, dtype):
    logits, labels = random_scores(classes, dtype)
    metrics = found(logits, labels).metrics
    assert list(metrics) == ["loss", "top1", "top5", "f1_macro", "f1_micro"]
    logs, every = log_probabilities(logits), range(classes)
    assert metrics["loss"] == pytest.approx(log_loss(labels, np.exp(logs), labels=every), rel=1e-6)
    if dtype != torch.float32:
        return  # coarse scores tie, which scikit-learn breaks by position and normhpc counts as wrong
    predicted = logits.argmax(dim=1).numpy()
    assert metrics["top1"] == metrics["f1_micro"] == float((predicted == labels.numpy()).mean())
    occurring = np.unique(labels)
    expected = f1_score(labels, predicted, labels=occurring, average="macro", zero_division=0)
    assert metrics["f1_macro"] == pytest.approx(expected, rel=1e-12)
    assert metrics["f1_micro"] == pytest.approx(f1_score(labels, predicted, average="micro"), rel=1e-12)
    if classes == 2:
        assert metrics["top5"] == 1.0
    else:
        assert metrics["top5"] == pytest.approx(top_k_accuracy_score(labels, np.exp(logs), k=5, labels=every))


@pytest.mark.parametrize("classes", [2, 7, 20])
def test_results_by_class_against_scikit_learn(classes):
    logits, labels = random_scores(classes)
    labels[labels == 1] = 0  # nobody is of class 1, some are predicted to be
    details = found(logits, labels).details
    predicted = logits.argmax(dim=1).numpy()
    expected = confusion_matrix(labels, predicted, labels=range(classes))
    assert details["confusion"] == expected.tolist()
    assert expected[:, 1].sum() > 0
    recalls = recall_score(labels, predicted, labels=range(classes), average=None, zero_division=0).tolist()
    assert details["class_accuracy"][1] is None
    assert details["absent_classes"] == 1
    del recalls[1], details["class_accuracy"][1]
    assert details["class_accuracy"] == pytest.approx(recalls, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_scores_are_counted_as_argmax_and_topk_see_them(dtype):
    logits, labels = random_scores(100, dtype)
    logits = (logits * 2).round() / 2  # many ties
    order = logits.float().argsort(dim=1, descending=True, stable=True)
    rank = (order == labels[:, None]).int().argmax(dim=1)
    assert right(logits, labels) == torch.stack((rank < 1, rank < 5), dim=1).int().tolist()
    assert found(logits, labels).metrics["top1"] == (logits.argmax(dim=1) == labels).double().mean().item()


def test_no_confusion_of_many_classes():
    assert set(found(*random_scores(21)).details) == {"class_accuracy", "absent_classes"}


def test_of_equal_scores_the_lower_class_comes_first():
    labels = torch.tensor([0, 7, 6, 7, 1])
    logits = torch.zeros(5, 8)
    assert right(logits, labels) == [[1, 1], [0, 0], [0, 0], [0, 0], [0, 1]]
    logits[1, 1] = logits[1, 7] = 1  # the second of two at the top
    logits[2, 2:7] = 1  # the last of five
    logits[3, 2:8] = 1  # the last of six
    logits[4, 1:] = 1  # the first of seven
    assert right(logits, labels) == [[1, 1], [0, 1], [0, 1], [0, 0], [1, 1]]
    # each wrong one is predicted as the first of the classes that are as good
    confusion = np.array(found(logits, labels).details["confusion"])
    assert {(row, column): count for (row, column), count in np.ndenumerate(confusion) if count} == {
        (0, 0): 1,
        (1, 1): 1,
        (6, 2): 1,
        (7, 1): 1,
        (7, 2): 1,
    }


def test_what_is_no_number_counts_as_wrong():
    logits = torch.zeros(5, 8)
    logits[:, 3] = 1
    labels = torch.tensor([3, 3, 3, 0, 7])
    logits[0] = torch.nan
    logits[1, :5] = torch.nan  # its own score among them
    logits[2, 0] = torch.nan  # of another class: that one beats it
    logits[3:] = -torch.inf
    evaluation = found(logits, labels)
    assert math.isnan(evaluation.metrics["loss"])
    # scores of minus infinity are equal and not what is no number
    assert right(logits, labels) == [[0, 0], [0, 0], [0, 1], [1, 1], [0, 0]]
    confusion = np.array(evaluation.details["confusion"])
    assert confusion.sum() == 5
    assert np.diag(confusion).tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    assert confusion[3, 0] == 3


def test_outputs_without_a_label_beat_but_are_no_class():
    """Three outputs, two classes: the third output is the top of one image of each class."""
    logits = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 0.5], [0.0, 1.0, 2.0], [0.0, 1.0, 0.5], [1.0, 0.0, 0.5]])
    evaluation = found(logits, torch.tensor([0, 0, 1, 1, 1]), classes=2)
    assert evaluation.metrics["top1"] == 2 / 5
    assert evaluation.details["confusion"] == [[1, 0], [1, 1]]
    assert evaluation.details["class_accuracy"] == [1 / 2, 1 / 3]
    # 1 hit, 2 images, 2 predictions; 1 hit, 3 images, 1 prediction
    assert evaluation.metrics["f1_macro"] == (2 / 4 + 2 / 4) / 2
    assert evaluation.metrics["f1_micro"] == 4 / (5 + 3)
