"""Images that stay where they lie, in files or in memory, and come batch by batch, read ahead by threads.

Threads and no worker processes: every gather here is one copy that releases the interpreter's lock, into a buffer that
is used again and again. A process would write each batch into fresh shared memory, six to ten times as slow.

On a processor the batch that is handed out is the buffer, lent until nothing refers to it any more.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from normhpc.data.planes import STORED_TYPES, Planes
from normhpc.errors import DataError, Problem
from normhpc.shards import Shards

_CHECKED_ROWS = 1024
"""One row in so many is compared with its checksum while it is read."""

_CHECKED_STEP = 633
"""From one read to the next the places to check move on by so many: odd, so that each has its turn, and near the golden
section, so that reads that follow one another check places far apart.
"""

_BUFFER_BYTES = 192 << 20
"""What the buffers of one reader may take together, as long as there are two of them."""

_KEPT_BYTES = 96 << 20
"""What the buffers of one reader may keep between one plan and the next: new memory is slower than copying."""

_COPIES = 2
"""Reads whose copies to the device may be under way, before the next read waits for the first of them."""

_READ_BYTES = 4 << 20
"""What a thread reads at once, and more where a batch is larger: small batches are read several at a time."""

_SMALL_READS = 4
"""Reads of that size under way: a thread that was asleep takes about as long to start as to copy one of them."""


@dataclass(frozen=True, slots=True)
class StoredImages:
    """Some rows of shards. ``in_memory`` holds whole fields where the files are not to be read again."""

    shards: Shards
    planes: Planes
    rows: NDArray[np.int64]
    """Rows of the shards, in the order of this split."""
    threads: int
    in_memory: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.planes.shape

    def subset(self, places: NDArray[np.int64]) -> "StoredImages":
        """The images at ``places`` of these."""
        return replace(self, rows=self.rows[places])

    def read(self, places: NDArray[np.int64], buffer: dict[str, Tensor]) -> None:
        """Copy the stored values of the images at ``places`` into the first rows of each field's tensor."""
        rows = self.rows[places]
        for part in self.planes.fields:
            out = buffer[part.name][: len(rows)].numpy().view(part.dtype)
            if part.name in self.in_memory:
                np.take(self.in_memory[part.name], rows, axis=0, out=out, mode="clip")
            elif self.shards.index.encoding == "jpeg":
                self._decode(rows, out)
            else:
                self.shards.read_rows(part.name, rows, out)

    def check(self, places: NDArray[np.int64], number: int | None) -> None:
        """Compare one in 1,024 of the images at ``places`` with its checksum, others for each ``number``; all for None.

        Raises :class:`~normhpc.errors.DataError` that names the file and the row.
        """
        if not self.in_memory:
            rows = self.rows[places]
            if number is not None:
                rows = rows[number * _CHECKED_STEP % _CHECKED_ROWS :: _CHECKED_ROWS]
            self.shards.check_rows(rows)

    def buffer(self, images: int, *, pinned: bool) -> dict[str, Tensor]:
        """Room for so many images as they are stored."""
        return {
            part.name: torch.empty((images, *part.shape), dtype=STORED_TYPES[part.dtype], pin_memory=pinned)
            for part in self.planes.fields
        }

    @property
    def row_bytes(self) -> int:
        """Bytes of one image as it is stored."""
        return sum(part.row_bytes for part in self.planes.fields)

    def everything(self) -> Tensor:
        """All images (N, H, W, C) in memory, a view of planar ones; every one is compared with its checksum."""
        whole = torch.empty((len(self), *self.shape), dtype=self.planes.dtype)

        def bring(places: NDArray[np.int64]) -> None:
            stored = self.buffer(len(places), pinned=False)
            self.read(places, stored)
            whole[places[0] : places[-1] + 1] = self.planes.image(stored)
            self.check(places, None)

        self._in_parts(bring)
        return whole.permute(0, 2, 3, 1)

    def in_own_memory(self) -> "StoredImages":
        """These images with a copy of their stored values in memory; every one is compared with its checksum."""
        whole = self.buffer(len(self), pinned=False)

        def bring(places: NDArray[np.int64]) -> None:
            self.read(places, {name: part[places[0] : places[-1] + 1] for name, part in whole.items()})
            self.check(places, None)

        self._in_parts(bring)
        fields = {part.name: whole[part.name].numpy().view(part.dtype) for part in self.planes.fields}
        return replace(self, rows=np.arange(len(self)), in_memory=fields)

    def _in_parts(self, bring: Callable[[NDArray[np.int64]], None]) -> None:
        """Have the threads do this with the places of all images, some at a time; the first error is raised."""
        size = max(1, _READ_BYTES // self.row_bytes)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="normhpc-read")
        try:
            starts = range(0, len(self), size)
            for _ in pool.map(lambda start: bring(np.arange(start, min(len(self), start + size))), starts):
                pass
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, rows: NDArray[np.int64], out: NDArray[np.generic]) -> None:
        for place, row in enumerate(rows.tolist()):
            pixels, _ = self.shards[row]
            if not isinstance(pixels, np.ndarray) or pixels.shape != out.shape[1:]:
                shape = "x".join(map(str, getattr(pixels, "shape", ())))
                message = (
                    f"row {row} is {shape}, expected {'x'.join(map(str, out.shape[1:]))}; "
                    "convert with --size, or set data.height and data.width"
                )
                raise DataError(Problem(message, file=str(self.shards.folder)))
            out[place] = pixels


