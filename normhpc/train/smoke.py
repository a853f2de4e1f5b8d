"""Does it run at all? Every distinct case is built for real and takes one step on a few random images.

A statistic over the batch has as many images as the least of the run's, where those are fewer.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from normhpc import data as image_data
from normhpc.config import Resources, RunConfig
from normhpc.config.data import DataConfig, Synthetic
from normhpc.errors import InputError, NormhpcError
from normhpc.norms import plan_of
from normhpc.train.setup import build_batches, build_state, check_shares, images_per_statistic, shares_of
from normhpc.train.startup import prepare_torch
from normhpc.train.step import train_step
from normhpc.train.world import joined_world

_IMAGES = 4


def try_cases(cases: Sequence[tuple[str, RunConfig, int]], tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Try each (label, configuration, ranks): ``case``, ``seconds``, norm ``sites`` by kind and ``why`` it failed.

    ``why`` is empty when the case passed, ``sites`` when nothing was built.

    The images of every distinct data set are loaded once, so that missing files are found; the step is taken on
    random images of the same shape. ``tell`` hears of each case before it is tried.
    """
    sets = {config.data.model_dump_json(): config.data for _, config, _ in cases}
    outcomes = [_outcome(f"data {data.name}", partial(_load, data), tell) for data in sets.values()]
    return outcomes + [_outcome(label, partial(_one_step, config, ranks), tell) for label, config, ranks in cases]


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


def _one_step(run: RunConfig, ranks: int) -> str:
    """Take the step; returns the network's norm sites by kind."""
    check_shares(run, ranks)
    channels, height, width = run.data.image_shape()
    stand_in = Synthetic(
        images=_IMAGES,
        test_images=1,
        channels=channels,
        height=height,
        width=width,
        num_classes=run.data.classes(),
        multi_label=run.data.labels() == "multi",
        normalize=run.data.normalize,
        val_fraction=0.0,
    )
    optim = run.optim.model_copy(update={"accumulate": 1})
    config = run.model_copy(update={"data": stand_in, "optim": optim})
    prepare_torch(config, Resources())
    images = image_data.load(stand_in)
    with joined_world() as world:
        state = build_state(config, world)
        batches = build_batches(config, images, images.train, world, train=True)
        behind = images_per_statistic(state.model, run, shares_of(run.batch_size, ranks)) or [_IMAGES]
        count = min(_IMAGES, *behind)
        config = config.model_copy(update={"batch_size": count})
        try:
            train_step(state, batches, np.arange(count), config, world, updates_per_epoch=1)
        except InputError as error:
            if count == _IMAGES:
                raise
            raise InputError(
                f"{error}; with batch_size {run.batch_size}, {ranks} ranks and accumulate {run.optim.accumulate} the "
                f"statistics of this run are over {' and '.join(map(str, behind))} images"
            ) from None
        state.settle()
        if state.first_bad_step is not None:
            raise FloatingPointError("the loss of the first step is not finite")
        return plan_of(state.model).summary
