"""Exact evaluation: every image once, the same answer to the last bit at any number of ranks."""

import math

import torch
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.data import Labels
from normhpc.data import Batches
from normhpc.train.metrics import Evaluation
from normhpc.train.multi_label import MultiLabel
from normhpc.train.precision import autocast
from normhpc.train.single_label import SingleLabel
from normhpc.train.world import World

BLOCK = 125
"""Images a forward pass sees at once: few enough for a processor's cache. Fixed, because rounding may depend on it."""


_KINDS: dict[Labels, type[SingleLabel | MultiLabel]] = {"single": SingleLabel, "multi": MultiLabel}


def evaluate(model: nn.Module, batches: Batches, config: RunConfig, world: World) -> dict[str, float]:
    """The metrics of :func:`assess`."""
    return assess(model, batches, config, world).metrics


@torch.inference_mode()
def assess(model: nn.Module, batches: Batches, config: RunConfig, world: World) -> Evaluation:
    """Metrics of ``model`` in evaluation mode over all images of ``batches``, and results by class.

    Which ones there are depends on the labels: :class:`~normhpc.train.single_label.SingleLabel` or
    :class:`~normhpc.train.multi_label.MultiLabel`. Blocks of images are dealt out over the ranks; what is measured
    of an image lands in its own row of arrays that are summed exactly, and every rank computes the metrics from
    them, so neither the number of ranks nor their order changes a bit of the result.
    """
    rows = len(batches)
    measured = _KINDS[config.data.labels()](rows, config.data.classes(), world.device)
    was_training = model.training
    model.eval()
    blocks = [
        (block * BLOCK, min(rows, (block + 1) * BLOCK))
        for block in range(world.rank, math.ceil(rows / BLOCK), world.size)
    ]
    batches.expect_blocks(blocks)
    for start, stop in blocks:
        images, labels = batches.evaluate(start, stop)
        with autocast(config.precision, world.device):
            logits = model(images)
        measured.put(start, logits, labels)
    model.train(was_training)
    for part in measured.parts:
        world.sum(part)
    return measured.evaluation()
