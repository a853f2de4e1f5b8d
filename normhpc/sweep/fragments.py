"""Resolved top-level fields of a configuration, each with its piece of the configuration's canonical JSON.

Runs of a sweep share most of their fields. A field is validated and encoded once per distinct value, and a
run is put together from the pieces: the same text and run id as from a :class:`RunConfig`, without building one.
"""

from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError, create_model

from normhpc.config import SCHEMA_VERSION, Resources, RunConfig
from normhpc.config.base import Part
from normhpc.config.identity import fields_outside_identity, identity_of
from normhpc.config.problems import Finding, findings_of
from normhpc.files import canonical_json
from normhpc.sweep.layers import Raw

_HASHED = sorted(set(RunConfig.model_fields) - {"seed"})
FIELDS = (*_HASHED, "seed", "resources")
"""The order of the states of a run: the fields as their canonical JSON sorts them, then the resources."""

POSITION = {name: position for position, name in enumerate(FIELDS)}
"""Where each field stands in :data:`FIELDS`."""

# The seed comes last in the canonical JSON, so that the seeds of a cell share the hash of everything before it.
assert _HASHED[-1] < "schema_version" < "seed"
JOINT = f'"schema_version":{SCHEMA_VERSION},"seed":'
"""What stands between the last hashed field and the seed."""


class State:
    """One top-level field of some runs, validated.

    ``value`` is what a :class:`RunConfig` would hold and ``json`` the same as JSON values; ``full`` and ``identity``
    are the field's pieces of the canonical JSON with and without what is outside the identity, each with its
    comma, both empty for the resources. ``findings`` tells what is wrong; then there is no value. Compared and hashed as an object, not by value.
    """

    __slots__ = ("field", "findings", "full", "identity", "json", "raw", "value")

    def __init__(self, field: str, raw: Raw) -> None:
        self.field = field
        self.raw = raw
        self.findings: list[Finding] = []
        self.value: Any = None
        self.json: Any = None
        self.full = self.identity = ""
        model = _alone(field)
        try:
            self.value = getattr(model.model_validate(raw.tree), field)
        except ValidationError as error:
            self.findings = findings_of(error, model)
            return
        self._encode()

    def _encode(self) -> None:
        key, value = f'"{self.field}":', self.value
        self.json = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        if self.field == "resources":
            return
        self.identity = self.full = f"{key}{canonical_json(self.json)},"
        if isinstance(value, BaseModel) and fields_outside_identity(type(value)):
            part = identity_of(value)
            self.identity = "" if part == {} else f"{key}{canonical_json(part)},"


@cache
def _alone(field: str) -> type[Part]:
    """A model with nothing but one field of :class:`RunConfig`, or the resources: same types, same default."""
    if field == "resources":
        return create_model("ResourcesAlone", __base__=Part, resources=(Resources, Resources()))
    info = RunConfig.model_fields[field]
    return create_model(f"{field.title()}Alone", __base__=Part, **{field: (info.rebuild_annotation(), info.default)})  # type: ignore[call-overload,no-any-return]
