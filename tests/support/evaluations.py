"""What ranks compute when they evaluate together."""

from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist

from normhpc import data as image_data
from normhpc import models
from normhpc.config import RunConfig
from normhpc.config.data import Synthetic
from normhpc.data import Batches, ImageSplit
from normhpc.norms import running_statistics
from normhpc.train.evaluate import assess, evaluate
from normhpc.train.training import Training, merged_statistics
from normhpc.train.world import World

CONFIG = RunConfig.model_validate({"data": {"name": "digits", "val_fraction": 0.0}, "model": {"widths": [4, 8]}})
SHARES = [33, 32, 31]
SEVERAL = CONFIG.model_copy(update={"data": Synthetic(num_classes=10, multi_label=True)})
"""What an evaluation reads of a run whose images have several of ten labels."""
BLOCKS = 12
"""1,437 images in blocks of 125."""


def digits() -> Batches:
    """All training digits, as they are."""
    data = image_data.load(CONFIG.data)
    return Batches(data.train, data.mean, data.std, device="cpu", augment=None, seed=0)


def digits_of_several_labels() -> Batches:
    """The same images; each has its digit as a label, and at random others but the 9, which nobody has."""
    data = image_data.load(CONFIG.data)
    labels = torch.rand(len(data.train), 10, generator=torch.Generator().manual_seed(0)) < 0.2
    labels |= torch.nn.functional.one_hot(data.train.labels, 10).bool()
    labels[:, 9] = False
    split = ImageSplit(data.train.images, labels.to(torch.uint8))
    return Batches(split, data.mean, data.std, device="cpu", augment=None, seed=0)


def network() -> torch.nn.Module:
    """A network with random weights and running statistics."""
    torch.manual_seed(3)
    model = models.build(CONFIG)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.1)
    return model


def own_statistics(rank: int) -> dict[str, torch.Tensor]:
    """What the running statistics of a rank are."""
    generator = torch.Generator().manual_seed(rank)
    shapes = {name: value.shape for name, value in running_statistics(network()).items()}
    return {name: torch.rand(shape, generator=generator) + rank for name, shape in shapes.items()}


def evaluated(rank: int, world: int) -> dict[str, Any]:
    """Metrics of the same network on all ranks; and statistics of ranks that differ: merged, and put back."""
    here = World(rank, world, torch.device("cpu"), control=dist.new_group(backend="gloo") if world > 1 else None)
    model = network()
    metrics = evaluate(model, digits(), CONFIG, here)
    details = assess(model, digits(), CONFIG, here).details
    several = assess(model, digits_of_several_labels(), SEVERAL, here)
    training = cast(Training, SimpleNamespace(state=SimpleNamespace(model=model), world=here, shares=SHARES[:world]))
    own = running_statistics(model)
    for name, value in own_statistics(rank).items():
        own[name].copy_(value)
    with merged_statistics(training):
        merged = {name: value.clone() for name, value in own.items()}
        metrics_merged = evaluate(model, digits(), CONFIG, here)
    return {
        "metrics": metrics,
        "details": details,
        "several": several.metrics,
        "several_details": several.details,
        "metrics_merged": metrics_merged,
        "merged": merged,
        "after": own,
    }
