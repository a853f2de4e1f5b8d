"""What every normalization layer obeys: norm and activation in one module, the slot."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from normhpc.norms.activation import activate

Scope = Literal["batch", "sample", "none"]
"""Over what statistics are taken: several images, one image, or there are none."""


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """How an optimizer treats one parameter."""

    decay: bool = False
    """Whether weight decay applies to it even when the parameters of norms are spared."""
    lr_factor: float = 1.0
    """What its learning rate is multiplied by."""


class Norm(nn.Module, ABC):
    """A norm and the activation after it, on (N, C, H, W).

    A layer implements :meth:`normalize`; statistics are taken in fp32 or better, the output has the dtype
    and the memory format of the input, and the input is never overwritten. ``self.act`` is the name of the
    activation, ``"none"`` for the norm alone.
    """

    scope: ClassVar[Scope] = "none"
    owns_act: bool = False
    """The layer has a nonlinearity of its own and takes the place of the activation."""
    shifts: ClassVar[bool] = True
    """The layer learns a shift per channel, which makes the bias of the convolution before it idle."""

    def __init__(self, num_features: int, act: str) -> None:
        super().__init__()
        self.num_features = num_features
        self.act = act

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """The normalized ``x``: a new tensor, or ``x`` itself where there is nothing to do; never a view of it."""

    def forward(self, x: Tensor) -> Tensor:
        """Norm, then activation: (N, C, H, W) to the same shape, dtype and memory format."""
        y = self.normalize(x)
        return activate(y, self.act, overwrite=y is not x)

    def param_specs(self) -> dict[str, ParamSpec]:
        """How an optimizer treats each own parameter; by default without weight decay."""
        return {name: ParamSpec() for name, _ in self.named_parameters(recurse=False)}

    def post_step(self) -> None:
        """Put parameters back where they must lie, after each optimizer step; most layers have nothing to do."""

    def local_statistics(self) -> tuple[str, ...]:
        """Names of the buffers that follow only this rank's images, so that ranks disagree on them."""
        return ()

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.num_features}, act={self.act}"


def memory_format_of(x: Tensor) -> torch.memory_format:
    """How (N, C, H, W) lies in memory; what is neither NCHW nor NHWC counts as NCHW."""
    nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format
