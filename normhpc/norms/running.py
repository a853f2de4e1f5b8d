"""Running statistics that ranks keep apart, and what they are together."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from normhpc.norms.slot import Norm


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of all batch norms in ``module`` that follow only this rank's images, by qualified name.

    They are the buffers themselves, not copies: ``copy_`` into them swaps statistics in.
    """
    return {
        f"{prefix}.{name}" if prefix else name: slot.get_buffer(name)
        for prefix, slot in module.named_modules()
        for name in _local_statistics(slot)
    }


def _local_statistics(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, Norm):
        return module.local_statistics()
    # a foreign network that keeps its own norms
    tracks = isinstance(module, _BatchNorm) and module.running_mean is not None
    return ("running_mean", "running_var") if tracks else ()


def pooled_statistics(stacked: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """What the ranks' :func:`running_statistics`, stacked as (R, C) under their names, are together: (C,) each.

    ``weights`` (R,) are the images of each rank; see :func:`merged_running_statistics`.
    """
    pooled: dict[str, Tensor] = {}
    for slot in sorted({name.rpartition(".")[0] for name in stacked}):
        prefix = f"{slot}." if slot else ""
        mean, variance = f"{prefix}running_mean", f"{prefix}running_var"
        pooled[mean], pooled[variance] = merged_running_statistics(stacked[mean], stacked[variance], weights)
    return pooled


def merged_running_statistics(means: Tensor, variances: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of the images of all ranks together, from each rank's (R, C) and its weight (R,).

    With weights w that sum to 1: mean = sum w m, variance = sum w v + sum w (m - mean)^2, the second term being
    the spread of the ranks' means, which an average of variances forgets. Computed in float64.
    """
    shares = (weights.double() / weights.double().sum()).unsqueeze(1)
    mean = (shares * means.double()).sum(0)
    variance = (shares * (variances.double() + (means.double() - mean).square())).sum(0)
    return mean.to(means.dtype), variance.to(variances.dtype)
