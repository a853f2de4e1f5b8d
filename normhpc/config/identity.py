"""The name of a run: a hash of everything that can change its result.

``run_id`` is the first 16 hex digits of BLAKE2b over the canonical JSON of the resolved configuration,
defaults included, fields outside the identity left out, with ``schema_version`` beside the other keys.
"""

import hashlib
from functools import cache
from typing import Any

from pydantic import BaseModel

from normhpc.files import canonical_json

SCHEMA_VERSION = 3
"""Raised whenever a default or a meaning changes, so that old results never belong to new runs."""


@cache
def fields_outside_identity(part: type[BaseModel]) -> frozenset[str]:
    """Names of the fields of ``part`` that cannot change a result."""
    return frozenset(
        name
        for name, field in part.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("identity") is False
    )


def identity_of(value: Any) -> Any:
    """The JSON value of one top-level field as it enters the hash; an empty mapping when nothing of it does."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude=set(fields_outside_identity(type(value))))
    return value


def identity_json(config: BaseModel) -> str:
    """The canonical JSON of a :class:`RunConfig` that is hashed. ``checkpoint``, which has nothing in the identity, is absent."""
    fields = {name: identity_of(getattr(config, name)) for name in type(config).model_fields}
    return canonical_json(
        {name: value for name, value in fields.items() if value != {}} | {"schema_version": SCHEMA_VERSION}
    )


def run_id(config: BaseModel) -> str:
    """16 hex digits for a :class:`RunConfig`."""
    return hash_identity(identity_json(config))


def hash_identity(text: str) -> str:
    """16 hex digits for a canonical JSON."""
    return hashlib.blake2b(text.encode()).hexdigest()[:16]
