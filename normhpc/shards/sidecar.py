"""``<split>-00000.json``: what is known of a finished shard until all are there and the index says it."""

from pathlib import Path

from pydantic import ValidationError

from normhpc.config.base import NonNegativeInt, Part
from normhpc.files import replace_json
from normhpc.shards.index import Sha256
from normhpc.shards.rows import Sums


class Sidecar(Part):
    """One shard of ``rows`` images; none of them could be read and there is no file when ``rows`` is 0."""

    plan_sha256: Sha256
    file: str
    rows: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str
    offsets: dict[str, NonNegativeInt]
    stats: dict[str, Sums]
    positives: tuple[NonNegativeInt, ...]
    skipped: tuple[tuple[int | str, str], ...]


def sidecar_path(shard: Path) -> Path:
    """Where the sidecar of a shard lies."""
    return shard.with_suffix(".json")


def write_sidecar(shard: Path, sidecar: Sidecar) -> None:
    """Write it beside the shard, in one step."""
    replace_json(sidecar_path(shard), sidecar.model_dump(mode="json"))


def finished_shard(shard: Path, plan_sha256: str) -> Sidecar | None:
    """The sidecar of ``shard`` when it belongs to this plan and the file has its size, else nothing."""
    try:
        sidecar = Sidecar.model_validate_json(sidecar_path(shard).read_bytes())
        fits = sidecar.rows == 0 or shard.stat().st_size == sidecar.bytes
    except (FileNotFoundError, ValidationError):
        return None
    return sidecar if fits and sidecar.plan_sha256 == plan_sha256 else None
