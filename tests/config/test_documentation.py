"""The configuration types are their own manual: nothing in them is undocumented."""

import pytest

from normhpc.config import Resources, RunConfig
from normhpc.config.problems import kinds_of

KINDS = [RunConfig, Resources, *(kind for field in RunConfig.model_fields.values() for kind in kinds_of(field))]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_type_and_field_is_documented(kind):
    assert (kind.__doc__ or "").strip()
    undocumented = [
        name for name, field in kind.model_fields.items() if name != "name" and not (field.description or "").strip()
    ]
    assert undocumented == []


def test_every_part_is_looked_at():
    assert {"BatchNorm", "GroupNorm", "ResNet", "Cifar10", "AdamW", "MultiStep", "Checkpoint"} <= {
        kind.__name__ for kind in KINDS
    }
