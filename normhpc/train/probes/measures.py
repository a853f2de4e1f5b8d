"""The numbers themselves, of whole tensors, as tensors on the same device: nothing here waits for it.

All are computed in fp32 or better and without gradient. What is no number in its input is none in its result.
"""

import math

import torch
from torch import Tensor

from normhpc.norms.moments import PER_CHANNEL, batch_moments, exact
from normhpc.norms.slot import memory_format_of

KRYLOV_STEPS = 24
"""Matrix products spent on a largest eigenvalue. Exact but for rounding up to so many images; beyond, what is found is
short of it by less than 2e-5 of it even where it is the edge of a dense spectrum, by far less where it stands apart."""

_NOTHING = 1e-5
"""A vector this short against the largest eigenvalue so far is rounding."""


def channel_moments(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance (C,) of (N, C, H, W) over (N, H, W); the variance of a single value is NaN."""
    if planes.numel() <= planes.shape[1]:
        mean = exact(planes).flatten()
        return mean, torch.full_like(mean, torch.nan)
    moments = batch_moments(planes, sync=False)
    return moments.mean, moments.unbiased


def dead_share(planes: Tensor) -> Tensor:
    """Share () of the channels of (N, C, H, W) that have no positive value, or one value everywhere."""
    if memory_format_of(planes) == torch.channels_last:
        # torch's extremes of columns take 20 to 50 times as long for 16 columns as for 512
        channels = planes.shape[1]
        together = math.gcd(planes.numel() // channels, max(1, 512 // channels))
        rows = planes.permute(0, 2, 3, 1).reshape(-1, together * channels)
        highest, lowest = (extremes.view(together, channels) for extremes in (rows.amax(0), rows.amin(0)))
        highest, lowest = highest.amax(0), lowest.amin(0)
    else:
        highest, lowest = planes.amax(PER_CHANNEL), planes.amin(PER_CHANNEL)
    return ((highest <= 0) | (highest == lowest)).float().mean()


def gram(rows: Tensor) -> Tensor:
    """Products of all pairs of samples: (N, D) to (N, N)."""
    values = exact(rows)
    return values @ values.T


def unit_grams(grams: Tensor) -> tuple[Tensor, Tensor]:
    """K of rows scaled to unit length, (L, N, N), from :func:`gram`'s, and how many rows have a length, (L,).

    A row of zeros has no direction and stays a row of zeros, so that nothing is counted of it.
    """
    lengths = grams.diagonal(dim1=1, dim2=2).sqrt()
    present = lengths != 0
    scale = torch.where(present, 1 / lengths, 0.0)
    return grams * scale.unsqueeze(1) * scale.unsqueeze(2), present.sum(1)


def mean_cosines(unit: Tensor, count: Tensor) -> Tensor:
    """(sum K_ij - n) / (n (n - 1)) for each K of (L, N, N) with n rows that have a length; NaN for fewer than two.

    That is the mean over samples i of (sum_j K_ij - 1) / (n - 1).
    """
    return torch.where(count > 1, (unit.sum((1, 2)) - count) / (count * (count - 1)), torch.nan)


def krylov_coefficients(matrices: Tensor, steps: int = KRYLOV_STEPS) -> Tensor:
    """The tridiagonal matrices, (L, 2, k), that k = min(N, steps) steps of Lanczos make of symmetric ones, (L, N, N).

    Diagonals in [:, 0], off-diagonals in [:, 1, :-1]. Their largest eigenvalues approach those of ``matrices`` (no
    negative eigenvalues) from below. Unlike torch's eigenvalues these make no GPU wait for the processor.
    """
    images = matrices.shape[1]
    steps = min(images, steps)
    # any fixed vector without a pattern: it must not be at right angles to the one that is sought
    start = torch.arange(1, images + 1, device=matrices.device, dtype=torch.float64).square().cos()
    vector = (start / start.norm()).to(matrices.dtype).expand(matrices.shape[:2])
    basis = matrices.new_zeros(len(matrices), steps, images)
    found = matrices.new_zeros(len(matrices), 2, steps)
    for step in range(steps):
        basis[:, step] = vector
        image = (matrices @ vector.unsqueeze(2)).squeeze(2)
        found[:, 0, step] = (vector * image).sum(1)
        so_far = basis[:, : step + 1]
        for _ in range(2):  # once leaves rounding that grows from step to step
            image = image - ((so_far @ image.unsqueeze(2)).mT @ so_far).squeeze(1)
        length = torch.linalg.vector_norm(image, dim=1)
        ends = length <= _NOTHING * found[:, 0].amax(1)
        length = torch.where(ends, 0.0, length)
        found[:, 1, step] = length
        vector = torch.where(ends.unsqueeze(1), 0.0, image / length.unsqueeze(1))
    return found


def largest_eigenvalues(coefficients: Tensor) -> Tensor:
    """The largest eigenvalue (...,) in fp64 of each tridiagonal matrix (..., 2, k) on the processor; NaN stays NaN."""
    exactly = coefficients.double()
    numbers = exactly.isfinite().all(-1).all(-1)
    diagonal, beside = exactly.nan_to_num(0.0, 0.0, 0.0).unbind(-2)
    matrices = torch.diag_embed(diagonal) + torch.diag_embed(beside[..., :-1], -1)
    # the lower half is enough
    return torch.where(numbers, torch.linalg.eigvalsh(matrices)[..., -1], torch.nan)
