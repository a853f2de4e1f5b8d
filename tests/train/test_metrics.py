"""Loss and accuracy of single images against float64 NumPy and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, top_k_accuracy_score

from normhpc.config.training import CrossEntropy
from normhpc.train.metrics import per_image, summed_loss


def random_scores(classes, dtype=torch.float32, rows=200):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    return logits.to(dtype), torch.randint(classes, (rows,), generator=generator)


def log_probabilities(logits):
    values = logits.double().numpy()
    highest = values.max(axis=1, keepdims=True)
    return values - highest - np.log(np.exp(values - highest).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 7, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_against_numpy_and_scikit_learn(classes, dtype):
    logits, labels = random_scores(classes, dtype)
    measured = per_image(logits, labels)
    assert measured.shape == (200, 3)
    assert measured.dtype == torch.float64
    logs = log_probabilities(logits)
    rows = np.arange(200)
    np.testing.assert_allclose(measured[:, 0], -logs[rows, labels], rtol=2e-6, atol=2e-6)
    loss, top1, top5 = measured.mean(dim=0).tolist()
    every = range(classes)
    assert loss == pytest.approx(log_loss(labels, np.exp(logs), labels=every), rel=1e-6)
    if dtype != torch.float32:
        return  # coarse scores tie, which scikit-learn breaks by position and normhpc counts as wrong
    scores = np.exp(logs) if classes > 2 else logs[:, 1] - logs[:, 0]
    threshold = {"y_score": scores > 0} if classes == 2 else {"y_score": scores}
    if classes == 2:
        assert top1 == float((threshold["y_score"] == labels.numpy()).mean())
        assert top5 == 1.0
    else:
        assert top1 == pytest.approx(top_k_accuracy_score(labels, scores, k=1, labels=every))
        assert top5 == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=every))


def test_ties_count_as_wrong():
    labels = torch.tensor([0, 1, 2, 2])
    logits = torch.zeros(4, 8)
    assert per_image(logits, labels)[:, 1:].tolist() == [[0, 0]] * 4
    logits[0, 0] = 1  # alone at the top
    logits[1, 1] = logits[1, 7] = 1  # shares the top with one
    logits[2, 2:7] = 1  # one of five at the top
    logits[3, 2:8] = 1  # one of six at the top
    assert per_image(logits, labels)[:, 1:].tolist() == [[1, 1], [0, 1], [0, 1], [0, 0]]


def test_what_is_no_number_counts_as_wrong():
    logits = torch.zeros(3, 8)
    logits[:, 3] = 1
    labels = torch.tensor([3, 3, 3])
    logits[0] = torch.nan
    logits[1, :5] = torch.nan  # its own score among them
    logits[2, 0] = torch.nan  # of another class: that one beats it
    measured = per_image(logits, labels)
    assert torch.isnan(measured[:, 0]).all()
    assert measured[:, 1:].tolist() == [[0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing(smoothing):
    logits, labels = random_scores(7)
    logs = log_probabilities(logits)
    expected = -(1 - smoothing) * logs[np.arange(200), labels] - smoothing / 7 * logs.sum(axis=1)
    loss = CrossEntropy(label_smoothing=smoothing)
    singly = [summed_loss(logits[row : row + 1], labels[row : row + 1], loss) for row in range(200)]
    np.testing.assert_allclose(singly, expected, rtol=3e-6, atol=3e-6)
    np.testing.assert_allclose(summed_loss(logits, labels, loss), expected.sum(), rtol=1e-6)


def test_training_loss_is_in_fp32_whatever_the_network_computes_in():
    logits, labels = random_scores(7, torch.bfloat16)
    loss = summed_loss(logits, labels, CrossEntropy())
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(loss, -log_probabilities(logits)[np.arange(200), labels].sum(), rtol=1e-6)
