"""Losses and their gradients against float64 formulas, scikit-learn, torch and timm."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from timm.loss import AsymmetricLossMultiLabel

from normhpc.config.training import Asymmetric, BinaryCrossEntropy, CrossEntropy
from normhpc.train.losses import summed_loss


def random_scores(classes, dtype=torch.float32, rows=200):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(rows, classes, generator=generator)
    return logits.to(dtype), torch.randint(classes, (rows,), generator=generator)


def many_labels(classes, rows=200):
    return (torch.rand(rows, classes, generator=torch.Generator().manual_seed(1)) < 0.3).to(torch.uint8)


def soft_targets(classes, rows=200):
    """What mixing makes of single labels."""
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.eye(classes)[torch.randint(classes, (rows,), generator=generator)] for _ in range(2))
    share = torch.rand(rows, 1, generator=generator)
    return share * first + (1 - share) * second


def log_softmax(values):
    highest = values.max(axis=1, keepdims=True)
    return values - highest - np.log(np.exp(values - highest).sum(axis=1, keepdims=True))


def slope(function, values):
    """Central differences of a function that is a sum over all elements of its own, in float64."""
    step = 1e-6
    return (function(values + step) - function(values - step)) / (2 * step)


def loss_and_gradient(logits, targets, loss):
    logits = logits.clone().requires_grad_()
    value = summed_loss(logits, targets, loss)
    value.backward()
    return value, logits.grad


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_of_labels(smoothing):
    logits, labels = random_scores(7)
    values = logits.double().numpy()
    logs = log_softmax(values)
    expected = -(1 - smoothing) * logs[np.arange(200), labels] - smoothing / 7 * logs.sum(axis=1)
    loss = CrossEntropy(label_smoothing=smoothing)
    singly = [summed_loss(logits[row : row + 1], labels[row : row + 1], loss) for row in range(200)]
    np.testing.assert_allclose(singly, expected, rtol=3e-6, atol=3e-6)
    value, gradient = loss_and_gradient(logits, labels, loss)
    np.testing.assert_allclose(value.item(), expected.sum(), rtol=1e-6)
    smoothed = (1 - smoothing) * np.eye(7)[labels] + smoothing / 7
    np.testing.assert_allclose(gradient, np.exp(logs) - smoothed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_of_weights(smoothing):
    logits, _ = random_scores(7)
    targets = soft_targets(7)
    logs = log_softmax(logits.double().numpy())
    smoothed = (1 - smoothing) * targets.double().numpy() + smoothing / 7
    value, gradient = loss_and_gradient(logits, targets, CrossEntropy(label_smoothing=smoothing))
    np.testing.assert_allclose(value.item(), -(smoothed * logs).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.exp(logs) - smoothed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [CrossEntropy(label_smoothing=0.1), BinaryCrossEntropy(), Asymmetric()], ids=str)
@pytest.mark.parametrize("outputs", [7, 9])
def test_labels_are_weights_of_one(loss, outputs):
    """Also for a network with more outputs than the images have labels."""
    logits, _ = random_scores(outputs)
    labels = random_scores(7)[1]
    hard, hard_gradient = loss_and_gradient(logits, labels, loss)
    soft, soft_gradient = loss_and_gradient(logits, torch.eye(7)[labels], loss)
    torch.testing.assert_close(soft, hard, rtol=1e-6, atol=0)
    torch.testing.assert_close(soft_gradient, hard_gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", ["one", "many", "mixed"])
def test_binary_cross_entropy(smoothing, kind):
    logits, labels = random_scores(7)
    targets = {"one": labels, "many": many_labels(7), "mixed": soft_targets(7)}[kind]
    weights = (torch.eye(7)[labels] if kind == "one" else targets).double().numpy()
    smoothed = (1 - smoothing) * weights + smoothing / 2
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = -(smoothed * np.log(p) + (1 - smoothed) * np.log1p(-p)).mean(axis=1)
    value, gradient = loss_and_gradient(logits, targets, BinaryCrossEntropy(label_smoothing=smoothing))
    np.testing.assert_allclose(value.item(), expected.sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, (p - smoothed) / 7, rtol=1e-4, atol=1e-7)
    if kind == "many" and smoothing == 0:
        by_class = [log_loss(weights[:, column], p[:, column], labels=[0, 1]) for column in range(7)]
        assert value.item() / 200 == pytest.approx(np.mean(by_class), rel=1e-6)


ASYMMETRIC = [
    Asymmetric(),
    Asymmetric(gamma_positive=1.0, gamma_negative=4.0, margin=0.05),
    Asymmetric(gamma_positive=2.0, gamma_negative=2.0, margin=0.0),
    Asymmetric(gamma_positive=0.5, gamma_negative=0.5, margin=0.2),
    Asymmetric(gamma_positive=0.5, gamma_negative=0.5, margin=0.0),
    Asymmetric(gamma_positive=0.0, gamma_negative=0.0, margin=0.0),
    Asymmetric(gamma_positive=0.0, gamma_negative=0.0, margin=0.1),
]


def asymmetric_formula(x, y, loss):
    """Equations 4, 5 and 7 of Ben-Baruch et al. 2021, for each image and label."""
    p = 1 / (1 + np.exp(-x))
    rest = 1 / (1 + np.exp(x))
    shifted = np.maximum(p - loss.margin, 0)
    positive = rest**loss.gamma_positive * np.log(p)
    log_rest = np.log(rest) if loss.margin == 0 else np.log1p(-shifted)
    return -(y * positive + (1 - y) * shifted**loss.gamma_negative * log_rest)


@pytest.mark.parametrize("loss", ASYMMETRIC, ids=str)
@pytest.mark.parametrize("kind", ["one", "many", "mixed"])
def test_asymmetric_loss(loss, kind):
    logits, labels = random_scores(7)
    targets = {"one": labels, "many": many_labels(7), "mixed": soft_targets(7)}[kind]
    weights = (torch.eye(7)[labels] if kind == "one" else targets).double().numpy()
    values = logits.double().numpy()
    value, gradient = loss_and_gradient(logits, targets, loss)
    np.testing.assert_allclose(value.item(), asymmetric_formula(values, weights, loss).sum() / 7, rtol=2e-6)
    expected = slope(lambda x: asymmetric_formula(x, weights, loss), values) / 7
    np.testing.assert_allclose(gradient, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("loss", ASYMMETRIC, ids=str)
def test_asymmetric_loss_is_the_authors(loss):
    """As timm has it, which divides by nothing under ``sum``; logits at which its floor of 1e-8 is not reached."""
    logits, labels = random_scores(7)[0], many_labels(7)
    theirs = AsymmetricLossMultiLabel(loss.gamma_negative, loss.gamma_positive, loss.margin, reduction="sum")
    value, gradient = loss_and_gradient(logits, labels, loss)
    copy = logits.double().requires_grad_()
    expected = theirs.double()(copy.double(), labels)
    assert value.item() == pytest.approx(expected.item() / 7, rel=1e-5)
    expected.backward()
    finite = copy.grad.isfinite()  # theirs has none where p = 0 to a power below 1
    assert finite.any()
    torch.testing.assert_close(gradient[finite].double(), copy.grad[finite] / 7, rtol=2e-3, atol=1e-5)


def test_without_focus_and_margin_the_asymmetric_loss_is_binary_cross_entropy():
    logits, labels = 20 * random_scores(7)[0], many_labels(7)
    plain = Asymmetric(gamma_positive=0.0, gamma_negative=0.0, margin=0.0)
    for found, expected in zip(
        loss_and_gradient(logits, labels, plain), loss_and_gradient(logits, labels, BinaryCrossEntropy()), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("loss", [BinaryCrossEntropy(), *ASYMMETRIC], ids=str)
def test_extreme_logits_have_a_finite_loss_and_gradient(loss):
    logits = torch.tensor([[-1e4, -200.0, -20.0, 0.0, 20.0, 200.0, 1e4]]).T
    for label in (0, 1):
        value, gradient = loss_and_gradient(logits, torch.full((7, 1), label, dtype=torch.uint8), loss)
        assert value.isfinite()
        assert gradient.isfinite().all()
    # the authors' floor would leave this positive label, as wrong as can be, without a gradient
    assert gradient[0] == pytest.approx(-1.0)


@pytest.mark.parametrize("loss", [CrossEntropy(), BinaryCrossEntropy(), Asymmetric()], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_loss_is_in_fp32_whatever_the_network_computes_in(loss, dtype):
    logits, labels = random_scores(7, dtype)
    value = summed_loss(logits, labels, loss)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, summed_loss(logits.float(), labels, loss), rtol=0, atol=0)


@pytest.mark.parametrize("loss", [CrossEntropy(label_smoothing=0.1), BinaryCrossEntropy(), Asymmetric()], ids=str)
@pytest.mark.parametrize("targets", [random_scores(7)[1], soft_targets(7)], ids=["labels", "weights"])
def test_parts_of_a_batch_add_up(loss, targets):
    logits, _ = random_scores(7)
    parts = [summed_loss(logits[cut], targets[cut], loss) for cut in (slice(0, 3), slice(3, 3), slice(3, 200))]
    assert sum(part.item() for part in parts) == pytest.approx(summed_loss(logits, targets, loss).item(), rel=1e-6)
