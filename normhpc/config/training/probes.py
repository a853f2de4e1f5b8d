"""What is measured inside the network while it trains."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from normhpc.config.base import Part, PositiveInt

Measure = Literal[
    "activation_variance",
    "activation_cosine",
    "activation_rank",
    "conv_std",
    "gradient_norm",
    "norm_mean",
    "norm_variance",
    "dead_channels",
]


Measures = Annotated[
    tuple[Measure, ...],
    Field(strict=False),
    AfterValidator(lambda given: tuple(name for name in get_args(Measure) if name in given)),
]
"""Each name once, in the order above: other spellings of the same choice are the same run."""

Quantiles = Annotated[
    # abs makes -0.0 the same value as 0.0
    tuple[Annotated[float, Field(ge=0, le=1), AfterValidator(abs)], ...],
    Field(strict=False),
    AfterValidator(lambda given: tuple(sorted(set(given)))),
]
"""Each number once, in ascending order, for the same reason."""


class NoProbes(Part):
    """Nothing is measured inside the network."""

    name: Literal["none"] = "none"


class LayerProbes(Part):
    """Numbers of every layer while it trains, kept in ``probes.h5``."""

    name: Literal["layers"] = "layers"
    every_steps: PositiveInt = 10
    """Optimizer steps between two measurements; every tenth costs a few hundredths of the time, every one a third."""
    measures: Measures = get_args(Measure)
    """What is measured; see :mod:`normhpc.train.probes` for the formulas. Not with ``model.compile``."""
    feature_quantiles: Quantiles = ()
    """Quantiles of the pooled features before the classifier over all ``val`` images, after each epoch."""
