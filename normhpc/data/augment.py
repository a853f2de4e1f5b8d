"""Random changes of a batch of stored images before it is mirrored and cropped: colours, rotation, perspective.

Images are uint8 (B, C, H, W) before and after every change. Everything random is drawn on the host from (seed, epoch,
row); the images stay on their device, and nothing waits for it.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from normhpc.config.training import StandardAugment
from normhpc.data.order import Stream, draws, uniform

_OUTSIDE = 2.0
"""A coordinate of ``grid_sample`` more than a pixel away from every image, whose edges are at -1 and 1."""


def warps(augment: StandardAugment) -> bool:
    """Whether :func:`warped` changes anything."""
    return bool(augment.grayscale_probability or augment.rotation_degrees or augment.perspective_probability)


def warped(pixels: Tensor, rows: NDArray[np.int64], epoch: int, seed: int, augment: StandardAugment) -> Tensor:
    """``pixels``, the images of ``rows``, after grayscale, rotation and perspective. May change ``pixels`` in place."""
    if augment.grayscale_probability:
        chosen = _chosen(augment.grayscale_probability, seed, epoch, rows, Stream.GRAYSCALE)
        pixels = _replaced(pixels, chosen, grayscale(pixels.index_select(0, _moved(chosen, pixels))))
    if augment.rotation_degrees:
        degrees = (2 * uniform(seed, epoch, rows, Stream.ANGLE) - 1) * augment.rotation_degrees
        pixels = rotate(pixels, degrees, augment.rotation_fill)
    if augment.perspective_probability:
        chosen = _chosen(augment.perspective_probability, seed, epoch, rows, Stream.PERSPECTIVE)
        height, width = pixels.shape[2:]
        corners = draw_corners(seed, epoch, rows[chosen], height, width, augment.perspective_distortion)
        pixels = _replaced(pixels, chosen, perspective(pixels.index_select(0, _moved(chosen, pixels)), corners))
    return pixels


def grayscale(pixels: Tensor) -> Tensor:
    """Every channel of red, green and blue (B, 3, H, W) as 0.2989 R + 0.587 G + 0.114 B (ITU-R 601-2), rounded down.

    Equal to ``torchvision.transforms.functional.rgb_to_grayscale``.
    """
    red, green, blue = pixels.unbind(1)
    luma = (0.2989 * red + 0.587 * green + 0.114 * blue).to(pixels.dtype)
    return luma.unsqueeze(1).expand(pixels.shape)


def rotate(pixels: Tensor, degrees: NDArray[np.float64], fill: int) -> Tensor:
    """Each image turned counter-clockwise about its centre by its own angle (B,): the nearest pixel, or ``fill``.

    Equal to ``torchvision.transforms.functional.rotate`` of each image with ``InterpolationMode.NEAREST``.
    """
    height, width = pixels.shape[2:]
    angles = np.deg2rad(degrees)
    turns = _moved(np.stack((np.cos(angles), np.sin(angles))).astype(np.float32), pixels).view(2, -1, 1, 1)
    cosine, sine = turns.unbind()
    x, y = _pixel_centres(width, pixels), _pixel_centres(height, pixels).unsqueeze(1)
    x, y = x - width / 2, y - height / 2
    # each a sum of two products, as elsewhere a matrix product, which GPUs may round to ten bits
    across = x * (cosine / (width / 2)) - y * (sine / (width / 2))
    down = x * (sine / (height / 2)) + y * (cosine / (height / 2))
    grid = torch.stack((across, down), dim=-1)
    # what lies outside is 0, so that with fill taken away before and added afterwards it is fill
    values = F.grid_sample(pixels.float().sub_(fill), grid, mode="nearest", align_corners=False)
    return values.add_(fill).to(torch.uint8)


def draw_corners(
    seed: int, epoch: int, rows: NDArray[np.int64], height: int, width: int, distortion: float
) -> NDArray[np.int64]:
    """Where the corners of each image go, (B, 4, 2): x and y of top left, top right, bottom right, bottom left.

    Drawn as by torchvision's ``RandomPerspective``: evenly over the whole pixels at most ``distortion`` times half the
    side, rounded down, from the corner inwards.
    """
    drawn = np.stack([draws(seed, epoch, rows, Stream.CORNERS + number) for number in range(8)], axis=1)
    most = np.array([int(distortion * (width // 2)), int(distortion * (height // 2))], np.uint64)
    moves = (drawn.reshape(-1, 4, 2) % (most + np.uint64(1))).astype(np.int64)
    inwards: NDArray[np.int64] = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
    corners: NDArray[np.int64] = _corners(height, width) + inwards * moves
    return corners


def perspective(pixels: Tensor, corners: NDArray[np.int64]) -> Tensor:
    """Each image seen so that its corners lie at its own ``corners`` (B, 4, 2): bilinear, rounded, black outside.

    Equal to ``torchvision.transforms.functional.perspective`` from the image's corners to ``corners``, up to the
    rounding of values half-way between two integers. An image whose corners lie in one line is black.
    """
    height, width = pixels.shape[2:]
    coefficients = _moved(_homographies(corners, height, width).astype(np.float32), pixels)
    a, b, c, d, e, f, g, h = coefficients.T.reshape(8, -1, 1, 1).unbind()
    x, y = _pixel_centres(width, pixels), _pixel_centres(height, pixels).unsqueeze(1)
    depth = x * g + y * h + 1
    across = (x * (a / (width / 2)) + y * (b / (width / 2)) + c / (width / 2)) / depth - 1
    down = (x * (d / (height / 2)) + y * (e / (height / 2)) + f / (height / 2)) / depth - 1
    grid = torch.stack((across, down), dim=-1)
    # the horizon may cross the image: infinite coordinates have no neighbours to weigh
    grid = grid.nan_to_num_(nan=_OUTSIDE).clamp_(-_OUTSIDE, _OUTSIDE)
    values = F.grid_sample(pixels.float(), grid, mode="bilinear", align_corners=False)
    return values.round_().to(torch.uint8)


def _homographies(corners: NDArray[np.int64], height: int, width: int) -> NDArray[np.float64]:
    """(B, 8): a to h of x' = (a x + b y + c) / (g x + h y + 1), y' = (d x + e y + f) / (g x + h y + 1).

    They take ``corners`` back to the corners of the image; no numbers where there are none.
    """
    ends = torch.from_numpy(corners.astype(np.float64))
    starts = torch.from_numpy(_corners(height, width).astype(np.float64)).expand_as(ends)
    equations = torch.zeros(len(ends), 4, 2, 8, dtype=torch.float64)
    equations[:, :, 0, 0:2] = equations[:, :, 1, 3:5] = ends
    equations[:, :, 0, 2] = equations[:, :, 1, 5] = 1
    equations[:, :, :, 6:8] = -starts.unsqueeze(3) * ends.unsqueeze(2)
    # NumPy's refuses the whole batch for one that has no solution
    solution, _ = torch.linalg.solve_ex(equations.view(-1, 8, 8), starts.reshape(-1, 8))
    found: NDArray[np.float64] = solution.numpy()
    return found


def _corners(height: int, width: int) -> NDArray[np.int64]:
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]])


def _pixel_centres(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=torch.float32, device=like.device) + 0.5


def _chosen(probability: float, seed: int, epoch: int, rows: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
    """Places in ``rows`` of the images that are drawn with ``probability``."""
    return np.flatnonzero(uniform(seed, epoch, rows, stream) < probability)


def _replaced(pixels: Tensor, places: NDArray[np.int64], images: Tensor) -> Tensor:
    return pixels.index_copy_(0, _moved(places, pixels), images)


def _moved(values: NDArray[np.generic], like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device, non_blocking=True)
