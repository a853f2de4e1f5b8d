"""What every normalization layer obeys: norm and activation in one module, the slot."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from normhpc.config.norm.base import Scope
from normhpc.errors import InputError
from normhpc.norms.activation import activate
from normhpc.norms.tracing import in_transform


@dataclass(frozen=True, slots=True)
class ParamSpec:
    """How an optimizer treats one parameter."""

    decay: bool = False
    """Whether weight decay applies to it even when the parameters of norms are spared."""
    lr_factor: float = 1.0
    """What its learning rate is multiplied by."""
    bounds: tuple[float, float] | None = None
    """Where :meth:`Norm.post_step` puts its values back to."""


class Norm(nn.Module, ABC):
    """A norm and the activation after it, on (N, C, H, W).

    A layer implements :meth:`normalize`; statistics are taken in fp32 or better, the output has the dtype
    and the memory format of the input, and the input is never overwritten. ``self.act`` is the name of the
    activation, ``"none"`` for the norm alone; where the layer ``owns_act`` that of the one whose place it takes.
    """

    scope: Scope = "value"
    owns_act: bool = False
    """The layer has a nonlinearity of its own and takes the place of the activation."""
    shifts: bool = True
    """The layer learns a shift per channel, which makes the bias of the convolution before it idle."""

    def __init__(self, num_features: int, act: str) -> None:
        super().__init__()
        self.num_features = num_features
        self.act = act

    @abstractmethod
    def normalize(self, x: Tensor) -> Tensor:
        """The normalized ``x``: a new tensor, or ``x`` itself where there is nothing to do; never a view of ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        """Norm, then activation: (N, C, H, W) to the same shape, dtype and memory format.

        Raises :class:`~normhpc.errors.InputError` for an input of another number of channels or dimensions.
        """
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise InputError(
                f"norm: {type(self).__name__} expected an input (N, {self.num_features}, H, W), got {tuple(x.shape)}; "
                "build the layer for the channels that it is given, and give it tokens as (N, C, 1, tokens)"
            )
        y = self.normalize(x)
        if self.owns_act:
            return y
        # Autograd copies a whole tensor to follow a write into a view of another; compiled code never overwrites.
        overwrite = not torch.compiler.is_compiling() and y is not x and not y._is_view()
        return activate(y, self.act, overwrite=overwrite)

    def param_specs(self) -> dict[str, ParamSpec]:
        """How an optimizer treats each own parameter; by default without weight decay."""
        return {name: ParamSpec() for name, _ in self.named_parameters(recurse=False)}

    def post_step(self) -> None:
        """Put parameters back within their bounds, after each optimizer step."""
        for name, spec in self.param_specs().items():
            if spec.bounds is not None:
                self.get_parameter(name).data.clamp_(*spec.bounds)

    def has_post_step(self) -> bool:
        """Whether :meth:`post_step` has anything to do; most layers have not."""
        return any(spec.bounds is not None for spec in self.param_specs().values())

    def images_per_statistic(self, images: int) -> set[int]:
        """Images behind each batch statistic of a pass over so many; meant for norms over the batch."""
        return {images}

    def local_statistics(self) -> tuple[str, ...]:
        """Names of the buffers that follow only this rank's images, so that ranks disagree on them."""
        return ()

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        return f"{self.num_features}, act={self.act}"


def memory_format_of(x: Tensor) -> torch.memory_format:
    """How (N, C, H, W) lies in memory; what is neither NCHW nor NHWC counts as NCHW, and so does all under vmap."""
    if in_transform():
        return torch.contiguous_format
    nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if nhwc else torch.contiguous_format
