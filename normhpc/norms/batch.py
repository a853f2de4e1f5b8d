"""Norms over the batch, with the statistics of this rank's images or of all ranks'."""

from abc import abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from normhpc.config import norm as configs
from normhpc.config.norm.base import Scope
from normhpc.errors import InputError
from normhpc.norms.lean import Formula, Gradient, over_batch, per_image, planewise
from normhpc.norms.moments import (
    Moments,
    batch_moments,
    column,
    constant_moments,
    follow,
    refuse_one_value,
    several_ranks,
)
from normhpc.norms.slot import Norm, ParamSpec
from normhpc.norms.stacked import batch_norm_in_training
from normhpc.norms.sync import batch_norm_by
from normhpc.norms.tracing import by_operations, in_transform, moved_in_place


class RunningStatistics(Norm):
    """A norm that evaluates with running statistics: ``running_mean`` and ``running_var``, (C,), from 0 and 1.

    Both are kept even where a formula reads one of them: ranks that normalize by their own images need both to say
    what their statistics are together. weight and bias have shape (C,) and start at 1 and 0. With ``sync`` and more
    than one rank, batch and running statistics are those of all ranks' images together, whatever the ranks' shares.
    Training on one value per channel raises :class:`~normhpc.errors.InputError`. In a transform of ``torch.func`` the
    running statistics must be among the tensors given to it, stacked where parameters or images are: they are moved in
    place.
    """

    scope: Scope = "batch"
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, config: configs.BatchStatistics, num_features: int, act: str) -> None:
        super().__init__(num_features, act)
        self.eps = config.eps
        self.momentum = config.momentum
        self.sync = config.sync
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics by ``momentum`` towards those of a batch."""
        follow(self.running_mean, self.running_var, mean, variance, self.momentum)

    def by_own_moments(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x normalized by its own moments, with weight and bias, and its mean and unbiased variance (C,)."""
        if in_transform():
            # Under vmap torch's kernel may move copies of the statistics that it is given.
            moments = batch_moments(x, sync=False)
            y = F.batch_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
            return y, moments.mean, moments.unbiased
        # With momentum 1 torch's kernel leaves the batch's own mean and unbiased variance in its running ones.
        mean, unbiased = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        return F.batch_norm(x, mean, unbiased, self.weight, self.bias, True, 1.0, self.eps), mean, unbiased

    def local_statistics(self) -> tuple[str, ...]:
        """The running statistics, unless all ranks keep the same."""
        return () if self.sync else ("running_mean", "running_var")

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, eps={self.eps:g}, momentum={self.momentum:g}, sync={self.sync}"


