"""Metrics of images with several labels each, against scikit-learn, plain loops and exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    log_loss,
    multilabel_confusion_matrix,
    precision_recall_fscore_support,
)

from normhpc.train.metrics import Evaluation
from normhpc.train.multi_label import MultiLabel, among_top, average_precision, thresholded

NAMES = [
    *("loss", "map_macro", "map_micro", "f1_macro", "f1_micro", "cp", "cr", "cf1", "op", "or", "of1"),
    *("cp_3", "cr_3", "cf1_3", "op_3", "or_3", "of1_3"),
]


def found(logits: torch.Tensor, labels: torch.Tensor) -> Evaluation:
    measured = MultiLabel(*labels.shape, torch.device("cpu"))
    for start in range(0, len(labels), 64):
        measured.put(start, logits[start : start + 64], labels[start : start + 64])
    return measured.evaluation()


def random_images(classes: int, rows: int = 300, *, coarse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels; class 0 is rare, class 1 never predicted; ``coarse`` logits tie often."""
    generator = torch.Generator().manual_seed(classes)
    shares = torch.linspace(0.02, 0.6, classes)
    labels = (torch.rand(rows, classes, generator=generator) < shares).to(torch.uint8)
    labels[0, 0] = 1
    logits = torch.randn(rows, classes, generator=generator) + labels - 0.3
    if coarse:
        logits = (logits * 2).round() / 2
    logits[:, 1] = -logits[:, 1].abs() - 0.5
    return logits, labels


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 4, 19, 80])
def test_against_scikit_learn(classes, coarse):
    logits, labels = random_images(classes, coarse=coarse)
    truth, scores = labels.numpy(), logits.numpy()
    predicted = (scores >= 0).astype(int)
    evaluation = found(logits, labels)
    metrics = evaluation.metrics
    assert list(metrics) == NAMES
    probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
    losses = [log_loss(truth[:, k], probabilities[:, k], labels=[0, 1]) for k in range(classes)]
    precisions, recalls, _, _ = precision_recall_fscore_support(truth, predicted, average=None, zero_division=0)
    overall = precision_recall_fscore_support(truth, predicted, average="micro")
    expected = {
        "loss": np.mean(losses),
        "map_macro": average_precision_score(truth, scores, average="macro"),
        "map_micro": average_precision_score(truth, scores, average="micro"),
        "f1_macro": f1_score(truth, predicted, average="macro", zero_division=0),
        "f1_micro": f1_score(truth, predicted, average="micro"),
        "cp": precisions.mean(),
        "cr": recalls.mean(),
        "cf1": 2 * precisions.mean() * recalls.mean() / (precisions.mean() + recalls.mean()),
        **dict(zip(("op", "or", "of1"), overall[:3], strict=True)),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    del expected["loss"]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    aps = average_precision_score(truth, scores, average=None)
    assert evaluation.details["class_ap"] == pytest.approx(aps.tolist(), rel=1e-12)
    assert evaluation.details["absent_classes"] == 0
    if classes > 20:
        assert "confusion" not in evaluation.details
    else:
        assert evaluation.details["confusion"] == multilabel_confusion_matrix(truth, predicted).tolist()


def test_the_three_best_of_an_image_that_also_pass_the_threshold():
    logits, labels = random_images(19)
    kept = np.zeros(labels.shape, dtype=int)
    for row, scores in enumerate(logits.numpy()):
        for place in np.argsort(scores)[-3:]:
            kept[row, place] = scores[place] >= 0
    assert kept.sum() < (logits >= 0).sum()
    precisions, recalls, _, _ = precision_recall_fscore_support(labels, kept, average=None, zero_division=0)
    cp, cr = precisions.mean(), recalls.mean()
    op, recalled, of1, _ = precision_recall_fscore_support(labels, kept, average="micro")
    expected = {"cp_3": cp, "cr_3": cr, "cf1_3": 2 * cp * cr / (cp + cr), "op_3": op, "or_3": recalled, "of1_3": of1}
    metrics = found(logits, labels).metrics
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def test_the_three_best_with_ties():
    scores = np.array([[4, 3, 3, 1, 0], [4, 3, 2, 2, 0], [1, 1, 1, 1, 0], [2, 2, 2, 1, 1], [-np.inf] * 5], np.float32)
    assert among_top(scores, 3).astype(int).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    assert among_top(scores[:, :3], 3).all()


@pytest.mark.parametrize("values", [1, 2, 7, 10**6])
def test_average_precision_is_exact(values):
    """Against the sum over thresholds in fractions; ``values`` distinct scores among 200."""
    generator = np.random.default_rng(values)
    scores = generator.integers(values, size=200).astype(np.float32)
    labels = generator.random(200) < 0.3
    exact = before = Fraction(0)
    for threshold in np.unique(scores)[::-1]:
        passed = scores >= threshold
        recall = Fraction(int(labels[passed].sum()), int(labels.sum()))
        exact += (recall - before) * Fraction(int(labels[passed].sum()), int(passed.sum()))
        before = recall
    measured = average_precision(scores, labels)
    assert measured == pytest.approx(float(exact), rel=4e-16)
    assert measured == pytest.approx(average_precision_score(labels, scores), rel=1e-12)
    shuffled = generator.permutation(200)
    assert average_precision(scores[shuffled], labels[shuffled]) == measured


def test_scores_that_are_all_equal_are_worth_the_share_of_positives():
    labels = np.arange(40) % 4 == 0
    assert average_precision(np.full(40, 3.5, np.float32), labels) == 0.25
    assert average_precision(np.where(labels, np.float32(0.0), np.float32(-0.0)), labels) == 0.25


@pytest.mark.parametrize("coarse", [False, True])
def test_a_class_without_positives_is_left_out_and_counted(coarse):
    logits, labels = random_images(7, coarse=coarse)
    labels[:, 3] = labels[:, 5] = 0
    rest = [0, 1, 2, 4, 6]
    evaluation, without = found(logits, labels), found(logits[:, rest], labels[:, rest])
    assert evaluation.details["absent_classes"] == 2
    assert [evaluation.details["class_ap"][place] for place in (3, 5)] == [None, None]
    assert [evaluation.details["class_ap"][place] for place in rest] == without.details["class_ap"]
    for name in ("map_macro", "f1_macro", "cp", "cr", "cf1"):
        assert evaluation.metrics[name] == without.metrics[name]
    # what is counted over all classes has their false positives
    assert evaluation.metrics["or"] == without.metrics["or"]
    for name in ("op", "of1", "map_micro"):
        assert evaluation.metrics[name] < without.metrics[name]


def test_without_any_label_there_is_a_loss_alone():
    logits, labels = random_images(4)
    evaluation = found(logits, labels * 0)
    assert math.isfinite(evaluation.metrics.pop("loss"))
    assert all(math.isnan(value) for value in evaluation.metrics.values())
    assert evaluation.details["class_ap"] == [None] * 4
    assert evaluation.details["absent_classes"] == 4


def test_where_nothing_is_predicted_all_is_zero():
    _, labels = random_images(4)
    counted = thresholded(np.zeros(labels.shape, dtype=bool), labels.numpy().astype(bool))
    assert counted == dict.fromkeys(("f1_macro", "f1_micro", "cp", "cr", "cf1", "op", "or", "of1"), 0.0)


def test_what_is_no_number_ranks_last_and_predicts_nothing():
    logits, labels = random_images(4)
    broken = logits.clone()
    broken[::3] = torch.nan
    broken[1::3, 2] = torch.nan
    lowest = torch.where(broken.isnan(), -torch.inf, broken)
    measured, expected = found(broken, labels), found(lowest, labels)
    assert math.isnan(measured.metrics.pop("loss"))
    expected.metrics.pop("loss")
    assert measured == expected
    # scikit-learn takes no infinity: a number below all others
    finite = torch.where(broken.isnan(), -100.0, broken)
    aps = average_precision_score(labels, finite, average=None)
    assert measured.details["class_ap"] == pytest.approx(aps.tolist(), rel=1e-12)
    assert measured.metrics["map_macro"] < found(logits, labels).metrics["map_macro"]


def test_confident_logits_do_not_tie():
    """Their probabilities all round to 1; the label is on the highest."""
    logits = torch.tensor([[30.0], [40.0], [50.0]])
    assert len(torch.sigmoid(logits).unique()) == 1
    assert found(logits, torch.tensor([[0], [0], [1]], dtype=torch.uint8)).metrics["map_macro"] == 1.0


def test_outputs_without_a_label_are_left_out():
    logits, labels = random_images(4)
    wider = torch.cat((logits, 9 + logits), dim=1)
    assert found(wider, labels) == found(logits, labels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_in_fp32_whatever_the_network_computes_in(dtype):
    logits, labels = random_images(19)
    coarse = logits.to(dtype)
    assert found(coarse, labels) == found(coarse.float(), labels)
