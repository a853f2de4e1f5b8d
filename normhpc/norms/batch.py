"""Batch norm, with the statistics of this rank's images or of all ranks'."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config.norm import BatchNorm
from normhpc.norms.slot import Norm
from normhpc.norms.sync import one_value_error, synchronized, synchronized_batch_norm


class Batch(Norm):
    """y = act((x - m) / sqrt(v + eps) * weight + bias), m and v per channel over the batch and all positions.

    Training normalizes by the biased variance of the batch and moves ``running_mean`` and ``running_var`` by
    ``momentum`` towards the mean and the unbiased variance; evaluation normalizes by those. weight and bias
    have shape (C,) and start at 1 and 0. Ioffe and Szegedy 2015, arXiv:1502.03167. State and numbers are those
    of ``nn.BatchNorm2d``.

    With ``sync`` and more than one rank, m, v and the running statistics are those of all ranks' images
    together, whatever the ranks' shares (``nn.SyncBatchNorm``, but also on CPUs).

    Raises :class:`~normhpc.errors.InputError` when training sees one value per channel.
    """

    scope = "batch"
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, config: BatchNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.eps = config.eps
        self.momentum = config.momentum
        self.sync = config.sync
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        # Never read; kept so that states of nn.BatchNorm2d load and are loaded without exceptions.
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def normalize(self, x: Tensor) -> Tensor:
        """torch's kernel, or :func:`~normhpc.norms.sync.synchronized_batch_norm` where ranks must agree."""
        if self.training:
            self.num_batches_tracked.add_(1)
            if self.sync and synchronized():
                return synchronized_batch_norm(
                    x, self.running_mean, self.running_var, self.weight, self.bias, self.momentum, self.eps
                )
            if x.numel() == x.shape[1]:
                raise one_value_error(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def local_statistics(self) -> tuple[str, ...]:
        """The running statistics, unless all ranks keep the same."""
        return () if self.sync else ("running_mean", "running_var")

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, eps={self.eps:g}, momentum={self.momentum:g}, sync={self.sync}"
