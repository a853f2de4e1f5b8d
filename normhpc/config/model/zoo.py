"""Networks of torchvision and timm, by name, with the run's norm at every place of theirs."""

import json
from collections.abc import Collection
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import Field

from normhpc.config.model.base import ModelPart
from normhpc.errors import did_you_mean


class ZooModel(ModelPart):
    """What networks from a library have in common."""

    name: str = ""
    weights: str | None = None
    """File of a pretrained state dict of the library's own network, read with ``weights_only``; null for fresh weights. The
    run's summary has its SHA-256."""
    replace_norms: bool = True
    """Put the run's norm at every place that has a norm; false trains the network with its own, whatever it is."""
    copy_affine: bool = False
    """Let the norms put in take weight, bias and running statistics of those they replace, where they fit."""
    post_add: Literal["keep"] = "keep"
    """Activations behind additions of branches stay, whatever the norm; recorded in the run's norm plan."""

    @property
    def library(self) -> str:
        """``torchvision`` or ``timm``."""
        return self.name.partition("/")[0]

    @property
    def known_as(self) -> str:
        """The name of the network in its library."""
        return self.name.partition("/")[2]


class TorchvisionModel(ZooModel):
    """A classifier of torchvision (``torchvision.models``), with the run's norm at its places and its own activations."""

    name: Annotated[str, Field(pattern=r"^torchvision/[a-z0-9_]+$", examples=["torchvision/<name>"])] = (
        "torchvision/resnet18"
    )


class TimmModel(ZooModel):
    """A classifier of timm, to be installed beside normhpc, with the run's norm at its places and its own activations."""

    name: Annotated[str, Field(pattern=r"^timm/[A-Za-z0-9_.]+$", examples=["timm/<name>"])] = "timm/resnet18"


@cache
def torchvision_sites() -> dict[str, dict[str, int]]:
    """Places of norms by kind in every classifier of torchvision, counted once by ``benchmarks/surgery_gate.py``."""
    table = files("normhpc.config.model") / "torchvision_sites.json"
    counts: dict[str, dict[str, int]] = json.loads(table.read_text())
    return counts


def unknown_network(library: str, name: str, known: Collection[str]) -> str:
    """The message for a network that ``library`` does not have."""
    hint = did_you_mean(name, known)
    return f"{library} has no classifier called {name!r}{hint}" + ("" if hint else f" among its {len(known)}")
