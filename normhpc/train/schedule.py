"""The learning rate as a pure function of time: nothing to save, nothing to restore."""

import math

from normhpc.config.training import Constant, Cosine, MultiStep, ScheduleConfig, Step


def lr_factor(schedule: ScheduleConfig, update: int, updates_per_epoch: int, epochs: int) -> float:
    """What the peak learning rate is multiplied by for optimizer update number ``update`` (from 0).

    During warmup of w updates the factor is (update + 1) / w, so that the first update already moves and the
    last one of the warmup runs at the peak. After it, with t = (update - w) / (total - w) in [0, 1):

    - constant: 1
    - cosine: f + (1 - f) (1 + cos(pi t)) / 2 with f = ``final_factor``
    - step: ``factor`` ** (finished epochs // ``every_epochs``)
    - multistep: ``factor`` ** (number of milestones <= finished epochs)
    """
    warmup = schedule.warmup_epochs * updates_per_epoch
    if update + 1 < warmup:
        return (update + 1) / warmup
    epoch = update // updates_per_epoch
    match schedule:
        case Constant():
            return 1.0
        case Cosine():
            total = epochs * updates_per_epoch
            progress = min(1.0, max(0.0, (update - warmup) / max(1.0, total - warmup)))
            return schedule.final_factor + (1 - schedule.final_factor) * (1 + math.cos(math.pi * progress)) / 2
        case Step():
            return schedule.factor ** (epoch // schedule.every_epochs)
        case MultiStep():
            return schedule.factor ** sum(milestone <= epoch for milestone in schedule.milestones)
