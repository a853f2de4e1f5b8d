"""One file that a run goes on from, to the bit. Old or new, never half; damage is noticed before it is used."""

import dataclasses
import hashlib
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normhpc.data import rank_share
from normhpc.errors import CheckpointError
from normhpc.files import replace_file
from normhpc.norms import pooled_statistics, running_statistics
from normhpc.record import RunFolder
from normhpc.train.memory import lack_of_memory
from normhpc.train.state import EpochSums, TrainState
from normhpc.train.world import World

FORMAT = "normhpc-checkpoint"
FORMAT_VERSION = 1

_LONGEST = 200
"""Characters of what torch says about a state that does not fit, which may name every weight of a network."""


def save_checkpoint(folder: RunFolder, run_id: str, data_digest: str, state: TrainState, world: World) -> None:
    """Write ``checkpoint.pt``. Called by all ranks, which each give what is theirs alone; rank 0 writes.

    ``data_digest`` is that of the images which the run learns from.

    Raises OSError on rank 0 when the file cannot be written; the previous checkpoint is then untouched.
    """
    state.settle()
    own = {
        "sums": dataclasses.asdict(state.sums),
        "first_bad_step": state.first_bad_step,
        "statistics": _cpu(running_statistics(state.model)) if world.size > 1 else {},
    }
    by_rank = world.gather(own)
    if by_rank is None:
        return
    content = {"data_digest": data_digest, "shared": _cpu(state.shared()), "by_rank": by_rank}
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "run_id": run_id,
        "digest": digest(content),
        "content": content,
    }
    # serialized in memory first: an error of the disk inside torch's own writer would lose its errno
    buffer = io.BytesIO()
    torch.save(document, buffer)
    replace_file(folder.checkpoint, lambda file: file.write(buffer.getbuffer()))


def load_checkpoint(
    folder: RunFolder, run_id: str, data_digest: str, state: TrainState, world: World, shares: Sequence[int]
) -> bool:
    """Take ``state`` back to the newest checkpoint; False when there is none.

    With as many ranks as wrote it each gets its own part back and the run continues bit for bit; with another
    number the sums of the epoch go to rank 0 and all share the running statistics of rank 0.

    Raises :class:`CheckpointError` for a damaged file, one of another run or of other code, and images other than those
    it was trained on: where they lie is no part of a run's identity, what they are must not change on the way.
    """
    if not folder.checkpoint.exists():
        return False
    content = read_checkpoint(folder, run_id)
    # the first checkpoints of normhpc do not say it
    if (seen := content.get("data_digest", data_digest)) != data_digest:
        raise CheckpointError(
            f"{folder.checkpoint}: expected the images that the run was trained on so far (digest {seen}), got others "
            f"(digest {data_digest}); put the files back or {_anew(folder)}"
        )
    try:
        state.restore_shared(content["shared"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        if lack_of_memory(error) is not None:
            raise
        raise CheckpointError(
            f"{folder.checkpoint}: does not fit the network and optimizer of this version of normhpc and torch "
            f"({' '.join(str(error).split())[:_LONGEST]}); go on with the code that wrote it or {_anew(folder)}"
        ) from None
    by_rank = content["by_rank"]
    if len(by_rank) == world.size:
        own = by_rank[world.rank]
        state.sums = EpochSums(**own["sums"])
        restore_statistics(state.model, own["statistics"])
        state.first_bad_step = own["first_bad_step"]
        return True
    state.first_bad_step = min((step for part in by_rank if (step := part["first_bad_step"]) is not None), default=None)
    if world.leads:
        state.sums = EpochSums(*(sum(part["sums"][name] for part in by_rank) for name in ("loss", "top1", "images")))
    return True


def read_checkpoint(folder: RunFolder, run_id: str) -> dict[str, Any]:
    """The content of ``checkpoint.pt``, checked. Raises :class:`CheckpointError`."""
    path = folder.checkpoint
    cure = f"put back the file that this run wrote, or {_anew(folder)}" if folder.summary.exists() else _anew(folder)
    # read first: torch answers a truncated file with an OSError too, which would pass for one of the disk
    stored = io.BytesIO(path.read_bytes())
    try:
        document = torch.load(stored, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: damaged, cannot be read ({first}); {cure}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of normhpc; {cure}")
    if document.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: has format version {document.get('format_version')}, this is {FORMAT_VERSION}; {cure}"
        )
    if document.get("run_id") != run_id:
        raise CheckpointError(
            f"{path}: belongs to run {document.get('run_id')}, but this folder is run {run_id}; move it back or "
            f"{_anew(folder)}"
        )
    if digest(document.get("content")) != document.get("digest"):
        raise CheckpointError(f"{path}: damaged, its content does not match its digest; {cure}")
    content: dict[str, Any] = document["content"]
    return content


def _anew(folder: RunFolder) -> str:
    """What has the run trained from its start: without a checkpoint it is, unless it has its result already."""
    if folder.summary.exists():
        return f"delete {folder.path} and launch the sweep again"
    return "delete it to train the run again from the start"


def last_weights(folder: RunFolder, run_id: str, batch_size: int) -> dict[str, Tensor]:
    """The ``state_dict`` that the run evaluates with at its newest checkpoint, averaged where it averages weights.

    Running statistics of all ranks are pooled; ``batch_size`` is the run's: the images of a rank are its weight.
    Raises :class:`CheckpointError`.
    """
    content = read_checkpoint(folder, run_id)
    shared = content["shared"]
    weights: dict[str, Tensor] = shared["model"] | shared.get("average", {})
    own = [part["statistics"] for part in content["by_rank"]]
    stacked = {name: torch.stack([part[name] for part in own]) for name in own[0]}
    parts = [rank_share(batch_size, rank, len(own)) for rank in range(len(own))]
    return weights | pooled_statistics(stacked, torch.tensor([part.stop - part.start for part in parts]))


def save_weights(folder: RunFolder, state: TrainState) -> None:
    """Write ``best.pt``: the plain ``state_dict`` of the network as it is now, for use outside normhpc."""
    buffer = io.BytesIO()
    torch.save(_cpu(state.model.state_dict()), buffer)
    replace_file(folder.best, lambda file: file.write(buffer.getbuffer()))


def restore_statistics(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put back running statistics that :func:`~normhpc.norms.running_statistics` named."""
    own = running_statistics(model)
    for name, value in saved.items():
        own[name].copy_(value)


def digest(value: Any) -> str:
    """SHA-256 over every tensor's bytes and every scalar of a nested value, independent of the file's layout."""
    hashed = hashlib.sha256()
    for piece in _pieces(value):
        hashed.update(piece)
    return hashed.hexdigest()


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        yield f"tensor {value.dtype} {tuple(value.shape)};".encode()
        yield flat.view(torch.uint8).numpy().data if flat.numel() else b""
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)};".encode()
        for key, item in value.items():
            yield repr(key).encode()
            yield from _pieces(item)
    elif isinstance(value, list | tuple):
        yield f"sequence {len(value)};".encode()
        for item in value:
            yield from _pieces(item)
    elif isinstance(value, float):
        yield b"float" + struct.pack("<d", value)
    else:
        yield f"{type(value).__name__} {value!r};".encode()


def _cpu(value: Any) -> Any:
    if isinstance(value, Tensor):
        copied = value.detach().cpu()
        # a file holds whole storages: that of one of several networks trained together is that of all of them
        return copied if copied.untyped_storage().nbytes() == copied.nbytes else copied.clone()
    if isinstance(value, Mapping):
        return {key: _cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_cpu(item) for item in value)
    return value
