"""Exact evaluation: every image once, the same answer to the last bit at any number of ranks."""

import math

import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.data import Batches
from normhpc.train.metrics import MEASURES, per_image
from normhpc.train.precision import autocast
from normhpc.train.world import World

BLOCK = 500
"""Images a forward pass sees at once. Fixed, because rounding may depend on it."""


@torch.inference_mode()
def evaluate(model: nn.Module, batches: Batches, config: RunConfig, world: World) -> dict[str, float]:
    """Mean loss, top1 and top5 of ``model`` in evaluation mode over all images of ``batches``.

    Blocks of images are dealt out over the ranks; each image's measures land in their own row of one array,
    which is summed exactly, so neither the number of ranks nor their order changes a bit of the result.
    """
    rows = len(batches)
    measured = torch.zeros(rows, len(MEASURES), dtype=torch.float64, device=world.device)
    was_training = model.training
    model.eval()
    for block in range(world.rank, math.ceil(rows / BLOCK), world.size):
        start, stop = block * BLOCK, min(rows, (block + 1) * BLOCK)
        images, labels = batches.evaluate(start, stop)
        with autocast(config.precision, world.device):
            logits = model(images)
        measured[start:stop] = per_image(logits, labels)
    model.train(was_training)
    columns = world.sum(measured).T.tolist()
    return {name: math.fsum(column) / rows for name, column in zip(MEASURES, columns, strict=True)}
