"""From the fields of a shard to one image: bands picked, put in order and brought to one resolution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from normhpc.errors import DataError, Problem, did_you_mean
from normhpc.shards.index import Field, Index, channels_of

STORED_TYPES = {"|u1": torch.uint8, "<u2": torch.int16, "<f4": torch.float32}
"""Tensors that stored values lie in. Of 16 bits they are the bit patterns: torch does little with unsigned ones."""

UNITS = {torch.uint8: 255.0, torch.int16: 10_000.0, torch.float32: 1.0}
"""The stored value that stands for 1: white, and a reflectance of one as Sentinel-2 products write it."""


@dataclass(frozen=True, slots=True)
class _Source:
    """Channels ``taken`` of one field, which become channels ``places`` of the image."""

    field: Field
    taken: tuple[int, ...]
    places: tuple[int, ...]


class Planes:
    """How an image (C, H, W) is made of stored ``fields``: of all their bands, or of ``bands`` in that order.

    Bands of a coarser resolution are repeated to the finest one, like ``F.interpolate(mode="nearest")``.
    Raises :class:`~normhpc.errors.DataError` for bands that are not there.
    """

    def __init__(self, fields: Sequence[Field], bands: Sequence[str] | None, file: str) -> None:
        stored = [(field, channel) for field in fields for channel in range(_channels(field))]
        names = [_name(field, channel) for field, channel in stored]
        chosen = range(len(stored)) if bands is None else [_place(band, names, file) for band in bands]
        picked = (stored[number] for number in chosen)
        self.bands = tuple(field.bands[channel] if field.bands else "" for field, channel in picked)
        """Band of each channel of an image, empty where the stored bands have no names."""
        by_field: dict[str, list[tuple[int, int]]] = {}
        for place, number in enumerate(chosen):
            field, channel = stored[number]
            by_field.setdefault(field.name, []).append((channel, place))
        named = {field.name: field for field in fields}
        self._sources = [
            _Source(named[name], tuple(channel for channel, _ in pairs), tuple(place for _, place in pairs))
            for name, pairs in by_field.items()
        ]
        sides = [_side(source.field) for source in self._sources]
        height, width = max(side[0] for side in sides), max(side[1] for side in sides)
        self.shape = (len(chosen), height, width)
        """Channels, height and width of an image."""
        kinds = {STORED_TYPES[source.field.dtype] for source in self._sources}
        self.dtype = kinds.pop() if len(kinds) == 1 else torch.float32
        """Type of an image; fields of several types become fp32."""
        self._file = file
        self.is_plain = len(self._sources) == 1 and self._sources[0].taken == tuple(range(_channels(self.fields[0])))
        """Whether an image is what one field holds, so that nothing has to be copied."""

    @property
    def fields(self) -> list[Field]:
        """The fields that are needed."""
        return [source.field for source in self._sources]

    def statistics(self, index: Index) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and biased standard deviation of each channel over all stored values, in units of :data:`UNITS`.

        Raises :class:`~normhpc.errors.DataError` for bands of floats of which the index has none.
        """
        unit = UNITS[self.dtype]
        mean, std = [0.0] * self.shape[0], [0.0] * self.shape[0]
        for source in self._sources:
            found = index.statistics_of(source.field.name)
            if found is None:
                message = (
                    f"no statistics of the floats of {source.field.name}: some are not finite, or they were converted before "
                    "statistics of floats were kept; leave its bands out, or convert anew without the rows that "
                    "normhpc shards verify names"
                )
                raise DataError(Problem(message, path="data.bands", file=self._file))
            for channel, place in zip(source.taken, source.places, strict=True):
                mean[place], std[place] = found.mean[channel] / unit, found.std[channel] / unit
        return tuple(mean), tuple(std)

    def image(self, parts: Mapping[str, Tensor]) -> Tensor:
        """(B, C, H, W) of the stored rows of each field, on their device; a view of them where that is all it takes."""
        planar = {
            source.field.name: parts[source.field.name].permute(0, 3, 1, 2)
            if source.field.layout == "NHWC"
            else parts[source.field.name]
            for source in self._sources
        }
        if self.is_plain:
            return planar[self._sources[0].field.name]
        first = next(iter(planar.values()))
        image = torch.empty((len(first), *self.shape), dtype=self.dtype, device=first.device)
        for source in self._sources:
            given = planar[source.field.name]
            if self.dtype != given.dtype:
                given = values(given, self.dtype)
            if first.device.type == "cpu":
                for channel, place in zip(source.taken, source.places, strict=True):
                    _enlarge_into(image[:, place], given[:, channel])
                continue
            taken, places = (torch.tensor(which, device=first.device) for which in (source.taken, source.places))
            image.index_copy_(1, places, _enlarged(given.index_select(1, taken), self.shape[1:]))
        return image


def values(stored: Tensor, dtype: torch.dtype) -> Tensor:
    """Stored values as new floats, contiguous: bit patterns of 16 bits read as unsigned."""
    if stored.dtype == torch.int16:
        return stored.to(torch.int32, memory_format=torch.contiguous_format).bitwise_and_(0xFFFF).to(dtype)
    return stored.to(dtype, memory_format=torch.contiguous_format, copy=True)


def _enlarge_into(image: Tensor, plane: Tensor) -> None:
    """Fill (B, H, W) with :func:`_enlarged` planes (B, h, w): on processors a dozen times as fast as gathers."""
    down, across = image.shape[1] // plane.shape[1], image.shape[2] // plane.shape[2]
    if image.shape[1] % plane.shape[1] or image.shape[2] % plane.shape[2]:
        image.copy_(_enlarged(plane.unsqueeze(1), (image.shape[1], image.shape[2])).squeeze(1))
        return
    lines = image[:, ::down]
    for column in range(across):
        lines[:, :, column::across] = plane
    for line in range(1, down):
        image[:, line::down] = lines


def _enlarged(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Planes (B, C, h, w) of ``size``: line i is line floor(i h / H), and columns alike."""
    for dim, to in zip((2, 3), size, strict=True):
        of = planes.shape[dim]
        if of != to:
            planes = planes.index_select(dim, torch.arange(to, device=planes.device) * of // to)
    return planes


def _channels(field: Field) -> int:
    return channels_of(field.shape, field.layout)


def _side(field: Field) -> tuple[int, int]:
    return (field.shape[0], field.shape[1]) if field.layout == "NHWC" else (field.shape[1], field.shape[2])


def _name(field: Field, channel: int) -> str:
    return field.bands[channel] if field.bands else f"{field.name}[{channel}]"


def _place(band: str, names: Sequence[str], file: str) -> int:
    if band in names:
        return names.index(band)
    message = f"no band {band!r}{did_you_mean(band, names)}; there are: {', '.join(names)}"
    raise DataError(Problem(message, path="data.bands", file=file))
