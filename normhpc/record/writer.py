"""The writing side of a record, used by rank 0 of a run."""

import contextlib
import hashlib
import math
from collections.abc import Mapping
from typing import Any

from normhpc.files import replace_json
from normhpc.record.folder import RunFolder, timestamp
from normhpc.record.journal import Journal, finite, read_journal


class RecordWriter:
    """Appends what happens to a run, and seals it at the end."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.attempt = 1 + sum(row.get("event") in ("started", "resumed") for row in read_journal(folder.events).rows)
        """1 for the first start of the run, one more after each."""
        with contextlib.ExitStack() as opened:
            self._events = opened.enter_context(Journal(folder.events))
            self._metrics = opened.enter_context(Journal(folder.metrics))
            self._opened = opened.pop_all()

    def event(self, kind: str, **details: Any) -> None:
        """Append to ``events.jsonl``."""
        self._events.append({"time": timestamp(), "attempt": self.attempt, "event": kind, **details})

    def metrics(self, *, epoch: int, step: int, split: str, values: Mapping[str, float]) -> None:
        """Append to ``metrics.jsonl``. A value that is not finite is written as null and told as a warning."""
        self._metrics.append(
            {"time": timestamp(), "attempt": self.attempt, "epoch": epoch, "step": step, "split": split, **values}
        )
        odd = sorted(name for name, value in values.items() if not math.isfinite(value))
        if odd:
            self.event("warning", message=f"{split} {', '.join(odd)} not finite", epoch=epoch, step=step)

    def seal(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``, which says the run is over and what its metrics file must look like."""
        content = self.folder.metrics.read_bytes()
        measured = {
            "rows": sum(1 for line in content.split(b"\n") if line.strip()),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        self.event(str(summary["state"]))
        replace_json(self.folder.summary, finite({**summary, "metrics": measured}))

    def close(self) -> None:
        """Close the journals."""
        self._opened.close()


def append_event(folder: RunFolder, kind: str, **details: Any) -> None:
    """Append one event from outside the run: by a launcher, or by a command."""
    with Journal(folder.events) as journal:
        journal.append({"time": timestamp(), "event": kind, **details})
