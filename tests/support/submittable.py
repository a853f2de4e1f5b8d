"""Runs as a submission sees them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from normhpc.config import Resources, RunConfig

CONFIG = json.dumps(RunConfig.model_validate({}).to_json())


@dataclass
class SomeRun:
    run_id: str
    resources: Resources = field(default_factory=Resources)
    config_json: str = CONFIG
    swept: Mapping[str, Any] = field(default_factory=dict)


def runs(count: int, **resources: int) -> list[SomeRun]:
    return [SomeRun(f"{number:016x}", Resources.model_validate(resources)) for number in range(count)]
