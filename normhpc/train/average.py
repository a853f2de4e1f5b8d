"""A moving average of the weights, which is evaluated in their place."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """a <- d a + (1 - d) w after every update, over all parameters w, starting at the weights the run starts with.

    Buffers are not averaged: the running statistics are those of the newest weights' training, as they stand.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._names, self._parameters = zip(*model.named_parameters(), strict=True)
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        torch._foreach_lerp_(self._averages, self._parameters, 1 - self.decay)

    @contextlib.contextmanager
    def in_place_of_weights(self) -> Iterator[None]:
        """The network with the averages as its parameters; afterwards it has its own back, to the bit."""
        with torch.no_grad():
            own = [parameter.clone() for parameter in self._parameters]
            torch._foreach_copy_(self._parameters, self._averages)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self._parameters, own)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages under the names of their parameters."""
        return dict(zip(self._names, self._averages, strict=True))

    def load_state_dict(self, saved: dict[str, Tensor]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name, average in zip(self._names, self._averages, strict=True):
            average.copy_(saved[name])
