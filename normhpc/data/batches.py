"""Batches of images that lie in memory on the device that computes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from normhpc.config.training import NoAugment, StandardAugment
from normhpc.data.images import ImageSplit
from normhpc.data.order import draws

FLIP, TOP, LEFT = range(3)
"""Streams of :func:`~normhpc.data.order.draws`; their numbers are part of every run's result."""


class Batches:
    """Normalized batches of one split, made on ``device`` from uint8 images that are copied there once.

    A batch is x (N, C, H, W) = (pixel / 255 - mean) / std per channel, and labels (N,) int64. Augmentation is a
    function of (seed, epoch, row) alone. Crops see zero, black, beyond the edges: the padding comes before
    normalization. In the code B images of C channels are cut from images padded to P x Q.
    """

    def __init__(
        self,
        split: ImageSplit,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: torch.device | str,
        augment: NoAugment | StandardAugment | None,
        seed: int,
        channels_last: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        standard = augment if isinstance(augment, StandardAugment) else StandardAugment(flip=False, crop_padding=0)
        self.flip, self.padding = standard.flip, standard.crop_padding
        self.seed = seed
        self.dtype = dtype
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        _, height, width, channels = split.images.shape
        self.shape = (channels, height, width)
        """Channels, height and width of an image."""
        planar = split.images.permute(0, 3, 1, 2).contiguous().to(device)
        self.images = F.pad(planar, (self.padding,) * 4)
        self.labels = split.labels.to(device)
        # A black or constant channel has no spread to divide by.
        spread = [deviation or 1.0 for deviation in std]
        per_channel = torch.tensor([mean, spread], dtype=torch.float64).mul(255).view(2, -1, 1, 1)
        self.offset, self.spread = per_channel.to(device, torch.promote_types(dtype, torch.float32))
        if self.padding:
            self._lines, self._line_starts = self._every_line()

    def __len__(self) -> int:
        return len(self.labels)

    def train(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """The given rows of the split, augmented as epoch ``epoch`` has them, and their labels."""
        if not (self.padding or self.flip):
            plain = torch.from_numpy(rows).to(self.images.device, non_blocking=True)
            return self._normalized(self.images.index_select(0, plain)), self.labels.index_select(0, plain)
        starts, flips = self._drawn(rows, epoch)
        index = torch.from_numpy(np.stack((rows, starts, flips))).to(self.images.device, non_blocking=True)
        pixels = self._cropped(index[1]) if self.padding else self.images.index_select(0, index[0])
        if self.flip:
            # Where the mask is all ones the image becomes its mirror image: p ^ (p ^ mirror). Several times
            # faster on CPUs than torch.where, which is not vectorized for bytes.
            mask = index[2].to(torch.uint8).view(-1, 1, 1, 1)
            pixels = pixels ^ pixels.flip(3).bitwise_xor_(pixels).bitwise_and_(mask)
        return self._normalized(pixels), self.labels.index_select(0, index[0])

    def evaluate(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Rows ``start`` to ``stop`` as they are, and their labels."""
        _, height, width = self.shape
        inside = self.images[start:stop, :, self.padding :, self.padding :][:, :, :height, :width]
        return self._normalized(inside), self.labels[start:stop]

    def _drawn(self, rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each image's crop begins in all bytes, and 255 for each image to be mirrored, else 0."""
        channels, padded_height, padded_width = self.images.shape[1:]
        starts = rows * (channels * padded_height * padded_width)
        if self.padding:
            places = np.uint64(2 * self.padding + 1)
            top, left = (draws(self.seed, epoch, rows, stream) % places for stream in (TOP, LEFT))
            starts = starts + (top * np.uint64(padded_width) + left).astype(np.int64)
        flips = np.zeros_like(rows)
        if self.flip:
            flips = (draws(self.seed, epoch, rows, FLIP) >> np.uint64(63)).astype(np.int64) * 255
        return starts, flips

    def _every_line(self) -> tuple[Tensor, Tensor]:
        """A view of all bytes as lines of W bytes that begin at every byte, and a crop's C H lines in it."""
        channels, height, width = self.shape
        _, _, padded_height, padded_width = self.images.shape
        lines = self.images.as_strided((self.images.numel() - width + 1, width), (1, 1))
        device = self.images.device
        planes = torch.arange(channels, device=device).unsqueeze(1) * (padded_height * padded_width)
        starts = planes + torch.arange(height, device=device) * padded_width
        return lines, starts.flatten()

    def _cropped(self, starts: Tensor) -> Tensor:
        """Cut (B, C, H, W) out of the padded images in one gather of lines: a copy of W bytes for each."""
        lines = starts.unsqueeze(1) + self._line_starts
        return self._lines.index_select(0, lines.flatten()).view(-1, *self.shape)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """Planar uint8 to floats; the layout changes last because broadcasting over channels is slow in NHWC."""
        values = pixels.to(self.offset.dtype, memory_format=torch.contiguous_format)
        return values.sub_(self.offset).div_(self.spread).to(self.dtype, memory_format=self.memory_format)
