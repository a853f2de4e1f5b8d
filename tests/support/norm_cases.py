"""The settings of every norm that the tests build, all of them for 4, 6 and 8 channels, and what builds them."""

from typing import Any

import numpy as np
import torch
from support import norm_formulas

from normhpc.config import norm as configs
from normhpc.norms import Norm, build

SPECS: list[configs.NormPart] = [
    configs.NoNorm(),
    configs.BatchNorm(),
    configs.BatchNorm(eps=0.1, momentum=0.3, sync=True),
    configs.BatchNorm(running="biased"),
    configs.BatchNorm(running="biased_from_one", momentum=0.3),
    configs.BatchNorm(running="biased_corrected", eps=1e-3),
    configs.GhostBatchNorm(),
    configs.GhostBatchNorm(ghost_size=2, momentum=0.3),
    configs.BatchRenorm(),
    configs.BatchRenorm(r_max=1.2, d_max=0.3, warmup_steps=4, momentum=0.3),
    configs.BatchRenorm(r_max=1.5, d_max=0.5, warmup_steps=0, momentum=0.01),
    configs.VarianceNorm(),
    configs.VarianceNorm(eps=0.1, running="biased"),
    configs.MeanCentring(),
    configs.MeanCentring(momentum=0.3),
    configs.BatchInstanceNorm(),
    configs.BatchInstanceNorm(gate_init=0.3, train_gate=False, eps=1e-3),
    configs.BatchInstanceNorm(gate_init=0.5, gate_lr_factor=2.0),
    configs.SwitchableNorm(),
    configs.SwitchableNorm(eps=1e-2, momentum=0.3),
    configs.EvoNormB0(),
    configs.EvoNormB0(eps=1e-2, running="unbiased", alone="normalize", momentum=0.3),
    configs.EvoNormB1(),
    configs.EvoNormB1(running="unbiased", alone="normalize"),
    configs.EvoNormB2(),
    configs.EvoNormB2(eps=1e-2, running="unbiased", alone="normalize"),
    configs.LayerNorm(),
    configs.LayerPixelNorm(),
    configs.LayerPixelNorm(eps=0.1),
    configs.RmsNorm(),
    configs.RmsNorm(eps=0.1),
    configs.InstanceNorm(),
    configs.InstanceNorm(eps=1e-3),
    configs.GroupNorm(groups=2),
    configs.GroupNorm(group_size=2, eps=1e-3),
    configs.GroupNorm(p_grouping=0.5, unbiased=True),
    configs.GroupNorm(groups=3, indivisible="shrink", unbiased=True, eps=0.1),
    configs.FilterResponseNorm(),
    configs.FilterResponseNorm(eps=0.1, learn_eps=True),
    configs.FilterResponseTlu(),
    configs.FilterResponseTlu(eps=0.1, learn_eps=True),
    configs.GlobalResponseNorm(),
    configs.GlobalResponseNorm(eps=0.5),
    configs.LocalResponseNorm(),
    configs.LocalResponseNorm(size=4, alpha=0.5, beta=1.3, k=2.0),
    configs.EvoNormS0(groups=2),
    configs.EvoNormS0(p_grouping=0.25, eps=1e-2, alone="normalize"),
    configs.EvoNormS1(groups=2),
    configs.EvoNormS1(group_size=2, eps=1e-3, alone="normalize"),
    configs.EvoNormS2(group_size=2),
    configs.EvoNormS2(groups=3, indivisible="shrink", alone="normalize"),
    configs.DynamicTanh(),
    configs.DynamicTanh(alpha=0.9),
    configs.DynamicErf(),
    configs.DynamicErf(alpha=0.9),
    configs.DynamicIsru(),
    configs.DynamicIsru(c=0.7),
    configs.PointwiseShape(),
    *(configs.PointwiseShape(shape=shape, alpha=0.7) for shape in norm_formulas.BOUNDED),
    configs.Selu(),
]

ELSEWHERE: dict[type[configs.NormPart], str] = {
    configs.FormulaNorm: "test_formula.py",
    configs.WeightNorm: "test_weight.py",
    configs.WeightStandardized: "test_weight.py",
    configs.ScaledWeightStandardized: "test_weight.py",
    configs.WeightCentering: "test_weight.py",
}
"""Where the values of norms are tested that are no formula of their own: what is written, and what is done to weights."""
WRITTEN = [
    configs.FormulaNorm(expr="x * sigmoid(v * x) / std(x, 'group')", groups=2, owns_act=True),
    configs.FormulaNorm(expr="x / max(std(x, 'batch'), v * x + std(x, 'instance'))", momentum=0.3),
]

ONE_OF_EACH = list({type(spec): spec for spec in reversed(SPECS)}.values())[::-1]
OF_BATCHES = [spec for spec in SPECS if isinstance(spec, configs.BatchStatistics)]
ALWAYS_BIAS_OVER_ONE_VALUE = (
    configs.BatchNorm,
    configs.GhostBatchNorm,
    configs.BatchRenorm,
    configs.VarianceNorm,
    configs.MeanCentring,
)


def example(spec: Any, channels: int, act: str, seed: int = 0) -> Norm:
    """A slot in float64 whose parameters and running statistics are not those it starts with."""
    generator = torch.Generator().manual_seed(seed)
    slot = build(spec, channels, act).double()
    for parameter in slot.parameters():
        torch.nn.init.normal_(parameter, mean=0.5, generator=generator)
    for name, buffer in slot.named_buffers():
        if name == "running_mean":
            buffer.normal_(generator=generator)
        if name == "running_var":
            buffer.uniform_(0.5, 3, generator=generator)
        if name == "steps":
            buffer.fill_(3)
    return slot


def values_of(slot: Norm) -> norm_formulas.Values:
    """Parameters and buffers by name, as the formulas take them; copied."""
    return {name: np.array(value.detach().double().numpy()) for name, value in slot.state_dict().items()}
