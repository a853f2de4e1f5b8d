"""Batches of images that lie in memory on the device that computes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from normhpc.config.training import NoAugment, StandardAugment
from normhpc.data.augment import warped, warps
from normhpc.data.images import ImageSplit
from normhpc.data.mixing import draw_mix, mixes
from normhpc.data.order import Stream, draws


class TrainBatch(NamedTuple):
    """What a training step learns from."""

    images: Tensor
    """(N, C, H, W), normalized."""
    labels: Tensor
    """The images' own labels as they are stored: (N,) int64, or (N, K) uint8 where an image has several."""
    targets: Tensor
    """What the loss sees: ``labels``, or where batches are mixed (N, K) floats, the weight of each label."""


class Batches:
    """Normalized batches of one split, made on ``device`` from uint8 images that are copied there once.

    A batch is x (N, C, H, W) = (pixel / 255 - mean) / std per channel, and labels (N,) int64 or (N, K) uint8.
    Augmentation is a function of (seed, epoch, row) alone, mixing one of (seed, epoch, step, global batch). Crops see
    zero, black, beyond the edges: the padding comes before normalization. In the code B images of C channels are cut
    from images padded to P x Q.

    With ``resize`` the network sees squares of that side: torchvision's ``resize`` of the augmented bytes.
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
        resize: int | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        standard = augment if isinstance(augment, StandardAugment) else StandardAugment(flip=False, crop_padding=0)
        self.flip, self.padding = standard.flip, standard.crop_padding
        self.warps, self.mixes = warps(standard), mixes(standard)
        self.augment = standard
        self.seed = seed
        self.resize = resize
        self.dtype = dtype
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        _, height, width, channels = split.images.shape
        self.shape = (channels, height, width)
        """Channels, height and width of an image."""
        planar = split.images.permute(0, 3, 1, 2).contiguous().to(device)
        self.images = F.pad(planar, (self.padding,) * 4)
        self.labels = split.labels.to(device)
        if self.mixes and split.labels.ndim == 1:
            # up to the highest label there is: what a network has beyond that has weight 0 in every target
            self._classes = torch.arange(int(split.labels.max()) + 1, device=device)
        # A black or constant channel has no spread to divide by.
        spread = [deviation or 1.0 for deviation in std]
        per_channel = torch.tensor([mean, spread], dtype=torch.float64).mul(255).view(2, -1, 1, 1)
        self.offset, self.spread = per_channel.to(device, torch.promote_types(dtype, torch.float32))
        if self.padding:
            self._lines, self._line_starts = _every_line(self.images, width), self._lines_of_a_crop()

    def __len__(self) -> int:
        return len(self.labels)

    def train(self, rows: NDArray[np.int64], epoch: int, step: int = 0, part: slice = slice(None)) -> TrainBatch:
        """The given ``part`` of the global batch ``rows`` of the split, as step ``step`` of epoch ``epoch`` has it.

        An image's partner in mixing may lie in another part: it is made here once more, so that the parts of a batch
        are the same however many there are.
        """
        pixels, places = self._augmented(rows[part], epoch)
        labels = self.labels.index_select(0, places)
        if not self.mixes:
            return TrainBatch(self._normalized(pixels), labels, labels)
        targets = self._weights(labels)
        mix = draw_mix(self.augment, rows, seed=self.seed, epoch=epoch, step=step, size=self.shape[1:])
        if mix is None:
            return TrainBatch(self._normalized(pixels), labels, targets)
        others, places = self._augmented(mix.partners[part], epoch)
        other_targets = self._weights(self.labels.index_select(0, places))
        targets = targets.mul_(mix.share).add_(other_targets, alpha=1 - mix.share)
        if mix.box is not None:
            pixels[:, :, *mix.box] = others[:, :, *mix.box]
            return TrainBatch(self._normalized(pixels), labels, targets)
        images = self._normalized(pixels).mul_(mix.share).add_(self._normalized(others), alpha=1 - mix.share)
        return TrainBatch(images, labels, targets)

    def evaluate(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Rows ``start`` to ``stop`` as they are, and their labels."""
        return self._normalized(self._inside(self.images[start:stop])), self.labels[start:stop]

    def _augmented(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """The given rows as planar uint8, as epoch ``epoch`` has them, and the rows on the device."""
        if not (self.padding or self.flip or self.warps):
            places = torch.from_numpy(rows).to(self.images.device, non_blocking=True)
            return self.images.index_select(0, places), places
        starts, flips = self._drawn(rows, epoch)
        index = torch.from_numpy(np.stack((rows, starts, flips))).to(self.images.device, non_blocking=True)
        places = index[0]
        if self.warps:
            pixels = self._inside(self.images).index_select(0, places)
            pixels = warped(pixels, rows, epoch, self.seed, self.augment)
            if self.padding:
                pixels = self._cropped(_every_line(F.pad(pixels, (self.padding,) * 4), self.shape[2]), index[1])
        else:
            pixels = self._cropped(self._lines, index[1]) if self.padding else self.images.index_select(0, places)
        if self.flip:
            # Where the mask is all ones the image becomes its mirror image: p ^ (p ^ mirror). Several times
            # faster on CPUs than torch.where, which is not vectorized for bytes. The mirrored crop at one place is
            # the crop of the mirrored image at the place opposite.
            mask = index[2].to(torch.uint8).view(-1, 1, 1, 1)
            pixels = pixels ^ pixels.flip(3).bitwise_xor_(pixels).bitwise_and_(mask)
        return pixels, places

    def _drawn(self, rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each image's crop begins in the bytes it is cut from, and 255 for each image to be mirrored, else 0.

        Crops are cut from all images, or from a warped batch, which holds images of its own.
        """
        channels, padded_height, padded_width = self.images.shape[1:]
        starts = np.arange(len(rows)) if self.warps else rows
        starts = starts * (channels * padded_height * padded_width)
        if self.padding:
            places = np.uint64(2 * self.padding + 1)
            top, left = (draws(self.seed, epoch, rows, stream) % places for stream in (Stream.TOP, Stream.LEFT))
            starts = starts + (top * np.uint64(padded_width) + left).astype(np.int64)
        flips = np.zeros_like(rows)
        if self.flip:
            flips = (draws(self.seed, epoch, rows, Stream.FLIP) >> np.uint64(63)).astype(np.int64) * 255
        return starts, flips

    def _lines_of_a_crop(self) -> Tensor:
        """Where each of the C H lines of a crop begins in a padded image, for the crop at its first byte."""
        channels, height, _ = self.shape
        _, _, padded_height, padded_width = self.images.shape
        device = self.images.device
        planes = torch.arange(channels, device=device).unsqueeze(1) * (padded_height * padded_width)
        starts = planes + torch.arange(height, device=device) * padded_width
        return starts.flatten()

    def _cropped(self, every_line: Tensor, starts: Tensor) -> Tensor:
        """Cut (B, C, H, W) out of padded images in one gather of lines: a copy of W bytes for each."""
        lines = starts.unsqueeze(1) + self._line_starts
        return every_line.index_select(0, lines.flatten()).view(-1, *self.shape)

    def _inside(self, padded: Tensor) -> Tensor:
        """A view of images without their padding."""
        _, height, width = self.shape
        return padded[:, :, self.padding :, self.padding :][:, :, :height, :width]

    def _weights(self, labels: Tensor) -> Tensor:
        """Labels as a new (N, K) tensor of floats: 1 for a label the image has, else 0."""
        if labels.ndim == 2:
            return labels.to(self.offset.dtype)
        return (labels.unsqueeze(1) == self._classes).to(self.offset.dtype)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """Planar uint8 to floats; the layout changes last because broadcasting over channels is slow in NHWC."""
        values = pixels.to(self.offset.dtype, memory_format=torch.contiguous_format)
        if self.resize is not None:
            values = F.interpolate(values, (self.resize,) * 2, mode="bilinear", antialias=True).round_()
        return values.sub_(self.offset).div_(self.spread).to(self.dtype, memory_format=self.memory_format)


def _every_line(images: Tensor, width: int) -> Tensor:
    """A view of all bytes as lines of ``width`` bytes that begin at every byte."""
    return images.as_strided((max(0, images.numel() - width + 1), width), (1, 1))
