"""Batches on the device that computes, of images that lie there or come from files."""

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from normhpc.config.training import NoAugment, StandardAugment
from normhpc.data.augment import warped, warps
from normhpc.data.images import Split
from normhpc.data.mixing import Mix, draw_mix, mixes
from normhpc.data.order import Stream, draws
from normhpc.data.planes import values
from normhpc.data.stored import BatchReader, StoredSplit
from normhpc.errors import InputError, Problem


class TrainBatch(NamedTuple):
    """What a training step learns from."""

    images: Tensor
    """(N, C, H, W), normalized."""
    labels: Tensor
    """The images' own labels as they are stored: (N,) int64, or (N, K) uint8 where an image has several."""
    targets: Tensor
    """What the loss sees: ``labels``, or where batches are mixed (N, K) floats, the weight of each label."""


class Batches:
    """Normalized batches of one split on ``device``, from images that are copied there once or come from their files.

    A batch is x (N, C, H, W) = (pixel / unit - mean) / std per channel, and labels (N,) int64 or (N, K) uint8.
    Augmentation is a function of (seed, epoch, row) alone, mixing one of (seed, epoch, step, global batch). Beyond the
    edges crops see black, the stored value 0, whose normalized value is -mean / std; of stored floats, whose 0 may be
    anything (of decibels a bright spot), they see ``mean``, which is 0 normalized. In the code B images of C channels
    are cut from images padded to P x Q.

    With ``crop`` an image is cut to a square of that side, anywhere or, without augmentation, in the middle; with
    ``resize`` the network sees squares of that side: torchvision's ``resize`` of the augmented values, which rounds integers.
    """

    def __init__(
        self,
        split: Split,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: torch.device | str,
        augment: NoAugment | StandardAugment | None,
        seed: int,
        channels_last: bool = False,
        crop: int | None = None,
        resize: int | None = None,
        unit: float = 255.0,
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
        self.device = torch.device(device)
        self._reader: BatchReader | None = None
        if isinstance(split, StoredSplit):
            self._reader = BatchReader(split.images, self.device)
            self.shape, stored = split.images.shape, split.images.planes.dtype
        else:
            planar = split.images.permute(0, 3, 1, 2).contiguous().to(self.device)
            self.shape, stored = (planar.shape[1], planar.shape[2], planar.shape[3]), planar.dtype
        if self.warps and stored != torch.uint8:
            raise InputError(
                Problem(
                    "expected images of 8 bits for changes of colour, rotation and perspective, these have more; "
                    "leave grayscale_probability, rotation_degrees and perspective_probability at 0",
                    path="augment",
                )
            )
        self.window = (crop or self.shape[1], crop or self.shape[2])
        """Height and width of what is cut from an image."""
        self.cuts = self.padding > 0 or (self.window != self.shape[1:] and isinstance(augment, StandardAugment))
        self.labels = split.labels.to(self.device)
        if self.mixes and split.labels.ndim == 1:
            # up to the highest label there is: what a network has beyond that has weight 0 in every target
            self._classes = torch.arange(int(split.labels.max()) + 1, device=self.device)
        # A black or constant channel has no spread to divide by.
        spread = [deviation or 1.0 for deviation in std]
        per_channel = torch.tensor([mean, spread], dtype=torch.float64).mul(unit).view(2, -1, 1, 1)
        self.offset, self.spread = per_channel.to(self.device, torch.promote_types(dtype, torch.float32))
        if self._reader is None:
            self.images = self._padded(planar)
        if self.cuts:
            self._line_starts = self._lines_of_a_crop()
        self._lines = None
        """Every line of all images, where crops are cut from them and not from a batch."""
        if self.cuts and self._reader is None and not self.warps:
            self._lines = _every_line(self.images, self.window[1])

    def __len__(self) -> int:
        return len(self.labels)

    def with_seed(self, seed: int) -> "Batches":
        """Batches of the same images, which are kept once, augmented and mixed as a run of this ``seed`` has them."""
        same = copy(self)
        same.seed = seed
        if self._reader is not None:
            same._reader = BatchReader(self._reader.images, self.device)
        return same

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
        mix = self._mix(rows, epoch, step)
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
        stored = self.images[start:stop] if self._reader is None else self._reader.take(np.arange(start, stop))
        return self._normalized(self._middle(stored, self.window)), self.labels[start:stop]

    def expect(self, epoch: int, steps: Iterable[tuple[int, NDArray[np.int64], Sequence[slice]]]) -> None:
        """Read ahead what :meth:`train` will be asked for: step, global batch and parts of it, in this order.

        It changes nothing but the speed, and that only where images stay in their files.
        """
        if self._reader is not None:
            self._reader.announce(self._needed(epoch, steps))

    def expect_blocks(self, blocks: Iterable[tuple[int, int]]) -> None:
        """Read ahead what :meth:`evaluate` will be asked for: starts and stops, in this order."""
        if self._reader is not None:
            self._reader.announce(np.arange(start, stop) for start, stop in blocks)

    def _needed(
        self, epoch: int, steps: Iterable[tuple[int, NDArray[np.int64], Sequence[slice]]]
    ) -> Iterator[NDArray[np.int64]]:
        for step, rows, parts in steps:
            mix = self._mix(rows, epoch, step) if self.mixes else None
            for part in parts:
                yield rows[part]
                if mix is not None:
                    yield mix.partners[part]

    def _mix(self, rows: NDArray[np.int64], epoch: int, step: int) -> Mix | None:
        return draw_mix(self.augment, rows, seed=self.seed, epoch=epoch, step=step, size=self.window)

    def _augmented(self, rows: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """The given rows as planar stored values, as epoch ``epoch`` has them, and the rows on the device."""
        if not (self.cuts or self.flip or self.warps):
            places = torch.from_numpy(rows).to(self.device, non_blocking=True)
            return self._middle(self._stored(rows, places), self.window), places
        starts, flips = self._drawn(rows, epoch)
        index = torch.from_numpy(np.stack((rows, starts, flips))).to(self.device, non_blocking=True)
        places = index[0]
        if self._lines is not None:
            pixels = self._cropped(self._lines, index[1])
        else:
            pixels = self._stored(rows, places)
            if self.warps or self.cuts:
                pixels = pixels.contiguous()
            if self.warps:
                pixels = warped(pixels, rows, epoch, self.seed, self.augment)
            if self.cuts:
                pixels = self._cropped(_every_line(self._padded(pixels), self.window[1]), index[1])
            else:
                pixels = self._middle(pixels, self.window)
        if self.flip:
            # Where the mask is all ones the image becomes its mirror image: p ^ (p ^ mirror). Several times
            # faster on CPUs than torch.where, which is not vectorized for bytes. The mirrored crop at one place is
            # the crop of the mirrored image at the place opposite.
            bits = pixels.view(torch.int32) if pixels.is_floating_point() else pixels
            mask = index[2].to(bits.dtype).view(-1, 1, 1, 1)
            pixels = (bits ^ bits.flip(3).bitwise_xor_(bits).bitwise_and_(mask)).view(pixels.dtype)
        return pixels, places

    def _stored(self, rows: NDArray[np.int64], places: Tensor) -> Tensor:
        """The given rows as they are stored, (B, C, H, W) in any layout; a tensor of their own."""
        if self._reader is not None:
            return self._reader.take(rows)
        return self._middle(self.images, self.shape[1:]).index_select(0, places)

    def _padded(self, planar: Tensor) -> Tensor:
        """Planar stored values with what crops see beyond their edges."""
        if not planar.is_floating_point():
            return F.pad(planar, (self.padding,) * 4)
        count, channels, height, width = planar.shape
        padded = planar.new_empty((count, channels, height + 2 * self.padding, width + 2 * self.padding))
        padded.copy_(self.offset)
        self._middle(padded, (height, width)).copy_(planar)
        return padded

    def _drawn(self, rows: NDArray[np.int64], epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each image's crop begins in the values it is cut from, and -1, all ones, for each to be mirrored, else 0.

        Crops are cut from all images, or from a batch, which holds images of its own.
        """
        channels, height, width = self.shape
        padded_height, padded_width = height + 2 * self.padding, width + 2 * self.padding
        starts = rows if self._lines is not None else np.arange(len(rows))
        starts = starts * (channels * padded_height * padded_width)
        if self.cuts:
            tops, lefts = (
                np.uint64(padded - side + 1)
                for padded, side in zip((padded_height, padded_width), self.window, strict=True)
            )
            top, left = (
                draws(self.seed, epoch, rows, stream) % number
                for stream, number in ((Stream.TOP, tops), (Stream.LEFT, lefts))
            )
            starts = starts + (top * np.uint64(padded_width) + left).astype(np.int64)
        flips = np.zeros_like(rows)
        if self.flip:
            flips = -(draws(self.seed, epoch, rows, Stream.FLIP) >> np.uint64(63)).astype(np.int64)
        return starts, flips

    def _lines_of_a_crop(self) -> Tensor:
        """Where each of the lines of a crop begins in a padded image, for the crop at its first value."""
        channels, height, width = self.shape
        padded_height, padded_width = height + 2 * self.padding, width + 2 * self.padding
        planes = torch.arange(channels, device=self.device).unsqueeze(1) * (padded_height * padded_width)
        starts = planes + torch.arange(self.window[0], device=self.device) * padded_width
        return starts.flatten()

    def _cropped(self, every_line: Tensor, starts: Tensor) -> Tensor:
        """Cut (B, C, H, W) out of padded images in one gather of lines: a copy of W values for each."""
        lines = starts.unsqueeze(1) + self._line_starts
        return every_line.index_select(0, lines.flatten()).view(-1, self.shape[0], *self.window)

    def _middle(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """A view of the middle of planar images, padded or not."""
        (height, width), (rows, columns) = images.shape[2:], size
        return images[:, :, (height - rows) // 2 :, (width - columns) // 2 :][:, :, :rows, :columns]

    def _weights(self, labels: Tensor) -> Tensor:
        """Labels as a new (N, K) tensor of floats: 1 for a label the image has, else 0."""
        if labels.ndim == 2:
            return labels.to(self.offset.dtype)
        return (labels.unsqueeze(1) == self._classes).to(self.offset.dtype)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """Planar stored values to floats; the layout changes last because broadcasting over channels is slow in NHWC."""
        floats = values(pixels, self.offset.dtype)
        if self.resize is not None:
            floats = F.interpolate(floats, (self.resize,) * 2, mode="bilinear", antialias=True)
            if not pixels.is_floating_point():
                floats.round_()
        return floats.sub_(self.offset).div_(self.spread).to(self.dtype, memory_format=self.memory_format)


def _every_line(images: Tensor, width: int) -> Tensor:
    """A view of all bytes as lines of ``width`` bytes that begin at every byte."""
    return images.as_strided((max(0, images.numel() - width + 1), width), (1, 1))
