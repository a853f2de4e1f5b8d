"""No normalization: the control."""

from torch import Tensor

from normhpc.config.norm import NoNorm
from normhpc.norms.slot import Norm


class Plain(Norm):
    """y = act(x). Has no parameters; the convolution before it needs its bias."""

    shifts = False

    def __init__(self, config: NoNorm, num_features: int, act: str) -> None:
        super().__init__(num_features, act)

    def normalize(self, x: Tensor) -> Tensor:
        """``x`` itself."""
        return x
