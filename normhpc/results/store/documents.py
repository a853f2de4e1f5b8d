"""``run.json`` and ``summary.json`` of every run in one file, a line a run, as :mod:`normhpc.results.records` took them in.

What many runs have alike (the configuration without its seed, the swept fields) is there once. Lines of runs that did
not change are copied as they are.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from normhpc.results.store.folder import CacheFolder
from normhpc.results.store.marks import Mark

_FILE = "documents"
_SEPARATOR = b",\n"


@dataclass(frozen=True, slots=True)
class Document:
    """What stands in the two files of a run; ``summary`` is None while it is not sealed."""

    run_id: str
    sweep: str
    created: str
    code: str
    swept: Mapping[str, Any]
    config: Mapping[str, Any]
    summary: Mapping[str, Any] | None


class DocumentCache:
    """The documents of the runs in one folder, by the run's path in it."""

    def __init__(self, folder: CacheFolder) -> None:
        self._folder = folder
        self._found = folder.read_head(_FILE)
        self._lines: dict[str, bytes] = {}
        self._rows: dict[str, list[Any]] = {}
        self._parts: list[dict[str, Any]] = []
        self._numbers: dict[str, int] = {}
        self._changed = False
        if self._found:
            try:
                self._read(self._found)
            except (msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError):
                self._lines, self._rows, self._parts, self._numbers = {}, {}, [], {}

    def get(self, name: str, asked: Mark, sealed: Mark | None) -> Document | None:
        """The document of run ``name`` if its files are still those with these marks."""
        row = self._rows.get(name)
        if row is None or row[1:3] != [[*asked], None if sealed is None else [*sealed]]:
            return None
        _, _, _, run_id, sweep, created, code, swept, config, seed, summary = row
        return Document(run_id, sweep, created, code, self._parts[swept], self._parts[config] | {"seed": seed}, summary)

    def put(self, name: str, asked: Mark, sealed: Mark | None, document: Document) -> None:
        """Remember a document that was read from files with these marks."""
        swept, config = self._number(document.swept), self._number({**document.config, "seed": 0})
        seed = document.config["seed"]
        given = (document.run_id, document.sweep, document.created, document.code)
        row = [name, asked, sealed, *given, swept, config, seed, document.summary]
        self._lines[name] = json.dumps(row, separators=(",", ":")).encode()
        self._changed = True

    def save(self, directory: str) -> None:
        """Write what changed, without runs that are gone from ``directory``."""
        if self._changed:
            self._folder.update(lambda: self._write(directory))

    def _read(self, content: bytes) -> None:
        parts, *rows = msgspec.json.decode(b"[" + content + b"]")
        lines = content.split(_SEPARATOR)[1:]
        if not isinstance(parts, list):
            raise TypeError("expected a list of parts")
        self._parts = parts
        self._numbers = {json.dumps(part): number for number, part in enumerate(parts)}
        self._rows = {row[0]: row for row in rows}
        self._lines = {row[0]: line for row, line in zip(rows, lines, strict=True)}

    def _write(self, directory: str) -> None:
        if self._folder.read_head(_FILE) != self._found:
            # another process was faster; whatever differs is read again next time
            return
        for name in [name for name in self._lines if not os.path.exists(f"{directory}/{name}")]:  # noqa: PTH110
            del self._lines[name]
        parts = json.dumps(self._parts, separators=(",", ":")).encode()
        self._folder.write_head(_FILE, _SEPARATOR.join([parts, *self._lines.values()]))
        self._folder.remove_others(_FILE, {_FILE})

    def _number(self, part: Mapping[str, Any]) -> int:
        text = json.dumps(part)
        if text not in self._numbers:
            self._numbers[text] = len(self._parts)
            self._parts.append(dict(part))
        return self._numbers[text]