class Batch(RunningStatistics):
    """y = act((x - m) / sqrt(v + eps) * weight + bias), m and v per channel over the batch and all positions.

    Training normalizes by the biased variance of the batch and moves ``running_mean`` and ``running_var`` by
    ``momentum`` towards the mean and the unbiased variance; evaluation normalizes by those. Ioffe and Szegedy 2015,
    arXiv:1502.03167. State and numbers are those of ``nn.BatchNorm2d``; with ``sync`` those of ``nn.SyncBatchNorm``,
    but also on CPUs.

    ``running`` names other conventions: ``biased`` follows the biased variance; ``biased_from_one`` does and starts
    the mean at 1 (BeyondBatchNorm); ``biased_corrected`` does and multiplies by m / (m - 1) in evaluation, m being
    the values per channel of the evaluated batch (Normalizations-in-Deep-Learning).
    """

    num_batches_tracked: Tensor

    def __init__(self, config: configs.BatchNorm, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.running = config.running
        # Never read; kept so that states of nn.BatchNorm2d load and are loaded without exceptions.
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        if self.running == "biased_from_one":
            self.running_mean.fill_(1)

    def normalize(self, x: Tensor) -> Tensor:
        """torch's kernel, or :func:`~normhpc.norms.sync.batch_norm_by` where ranks must agree."""
        if not self.training:
            variance = self._evaluated_variance(x)
            return F.batch_norm(x, self.running_mean, variance, self.weight, self.bias, False, 0.0, self.eps)
        if self.sync and several_ranks():
            moments = batch_moments(x, sync=True)
            self.num_batches_tracked.add_(1)
            self.follow(moments.mean, moments.unbiased if self.running == "unbiased" else moments.variance)
            return batch_norm_by(x, moments, self.weight, self.bias, self.eps)
        refuse_one_value(x, sync=self.sync)
        self.num_batches_tracked.add_(1)
        if self.running == "unbiased" and moved_in_place(self.running_mean, self.running_var):
            return batch_norm_in_training(
                x, self.running_mean, self.running_var, self.weight, self.bias, self.momentum, self.eps
            )
        y, mean, unbiased = self.by_own_moments(x)
        count = x.numel() // x.shape[1]
        self.follow(mean, unbiased if self.running == "unbiased" else unbiased * ((count - 1) / count))
        return y

    def _evaluated_variance(self, x: Tensor) -> Tensor:
        if self.running != "biased_corrected":
            return self.running_var
        refuse_one_value(x, sync=self.sync)
        count = x.numel() // x.shape[1]
        return self.running_var * (count / (count - 1))


class GhostBatch(RunningStatistics):
    """Batch norm of each stretch of ``ghost_size`` images on its own; the last stretch may be shorter.

    Running statistics move once a pass, towards the means over stretches, weighted by their images, of mean and
    unbiased variance. Hoffer et al. 2017, arXiv:1705.08741.
    """

    def __init__(self, config: configs.GhostBatchNorm, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.ghost_size = config.ghost_size

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        ghosts = []
        for ghost in torch.split(x, self.ghost_size):
            if ghost.numel() <= ghost.shape[1]:
                raise self._one_value_error(ghost)
            y, own_mean, own_variance = self.by_own_moments(ghost)
            ghosts.append(y)
            share = ghost.shape[0] / x.shape[0]
            mean += own_mean * share
            variance += own_variance * share
        self.follow(mean, variance)
        return torch.cat(ghosts)

    def _one_value_error(self, ghost: Tensor) -> InputError:
        return InputError(
            f"norm: batch norm over a ghost with one value per channel is always 0 (ghost {tuple(ghost.shape)}, "
            f"norm.ghost_size {self.ghost_size}); choose batch_size and norm.ghost_size so that no rank has a single "
            "image left over, or use larger images or another norm"
        )

    def images_per_statistic(self, images: int) -> set[int]:
        """Those of a ghost, and what is left over for the last."""
        return {min(self.ghost_size, images - start) for start in range(0, images, self.ghost_size)}

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, ghost_size={self.ghost_size}"


class BatchRenorm(RunningStatistics):
    """y = act(((x - m) / s * r + d) * weight + bias), s = sqrt(v + eps); r and d move it to the running statistics.

    r = s / running s, clipped to [1 / r_max, r_max], and d = (m - running m) / running s, clipped to [-d_max, d_max],
    are constants of the gradient. Their limits rise from 1 and 0 over the first ``warmup_steps`` training passes,
    counted in ``steps``. Ioffe 2017, arXiv:1702.03275. Activation checkpointing computes its corrections anew, from
    statistics that have moved: not for this layer.
    """

    steps: Tensor

    def __init__(self, config: configs.BatchRenorm, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.r_max = config.r_max
        self.d_max = config.d_max
        self.warmup_steps = config.warmup_steps
        self.register_buffer("steps", torch.tensor(0))

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        moments = constant_moments(x, sync=self.sync)
        r, d = self._corrections(moments)
        self.steps.add_(1)
        self.follow(moments.mean, moments.unbiased)
        weight, bias = self.weight * r, self.weight * d + self.bias
        if moments.synchronized and by_operations():
            # Not those of r, which a compiler would then make anew in the backward pass, from moments that it keeps in
            # any case and from running statistics that have moved.
            moments = batch_moments(x, sync=True)
        return batch_norm_by(x, moments, weight, bias, self.eps)

    @torch.no_grad()
    def _corrections(self, moments: Moments) -> tuple[Tensor, Tensor]:
        progress = (
            (self.steps.to(torch.promote_types(self.bias.dtype, torch.float32)) / self.warmup_steps).clamp(max=1.0)
            if self.warmup_steps
            else torch.ones_like(self.bias[0])
        )
        r_max, d_max = 1 + (self.r_max - 1) * progress, self.d_max * progress
        running = (self.running_var + self.eps).sqrt()
        r = (moments.variance + self.eps).sqrt().to(running.dtype) / running
        d = (moments.mean.to(running.dtype) - self.running_mean) / running
        # detached for forward derivatives, which no_grad lets pass
        return torch.clamp(r, 1 / r_max, r_max).detach(), torch.clamp(d, -d_max, d_max).detach()

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{super().extra_repr()}, r_max={self.r_max:g}, d_max={self.d_max:g}, warmup_steps={self.warmup_steps}"


class BatchFormula(RunningStatistics):
    """A norm given by one formula of x and the mean and variance of the batch.

    Keeps x alone for the backward pass. Training uses the biased variance of the batch.
    """

    follows_unbiased: bool = True
    """Whether ``running_var`` follows the unbiased variance of the batches, otherwise the biased one."""

    @abstractmethod
    def formula(self) -> tuple[Formula, Gradient]:
        """y of (x, mean, variance, weight, bias, *arguments), all but x of shape (C,) or as the layer has them."""

    def arguments(self) -> tuple[Tensor, ...]:
        """The parameters after weight and bias."""
        return ()

    def normalize(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        parameters = (self.weight, self.bias, *self.arguments())
        formula, gradient = self.formula()
        if self.training:
            moments = batch_moments(x, sync=self.sync)
            self.follow(moments.mean, moments.unbiased if self.follows_unbiased else moments.variance)
            return over_batch(formula, x, moments, *parameters, gradient=gradient)
        # copies, which training may move while this pass waits for its backward pass
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return per_image(formula, x, mean, variance, *parameters, gradient=gradient)


class Plane(NamedTuple):
    """Mean and biased variance of each plane, (N, C, 1, 1)."""

    mean: Tensor
    variance: Tensor


class PlanewiseBatch(BatchFormula):
    """A :class:`BatchFormula` that maps each plane by scale and level."""

    @abstractmethod
    def coefficients(
        self, plane: Plane, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scale and level, (N, C, 1, 1), of (x - plane.mean) * scale + level; everything else is (1, C, 1, 1)."""

    def formula(self) -> tuple[Formula, Gradient]:
        """By :meth:`coefficients`."""
        return planewise(self._coefficients)

    def _coefficients(self, mean: Tensor, variance: Tensor, *of_channels: Tensor) -> tuple[Tensor, Tensor]:
        of_batch, rest = of_channels[:4], of_channels[4:]
        return self.coefficients(Plane(mean, variance), *map(column, of_batch), *rest)


class Variance(PlanewiseBatch):
    """y = act(x / sqrt(v + eps) * weight + bias), v the variance over the batch and positions; x is not centred.

    Daneshmand et al. 2020, arXiv:2003.01652.
    """

    def __init__(self, config: configs.VarianceNorm, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.follows_unbiased = config.running == "unbiased"

    def coefficients(
        self, plane: Plane, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in the class."""
        scale = (variance + self.eps).rsqrt() * weight
        return scale, plane.mean * scale + bias


class MeanCentring(PlanewiseBatch):
    """y = act((x - m) * weight + bias), m the mean over the batch and positions: batch norm without its division."""

    def coefficients(
        self, plane: Plane, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in the class."""
        return weight, (plane.mean - mean) * weight + bias


class BatchInstance(PlanewiseBatch):
    """y = act((gate B(x) + (1 - gate) I(x)) * weight + bias), B batch and I instance normalization, gate in [0, 1] (C,).

    The gate learns at ``gate_lr_factor`` times the learning rate and is put back into [0, 1] after every step, not in
    the forward pass, where it would stick at its bounds. Nam and Kim 2018, arXiv:1805.07925.
    """

    gate: Tensor

    def __init__(self, config: configs.BatchInstanceNorm, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.gate_lr_factor = config.gate_lr_factor
        gate = torch.full((num_features,), config.gate_init)
        if config.train_gate:
            self.gate = nn.Parameter(gate)
        else:
            self.register_buffer("gate", gate)

    def arguments(self) -> tuple[Tensor, ...]:
        """The gate."""
        return (self.gate,)

    def param_specs(self) -> dict[str, ParamSpec]:
        """The gate learns faster and within its bounds."""
        gate = ParamSpec(lr_factor=self.gate_lr_factor, bounds=(0.0, 1.0))
        return {name: gate if name == "gate" else spec for name, spec in super().param_specs().items()}

    def coefficients(
        self, plane: Plane, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in the class."""
        gate = column(rest[0])
        by_batch = gate * (variance + self.eps).rsqrt()
        by_instance = (1 - gate) * (plane.variance + self.eps).rsqrt()
        return (by_batch + by_instance) * weight, (plane.mean - mean) * by_batch * weight + bias


class Switchable(PlanewiseBatch):
    """y = act((x - sum_k w_k m_k) / sqrt(sum_k w'_k v_k + eps) * weight + bias), k: instance, layer, batch.

    w and w' are the softmax of ``mean_weight`` and ``var_weight``, (3,), starting at 1: the network selects its norm
    by gradient. Luo et al. 2019, arXiv:1806.10779. Variances are biased, running statistics follow torch's rule.
    """

    def __init__(self, config: configs.SwitchableNorm, num_features: int, act: str) -> None:
        super().__init__(config, num_features, act)
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))

    def arguments(self) -> tuple[Tensor, ...]:
        """The logits of the selection."""
        return self.mean_weight, self.var_weight

    def coefficients(
        self, plane: Plane, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in the class."""
        of_means, of_variances = (logits.softmax(0) for logits in rest)
        layer_mean = plane.mean.mean(1, keepdim=True)
        layer_var = (plane.variance + (plane.mean - layer_mean).square()).mean(1, keepdim=True)
        mixed_mean = of_means[0] * plane.mean + of_means[1] * layer_mean + of_means[2] * mean
        mixed_var = of_variances[0] * plane.variance + of_variances[1] * layer_var + of_variances[2] * variance
        scale = (mixed_var + self.eps).rsqrt() * weight
        return scale, (plane.mean - mixed_mean) * scale + bias
