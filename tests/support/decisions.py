"""Two ranks that vote."""

import torch
import torch.distributed as dist

from normhpc.train.stop import Agreement, Decision
from normhpc.train.world import World

WISHES: list[tuple[Decision, Decision]] = [
    (Decision(), Decision()),
    (Decision(), Decision(stop=True)),
    (Decision(save=True), Decision()),
    (Decision(diverged_step=7), Decision(diverged_step=5)),
    (Decision(), Decision(diverged_step=0)),
    (Decision(stop=True), Decision(save=True, diverged_step=9)),
]
"""What each rank wants after each step."""


def votes(rank: int, world: int) -> list[list[int]]:
    """What is decided after every step, at the end and once more, as numbers."""
    agreement = Agreement(World(rank, world, torch.device("cpu"), control=dist.new_group(backend="gloo")))
    found = [agreement.decide(**wish[rank]._asdict()) for wish in WISHES] + [agreement.last(), agreement.last()]
    steps = [-1 if decision.diverged_step is None else decision.diverged_step for decision in found]
    return [[int(decision.stop), int(decision.save), step] for decision, step in zip(found, steps, strict=True)]
