"""Runs held against the configurations that a sweep file declares: which of them each run is, or what it has instead."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from normhpc.config import RunConfig
from normhpc.config.identity import identity_json
from normhpc.results.fields import at_path, leaves
from normhpc.results.records import RunRecord


class Place(NamedTuple):
    """Where a run stands among declared configurations."""

    declared: Mapping[str, Any]
    """The complete configuration, as JSON, that this run is, or that it differs from in the fewest fields."""
    differing: dict[str, Any]
    """The run's own value of each field, by dotted path, that is not as declared; empty for a run that was declared."""

    @property
    def settings(self) -> str:
        """``epochs=2 optim.lr=0.1``: what differs, on one line."""
        texts = {path: value if isinstance(value, str) else json.dumps(value) for path, value in self.differing.items()}
        return " ".join(f"{path}={text}" for path, text in texts.items())

    def fits(self, match: str) -> bool:
        """Whether the declared configuration has the values of ``match``: ``norm.name=group optim.l1=0 model.pre=true``.

        Numbers are compared as numbers, everything else as text; a field that is not there has the value ``none``.
        """
        fields = (field.partition("=") for field in match.split())
        return all(_is_spelled(at_path(self.declared, path), wanted) for path, _, wanted in fields)


def places(records: Iterable[RunRecord], declared: Iterable[RunConfig]) -> dict[str, Place]:
    """The place of every run of ``records``, by run id, among the configurations ``declared``, of which there are some.

    Compared is what enters the run id, without the seed: more seeds than declared are the same study. Of
    ``model.weights``, a path on one machine, only whether there is a file; its SHA-256 is in the run's summary.
    A run that another version wrote, whose fields may mean something else, differs in ``schema_version``.
    """
    cells: dict[frozenset[tuple[str, Any]], Mapping[str, Any]] = {}
    for config in declared:
        cells.setdefault(_identity(config), config.to_json())
    known = {cell: Place(config, {}) for cell, config in cells.items()}
    found = {}
    for record in records:
        own = _identity_of_record(record)
        if own not in known:
            nearest = min(cells, key=lambda cell: len(cell ^ own))
            paths = sorted({path for path, _ in nearest ^ own})
            values = dict(own)
            known[own] = Place(cells[nearest], {path: values.get(path) for path in paths})
        found[record.run_id] = known[own]
    return found


def _is_spelled(value: Any, wanted: str) -> bool:
    try:
        return float(value) == float(wanted)
    except (TypeError, ValueError):
        return str(value).lower() == wanted.lower()


def _identity_of_record(record: RunRecord) -> frozenset[tuple[str, Any]]:
    try:
        config = RunConfig.model_validate(record.config)
    except ValidationError:
        return _compared({**leaves(record.config), "schema_version": "another"})
    own = _identity(config)
    return own if config.run_id == record.run_id else _compared({**dict(own), "schema_version": "another"})


def _identity(config: RunConfig) -> frozenset[tuple[str, Any]]:
    return _compared(leaves(json.loads(identity_json(config))))


def _compared(fields: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    """What two runs of one cell have in common, lists as their JSON."""
    given = {path: json.dumps(value) if isinstance(value, list) else value for path, value in fields.items()}
    if given.get("model.weights") is not None:
        given["model.weights"] = "a file"
    return frozenset((path, value) for path, value in given.items() if path != "seed")
