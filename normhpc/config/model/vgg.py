"""Deep plain networks: BeyondBatchNorm's VGGs."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from normhpc.config.base import PositiveInt
from normhpc.config.model.base import ModelPart

_Widths = Annotated[tuple[PositiveInt, ...], Field(strict=False, min_length=1)]

_STAGES = {
    "cfg_10": (((64, 1), (128, 1), (256, 1), (512, 1)), 2),
    "cfg_20": (((64, 3), (128, 3), (256, 3), (256, 3)), 4),
    "cfg_40": (((64, 7), (128, 7), (256, 7), (512, 7)), 8),
}
"""((channels, convolutions of stride 1 before one of stride 2) of each stage, convolutions of 512 channels behind)."""

_CFG = "cfg_10|cfg_20|cfg_40|uniform_[1-9][0-9]*"


class Vgg(ModelPart):
    """A deep plain network: 3x3 convolutions with norm and activation, some of stride 2; no pooling between, no dropout.

    Global average pooling and a linear layer end it.
    """

    name: Literal["vgg"] = "vgg"
    cfg: Annotated[str, Field(json_schema_extra={"pattern": f"^({_CFG})$"})] | None = "cfg_10"
    """BeyondBatchNorm's networks of 10, 20 or 40 convolutions, or ``uniform_{n}``: n of 64 channels and stride 1. Null
    when ``widths`` are given."""
    widths: _Widths | None = None
    """Output channels of each convolution, instead of ``cfg``."""
    strided: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    """Which of ``widths`` have stride 2, counted from 1, ascending."""
    group_list: _Widths | None = None
    """Number of groups of each layer, for a norm over groups of channels; replaces the norm's own rule."""

    @field_validator("cfg")
    @classmethod
    def _cfg_is_known(cls, cfg: str | None) -> str | None:
        if cfg is not None and not re.fullmatch(_CFG, cfg):
            raise ValueError(f"expected one of cfg_10, cfg_20, cfg_40, uniform_{{n}}, got {cfg!r}")
        return cfg

    @model_validator(mode="before")
    @classmethod
    def _widths_replace_cfg(cls, value: Any) -> Any:
        if isinstance(value, dict) and "cfg" not in value and value.get("widths") is not None:
            return {**value, "cfg": None}
        return value

    @model_validator(mode="after")
    def _lists_fit_layers(self) -> "Vgg":
        if (self.cfg is None) == (self.widths is None):
            raise ValueError(f"expected one of cfg and widths, got cfg={self.cfg}, widths={self.widths}")
        if self.strided and self.widths is None:
            raise _disagreement("strided", f"goes with widths; the strides of {self.cfg} are its own")
        if list(self.strided) != sorted(set(self.strided)):
            raise _disagreement("strided", f"expected ascending layers, got {list(self.strided)}")
        layers = self.layers()
        if any(number > len(layers) for number in self.strided):
            raise _disagreement("strided", f"expected layers from 1 to {len(layers)}, got {list(self.strided)}")
        if self.group_list is None:
            return self
        if len(self.group_list) != len(layers):
            raise _disagreement(
                "group_list",
                f"expected a number of groups for each of the {len(layers)} layers, got {len(self.group_list)} values",
            )
        for number, (groups, (width, _)) in enumerate(zip(self.group_list, layers, strict=True)):
            if width % groups:
                fitting = ", ".join(str(size) for size in range(1, width + 1) if width % size == 0)
                raise _disagreement(
                    f"group_list[{number}]",
                    f"{groups} groups do not divide the {width} channels of the layer; what does: {fitting}",
                )
        return self

    def layers(self) -> tuple[tuple[int, int], ...]:
        """(output channels, stride) of each convolution."""
        if self.widths is not None:
            return tuple(
                (width, 2 if number in self.strided else 1) for number, width in enumerate(self.widths, start=1)
            )
        assert self.cfg is not None
        if self.cfg in _STAGES:
            stages, last = _STAGES[self.cfg]
            halving = [layer for width, plain in stages for layer in (*[(width, 1)] * plain, (width, 2))]
            return (*halving, *[(512, 1)] * last)
        return ((64, 1),) * int(self.cfg.removeprefix("uniform_"))

    def norm_widths(self) -> tuple[int, ...]:
        """Channels that a norm of this network sees; empty where ``group_list`` has said how to group them."""
        return () if self.group_list is not None else tuple(width for width, _ in self.layers())

    def last_side(self, side: int) -> int:
        """Convolutions of stride 2, which round up."""
        return -(-side >> sum(stride == 2 for _, stride in self.layers()))


def _disagreement(path: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("disagreement", "{path}: {message}", {"path": path, "message": message})
