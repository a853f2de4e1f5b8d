"""Layers of torch and timm, and what they are called here."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import evo_norm
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from timm.layers.grn import GlobalResponseNorm
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional

from normhpc.config import norm as configs

CHANNELS = 6


@dataclass(frozen=True)
class Other:
    """``layer()`` computes for six channels what ``config`` with ``act`` does."""

    config: configs.NormPart
    act: str
    layer: Callable[[], nn.Module]
    names: dict[str, str] = field(default_factory=dict)
    """The other's parameters and buffers, by the names they have here, where these differ."""

    def __str__(self) -> str:
        return f"{self.config!r} {self.act} {self.layer().__class__.__name__}"


class OverChannels(nn.Module):
    """A function of the last dimension, with weight and bias, of the vector of channels at each position."""

    def __init__(self, normalize: Callable[..., Tensor], eps: float, bias: bool = True) -> None:
        super().__init__()
        self.normalize, self.eps = normalize, eps
        self.weight = nn.Parameter(torch.ones(CHANNELS))
        self.bias = nn.Parameter(torch.zeros(CHANNELS)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        parameters = [self.weight] if self.bias is None else [self.weight, self.bias]
        return self.normalize(x.movedim(1, -1), (CHANNELS,), *parameters, eps=self.eps).movedim(-1, 1)


class OverImage(nn.Module):
    """torch's layer norm over a whole image, with weight and bias per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(CHANNELS)), nn.Parameter(torch.zeros(CHANNELS))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.layer_norm(x, x.shape[1:])
        return y * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


class BatchInstance(nn.BatchNorm2d):
    """The authors' form: torch's two norms with the gate in their weights."""

    def __init__(self) -> None:
        super().__init__(CHANNELS)
        self.gate = nn.Parameter(torch.full((CHANNELS,), 0.3))

    def forward(self, x: Tensor) -> Tensor:
        running = (self.running_mean, self.running_var)
        gated = functional.batch_norm(x, *running, self.weight * self.gate, self.bias, self.training, 0.1, self.eps)
        return gated + functional.instance_norm(x, weight=self.weight * (1 - self.gate), eps=self.eps)


class Stretches(nn.BatchNorm2d):
    """torch's batch norm of two images after the other; with a momentum of 1 / 2 and two stretches the same average."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        parts = [functional.batch_norm(part, None, None, self.weight, self.bias, True) for part in x.split(2)]
        with torch.no_grad():
            means = torch.stack([part.mean((0, 2, 3)) for part in x.split(2)]).mean(0)
            variances = torch.stack([part.var((0, 2, 3)) for part in x.split(2)]).mean(0)
            self.running_mean.lerp_(means, self.momentum)
            self.running_var.lerp_(variances, self.momentum)
        return torch.cat(parts)


class Tanh(nn.Module):
    """The layer of jiachenzhu/DyT."""

    def __init__(self, function: Callable[[Tensor], Tensor], shift: bool) -> None:
        super().__init__()
        self.function = function
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.shift = nn.Parameter(torch.tensor(0.0)) if shift else None
        self.weight, self.bias = nn.Parameter(torch.ones(CHANNELS, 1, 1)), nn.Parameter(torch.zeros(CHANNELS, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        z = self.alpha * x
        return self.function(z if self.shift is None else z + self.shift) * self.weight + self.bias


def timm_evonorm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(evo_norm, f"EvoNorm2d{name}")(CHANNELS, **options)


TAU = {"threshold": "tau"}

OTHERS: list[Other] = [
    Other(configs.NoNorm(), "none", nn.Identity),
    Other(configs.NoNorm(), "relu", nn.ReLU),
    Other(configs.BatchNorm(), "none", lambda: nn.BatchNorm2d(CHANNELS)),
    Other(configs.BatchNorm(eps=0.1, momentum=0.3), "none", lambda: nn.BatchNorm2d(CHANNELS, eps=0.1, momentum=0.3)),
    Other(configs.GhostBatchNorm(ghost_size=4), "none", lambda: nn.BatchNorm2d(CHANNELS)),
    Other(configs.GhostBatchNorm(ghost_size=2), "none", lambda: Stretches(CHANNELS)),
    Other(configs.BatchRenorm(), "none", lambda: nn.BatchNorm2d(CHANNELS)),  # as its first pass is
    Other(configs.BatchInstanceNorm(gate_init=0.3), "none", BatchInstance),
    Other(configs.LayerNorm(), "none", lambda: nn.GroupNorm(1, CHANNELS)),
    Other(configs.LayerNorm(), "none", OverImage),
    Other(configs.LayerPixelNorm(), "none", lambda: OverChannels(functional.layer_norm, 1e-6)),
    Other(configs.LayerPixelNorm(eps=1e-3), "none", lambda: LayerNorm2d(CHANNELS, eps=1e-3)),
    Other(configs.RmsNorm(), "none", lambda: OverChannels(functional.rms_norm, 1e-6, bias=False)),
    Other(configs.InstanceNorm(), "none", lambda: nn.InstanceNorm2d(CHANNELS, affine=True)),
    Other(configs.GroupNorm(groups=2), "none", lambda: nn.GroupNorm(2, CHANNELS)),
    Other(configs.GroupNorm(group_size=2, eps=0.1), "none", lambda: nn.GroupNorm(3, CHANNELS, eps=0.1)),
    Other(configs.GroupNorm(groups=4, indivisible="shrink"), "none", lambda: nn.GroupNorm(3, CHANNELS)),
    Other(configs.FilterResponseNorm(eps=1e-5), "relu", lambda: FilterResponseNormAct2d(CHANNELS)),
    Other(configs.FilterResponseNorm(eps=1e-5), "none", lambda: FilterResponseNormAct2d(CHANNELS, apply_act=False)),
    Other(configs.FilterResponseTlu(eps=1e-5), "relu", lambda: FilterResponseNormTlu2d(CHANNELS), TAU),
    Other(configs.FilterResponseTlu(eps=1e-5), "none", lambda: FilterResponseNormTlu2d(CHANNELS, apply_act=False)),
    Other(configs.GlobalResponseNorm(), "none", lambda: GlobalResponseNorm(CHANNELS, channels_last=False)),
    Other(configs.LocalResponseNorm(), "none", lambda: nn.LocalResponseNorm(5)),
    Other(
        configs.LocalResponseNorm(size=4, alpha=0.5, beta=1.3, k=2.0),
        "none",
        lambda: nn.LocalResponseNorm(4, alpha=0.5, beta=1.3, k=2.0),
    ),
    *(
        Other(config(eps=1e-3, running="unbiased"), "relu", timm_evonorm(name, eps=1e-3))
        for config, name in ((configs.EvoNormB0, "B0"), (configs.EvoNormB1, "B1"), (configs.EvoNormB2, "B2"))
    ),
    *(
        Other(config(), "none", timm_evonorm(name, apply_act=False))
        for config, name in ((configs.EvoNormB0, "B0"), (configs.EvoNormB1, "B1"), (configs.EvoNormB2, "B2"))
    ),
    *(
        Other(
            config(group_size=2, alone=alone), act, timm_evonorm(name, group_size=2, eps=1e-5, apply_act=act != "none")
        )
        for config, name in ((configs.EvoNormS0, "S0"), (configs.EvoNormS1, "S1"), (configs.EvoNormS2, "S2"))
        for name, alone in ((name, "affine"), (f"{name}a", "normalize"))
        for act in ("relu", "none")
    ),
    Other(configs.DynamicTanh(), "none", lambda: Tanh(torch.tanh, shift=False)),
    Other(configs.DynamicErf(), "none", lambda: Tanh(torch.erf, shift=True)),
    Other(configs.PointwiseShape(shape="linear_clip"), "none", lambda: Tanh(nn.Hardtanh(), shift=True)),
    Other(configs.Selu(), "relu", nn.SELU),
    Other(configs.Selu(), "none", nn.Identity),
]
