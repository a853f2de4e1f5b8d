"""What is minimized, summed over images so that any cut of a batch into parts adds up."""

import torch
import torch.nn.functional as F
from torch import Tensor

from normhpc.config.training import Asymmetric, BinaryCrossEntropy, CrossEntropy, LossConfig


def summed_loss(logits: Tensor, targets: Tensor, loss: LossConfig) -> Tensor:
    """The training loss summed over images, () in fp32.

    ``logits`` are (N, K); ``targets`` are labels (N,) int64, or (N, K) weights of every label: 0 and 1 where an image
    has several, in between where images are mixed. Fewer than K columns leave the network's last outputs without a
    label. Losses of many labels are the mean over all K outputs; an image of one label has 0 for every other.
    """
    logits = logits.float()
    if isinstance(loss, CrossEntropy):
        return cross_entropy(logits, targets, loss)
    weights = _weights(targets, logits)
    if isinstance(loss, BinaryCrossEntropy):
        weights = (1 - loss.label_smoothing) * weights + loss.label_smoothing / 2
        each = F.binary_cross_entropy_with_logits(logits, weights, reduction="none")
    else:
        each = asymmetric(logits, weights, loss)
    return each.mean(dim=1).sum()


def cross_entropy(logits: Tensor, targets: Tensor, loss: CrossEntropy) -> Tensor:
    """-sum_k ((1 - s) t_k + s/K) log p_k summed over images, s the smoothing, t the targets, p the softmax."""
    if targets.ndim == 2:
        targets = _weights(targets, logits)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=loss.label_smoothing)


def asymmetric(logits: Tensor, targets: Tensor, loss: Asymmetric) -> Tensor:
    """(N, K): -t (1 - p)^g+ log p - (1 - t) p'^g- log(1 - p'), p = sigmoid(logit), p' = max(p - margin, 0).

    Ben-Baruch et al. 2021 (arXiv:2009.14119). Their code takes log(max(p, 1e-8)), and so stops learning from a positive
    label whose logit is below -18.4; here log p is the log-sigmoid, which has no such floor, and 1 - p and, without a
    margin, p are its exponentials, exact where p rounds to 1. They differ too where t is between 0 and 1: here the loss
    is linear in t, as that of the images a mixture is made of.
    """
    log_p, log_rest = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = torch.exp(loss.gamma_positive * log_rest) * log_p
    if loss.margin == 0:
        negative = torch.exp(loss.gamma_negative * log_p) * log_rest
    else:
        shifted = torch.exp(log_p) - loss.margin
        costs = shifted > 0
        # any other value than 0, at which powers below 1 have an infinite slope; it is not used
        shifted = torch.where(costs, shifted, 0.5)
        negative = torch.where(costs, shifted**loss.gamma_negative * torch.log1p(-shifted), 0.0)
    return -(targets * positive + (1 - targets) * negative)


def _weights(targets: Tensor, logits: Tensor) -> Tensor:
    """Targets as floats of the shape of ``logits``: labels one-hot, and 0 for outputs that no label belongs to."""
    outputs = logits.shape[1]
    if targets.ndim == 1:
        return (targets.unsqueeze(1) == torch.arange(outputs, device=targets.device)).to(logits.dtype)
    return F.pad(targets, (0, outputs - targets.shape[1])).to(logits.dtype)
