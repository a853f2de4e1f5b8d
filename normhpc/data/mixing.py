"""Which images of a batch are mixed with which, and how (mixup, cutmix)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from normhpc.config.training import StandardAugment
from normhpc.data.order import Stream, draws, uniform


@dataclass(frozen=True, slots=True)
class Mix:
    """What happens to one global batch: image i becomes ``share`` of itself and 1 - ``share`` of its partner."""

    partners: NDArray[np.int64]
    """Row of the partner of each image of the batch, (N,): the batch's rows in another order."""
    share: float
    """What is left of an image and its label."""
    box: tuple[slice, slice] | None
    """Rows and columns of pixels that cutmix takes from the partner; None for mixup, which adds whole images."""


def mixes(augment: StandardAugment) -> bool:
    """Whether batches are ever mixed."""
    return bool((augment.mixup_alpha or augment.cutmix_alpha) and augment.mix_probability)


def draw_mix(
    augment: StandardAugment,
    rows: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    step: int,
    size: tuple[int, int],
) -> Mix | None:
    """How the global batch ``rows`` of images of ``size`` (height, width) is mixed; None where it is left alone.

    The share, the kind and the box of a batch are a function of (seed, epoch, step). Its partners are the batch in the
    order of a hash of (seed, epoch, row): like a random permutation, the same however the batch is cut into ranks.
    """
    of_batch = np.array([step])

    def drawn(stream: Stream) -> float:
        return float(uniform(seed, epoch, of_batch, stream)[0])

    if drawn(Stream.MIXED) >= augment.mix_probability:
        return None
    cut = augment.cutmix_alpha > 0 and (augment.mixup_alpha == 0 or drawn(Stream.CUT) < 0.5)
    share = beta(augment.cutmix_alpha if cut else augment.mixup_alpha, drawn(Stream.SHARE))
    partners = rows[np.argsort(draws(seed, epoch, rows, Stream.PARTNER))]
    if not cut:
        return Mix(partners, share, None)
    height, width = size
    box = (
        _side(height, share, int(drawn(Stream.BOX_ROW) * height)),
        _side(width, share, int(drawn(Stream.BOX_COLUMN) * width)),
    )
    covered = math.prod(side.stop - side.start for side in box)
    return Mix(partners, 1 - covered / (height * width), box)


def beta(alpha: float, quantile: float) -> float:
    """The value below which a draw from Beta(alpha, alpha) lies with probability ``quantile``."""
    # Here, because only runs that mix need SciPy.
    from scipy.special import betaincinv

    return float(betaincinv(alpha, alpha, quantile))


def _side(length: int, share: float, centre: int) -> slice:
    """sqrt(1 - share) of ``length``, rounded down, about ``centre`` as far as there are pixels (Yun et al. 2019)."""
    half = int(length * math.sqrt(1 - share)) // 2
    return slice(max(0, centre - half), min(length, centre + half))
