"""Loss and accuracy of every image on its own, so that sums over ranks and batches are exact."""

import torch
import torch.nn.functional as F
from torch import Tensor

from normhpc.config.training import LossConfig

MEASURES = ("loss", "top1", "top5")
"""Columns of :func:`per_image`."""


def summed_loss(logits: Tensor, labels: Tensor, loss: LossConfig) -> Tensor:
    """The training loss summed over images: logits (N, K), labels (N,) -> () in fp32.

    Cross entropy with smoothing s, of each image: -(1 - s) log p_y - s/K sum_k log p_k.
    """
    return F.cross_entropy(logits.float(), labels, reduction="sum", label_smoothing=loss.label_smoothing)


def per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """(N, 3) in float64: cross entropy without smoothing, 1 if the label is the top class, 1 if among the top five.

    An image counts as right when fewer than k other classes score at least as much as its label does (ties count
    against it), so a network whose logits are all equal or NaN is right on none.
    """
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    of_label = logits.gather(1, labels[:, None])
    # NaN compares false: counted as a class that beats the label
    rivals = (~(logits < of_label)).sum(dim=1) - 1
    columns = [loss.double(), (rivals < 1).double(), (rivals < 5).double()]
    return torch.stack(columns, dim=1)
