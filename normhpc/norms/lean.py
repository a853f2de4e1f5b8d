"""What layers with a backward pass of their own share.

Autograd keeps every intermediate tensor of an eager formula: three to eight times the input. These layers keep the
input and statistics of a few numbers a plane. Their backward passes are made of ordinary operations, so second
derivatives work; there the statistics are computed anew, because as saved numbers they would count as constants.
"""

import torch
from torch import Tensor

Dims = tuple[int, ...]
POSITIONS: Dims = (2, 3)
PER_CHANNEL: Dims = (0, 2, 3)


def exact(x: Tensor) -> Tensor:
    """``x`` in fp32 or better."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def column(values: Tensor) -> Tensor:
    """(C,) against (N, C, H, W)."""
    return values.view(1, -1, 1, 1)