@dataclass(frozen=True, slots=True)
class StoredSplit:
    """Images of a split that stay in their files, and their labels."""

    images: StoredImages
    labels: Tensor
    """int64 (N,), or uint8 (N, K) of 0 and 1 where an image has any number of labels."""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, rows: NDArray[np.int64]) -> "StoredSplit":
        """The images at ``rows`` of this split, in that order."""
        return StoredSplit(self.images.subset(rows), self.labels.index_select(0, torch.from_numpy(rows)))


class _Read:
    """Batches under way in one buffer, one after the other, of which those before the first of ``left`` were taken."""

    def __init__(
        self,
        batches: list[NDArray[np.int64]],
        buffer: dict[str, Tensor],
        parts: dict[str, Tensor],
        done: "Future[None]",
    ) -> None:
        self.left = deque(batches)
        self.buffer = buffer
        self.parts = parts
        """The buffer, as it is handed out."""
        self.done = done
        self.taken = 0
        """Images that were taken."""
        self.copied: torch.cuda.Event | None = None
        """Comes after the last copy to the device."""


class BatchReader:
    """Batches of stored images as (B, C, H, W) on a device, in the order in which they were announced.

    What was not announced is read when it is asked for, so that announcing changes the speed alone.
    """

    def __init__(self, images: StoredImages, device: torch.device) -> None:
        self.images = images
        self.device = device
        self._pool = ThreadPoolExecutor(images.threads, thread_name_prefix="normhpc-read")
        self._plan: Iterator[NDArray[np.int64]] = iter(())
        self._ahead: deque[_Read] = deque()
        self._free: list[dict[str, Tensor]] = []
        self._size = 0
        """Images that a buffer holds."""
        self._copied: deque[tuple[torch.cuda.Event, dict[str, Tensor]]] = deque()
        self._reads = 0

    def announce(self, plan: Iterable[NDArray[np.int64]]) -> None:
        """The batches that will be asked for next, each as places of images; replaces what was announced before."""
        self._forget()
        self._plan = iter(plan)
        self._read_ahead()

    def take(self, places: NDArray[np.int64]) -> Tensor:
        """(B, C, H, W) of stored values on the device, nobody else's; in memory the channels may come last.

        Raises :class:`~normhpc.errors.DataError` for what could not be read, with the file and the row.
        """
        if not self._ahead or not np.array_equal(self._ahead[0].left[0], places):
            self._forget()
            self._start([places])
        read = self._ahead[0]
        read.left.popleft()
        begin, end = read.taken, read.taken + len(places)
        read.taken = end
        try:
            read.done.result()
            taken = self._image(read, {name: part[begin:end] for name, part in read.parts.items()})
        finally:
            if not read.left:
                self._ahead.popleft()
                # or else the wait for it was interrupted
                if read.done.done():
                    self._end(read)
        self._read_ahead()
        if not self._ahead and self._size * self.images.row_bytes * (self.images.threads + 2) > _KEPT_BYTES:
            # nothing more is announced: an evaluation's large buffers must not lie beside those of the training
            self._free, self._size = [], 0
        return taken

    def close(self) -> None:
        """End the threads."""
        self._forget()
        self._pool.shutdown()

    def _image(self, read: _Read, parts: dict[str, Tensor]) -> Tensor:
        if self.device.type == "cpu":
            return self.images.planes.image(parts)
        on_device = {name: part.to(self.device, non_blocking=True) for name, part in parts.items()}
        read.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        read.copied.record()
        return self.images.planes.image(on_device).contiguous()

    def _forget(self) -> None:
        """Leave what was announced; what is being read is waited for, its buffers are used again."""
        self._plan = iter(())
        while self._ahead:
            read = self._ahead.popleft()
            if not read.done.cancel():
                read.done.exception()
            self._end(read)

    def _end(self, read: _Read) -> None:
        """See to it that the buffer is used again as soon as nobody reads from it."""
        if read.copied is not None:
            self._copied.append((read.copied, read.buffer))
        elif read.parts is read.buffer:
            self._free.append(read.buffer)

    def _read_ahead(self) -> None:
        while len(self._ahead) < self._depth():
            batches = self._next_batches()
            if not batches:
                return
            self._start(batches)

    def _next_batches(self) -> list[NDArray[np.int64]]:
        """The batches of the next read; none at the end of the plan."""
        batches, images = [], 0
        enough = min(_READ_BYTES, _BUFFER_BYTES // (self.images.threads + 2)) // self.images.row_bytes
        while not images or images < enough:
            places = next(self._plan, None)
            if places is None:
                break
            batches.append(places)
            images += len(places)
        return batches

    def _depth(self) -> int:
        """Reads under way: as many as threads, fewer where they would take too much memory, more where they are small.

        More of large ones would only spread the same copies over memory that no cache holds any more.
        """
        if not self._size:
            return 1
        size = self._size * self.images.row_bytes
        wanted = max(2, self.images.threads, _SMALL_READS * _READ_BYTES // size)
        return max(1, min(wanted, _BUFFER_BYTES // size - 1))

    def _start(self, batches: list[NDArray[np.int64]]) -> None:
        places = batches[0] if len(batches) == 1 else np.concatenate(batches)
        buffer = self._buffer(len(places))
        self._reads += 1
        # what is lent is the thread's as well, so that it is not free before it is filled
        parts = self._lent(buffer)
        done = self._pool.submit(self._fill, places, parts, self._reads)
        self._ahead.append(_Read(batches, buffer, parts, done))

    def _lent(self, buffer: dict[str, Tensor]) -> dict[str, Tensor]:
        """The buffer as it is handed out: where batches are views of it, it is free when the last of them is gone."""
        if self.device.type != "cpu" or not self.images.planes.is_plain:
            return buffer
        ((name, part),) = buffer.items()
        # every view of the tensor keeps this array alive, whatever is made of it
        array = part.numpy()
        weakref.finalize(array, self._free.append, buffer).atexit = False
        return {name: torch.from_numpy(array)}

    def _fill(self, places: NDArray[np.int64], buffer: dict[str, Tensor], number: int) -> None:
        self.images.read(places, buffer)
        self.images.check(places, number)

    def _buffer(self, images: int) -> dict[str, Tensor]:
        """A buffer that nobody reads from any more, of at least so many images."""
        # A copy comes after all that the device was given before: to wait for the last one would be to wait for the
        # step before it.
        while len(self._copied) > _COPIES or (self._copied and self._copied[0][0].query()):  # type: ignore[no-untyped-call]
            event, buffer = self._copied.popleft()
            event.synchronize()
            self._free.append(buffer)
        if images > self._size:
            self._size = images
        while self._free:
            buffer = self._free.pop()
            if all(len(part) >= images for part in buffer.values()):
                return buffer
        return self.images.buffer(self._size, pinned=self.device.type == "cuda")
