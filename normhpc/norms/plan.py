"""Which layer normalizes which place of a network: what a run records of it."""

import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import nn

from normhpc.files import canonical_json
from normhpc.norms.slot import Norm

Kind = Literal["norm_act", "lone", "token"]
KINDS: tuple[Kind, ...] = ("norm_act", "lone", "token")
"""A norm with the activation after it; without one; over the channels of each token or pixel, as layer norm is used."""

ATTRIBUTE = "norm_plan"
"""Where a rewritten network keeps its plan."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place of a network that is normalized."""

    name: str
    """Qualified name of the module there."""
    kind: Kind
    channels: int
    act: str
    """The activation that follows, also where the norm takes its place; ``none`` where there is none."""
    layer: str
    """The layer with its realized fields, as ``print`` shows it."""


@dataclass(frozen=True, slots=True)
class NormPlan:
    """All places of a network, in the order in which an image meets them."""

    sites: tuple[Site, ...]
    policies: dict[str, Any] = field(default_factory=dict)
    """How the places of a foreign network were rewritten."""
    kept: tuple[str, ...] = ()
    """Layers of a foreign network that are norms by their name and stay what they are, as ``name (Class)``."""

    @property
    def counts(self) -> dict[str, int]:
        """Sites per kind, without the kinds that do not occur."""
        found = Counter(site.kind for site in self.sites)
        return {kind: found[kind] for kind in KINDS if found[kind]}

    @property
    def summary(self) -> str:
        """``9 norm_act, 11 lone``, and how many norms of its own the network keeps."""
        kept = [f"{len(self.kept)} kept"] if self.kept else []
        return ", ".join([*(f"{count} {kind}" for kind, count in self.counts.items()), *kept])

    @property
    def digest(self) -> str:
        """16 hex digits: equal plans normalize the same places the same way."""
        return hashlib.blake2b(canonical_json(self.to_json()).encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "sites": [asdict(site) for site in self.sites],
            "policies": dict(self.policies),
            "kept": list(self.kept),
        }


def plan_of(model: nn.Module) -> NormPlan:
    """The plan of any network: the one it was rewritten by, else one read off its slots."""
    kept = getattr(model, ATTRIBUTE, None)
    if isinstance(kept, NormPlan):
        return kept
    return NormPlan(
        tuple(
            Site(name, "lone" if slot.act == "none" else "norm_act", slot.num_features, slot.act, str(slot))
            for name, slot in model.named_modules()
            if isinstance(slot, Norm)
        ),
        kept=foreign_norms(model),
    )


def foreign_norms(model: nn.Module) -> tuple[str, ...]:
    """The layers of ``model`` that are norms by their class's name but no slots, as ``name (Class)``."""
    return tuple(
        f"{name} ({type(module).__name__})"
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and not isinstance(module, Norm) and not list(module.children())
    )
