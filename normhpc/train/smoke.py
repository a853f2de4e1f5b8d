"""Does it run at all? Every distinct case is built for real and takes one step on a few random images."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from normhpc import data as image_data
from normhpc.config import Resources, RunConfig
from normhpc.config.data import DataConfig, Synthetic
from normhpc.errors import NormhpcError
from normhpc.norms import plan_of
from normhpc.train.setup import build_batches, build_state
from normhpc.train.startup import prepare_torch
from normhpc.train.step import train_step
from normhpc.train.world import joined_world

_IMAGES = 4


def try_cases(cases: Sequence[tuple[str, RunConfig]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Try each (label, configuration): ``case``, ``seconds``, norm ``sites`` by kind and ``why`` it failed.

    ``why`` is empty when the case passed, ``sites`` when nothing was built.

    The images of every distinct data set are loaded once, so that missing files are found; the step is taken on
    random images of the same shape. ``tell`` hears of each case before it is tried.
    """
    sets = {config.data.model_dump_json(): config.data for _, config in cases}
    outcomes = [_outcome(f"data {data.name}", partial(_load, data), tell) for data in sets.values()]
    return outcomes + [_outcome(label, partial(_one_step, config), tell) for label, config in cases]


def _outcome(case: str, attempt: Callable[[], str], tell: Callable[[str], None]) -> dict[str, Any]:
    tell(f"trying {case}")
    began = time.perf_counter()
    sites = why = ""
    try:
        sites = attempt()
    except NormhpcError as error:
        why = str(error)
    except Exception as error:
        # a model or layer may fail in any way; the table is where the user reads of it
        why = f"{type(error).__name__}: {error}"
    return {"case": case, "seconds": time.perf_counter() - began, "sites": sites, "why": why}


def _load(data: DataConfig) -> str:
    image_data.load(data)
    return ""


def _one_step(config: RunConfig) -> str:
    """Take the step; returns the network's norm sites by kind."""
    channels, height, width = config.data.image_shape()
    stand_in = Synthetic(
        images=_IMAGES,
        test_images=1,
        channels=channels,
        height=height,
        width=width,
        num_classes=config.data.classes(),
        val_fraction=0.0,
    )
    optim = config.optim.model_copy(update={"accumulate": 1})
    config = config.model_copy(update={"data": stand_in, "optim": optim, "batch_size": _IMAGES})
    prepare_torch(config, Resources())
    images = image_data.load(stand_in)
    with joined_world() as world:
        state = build_state(config, world)
        batches = build_batches(config, images, images.train, world, train=True)
        train_step(state, batches, np.arange(_IMAGES), config, world, updates_per_epoch=1)
        state.settle()
        if state.first_bad_step is not None:
            raise FloatingPointError("the loss of the first step is not finite")
        return plan_of(state.model).summary
