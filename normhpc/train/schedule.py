"""The learning rate as a pure function of time, and for plateaus of what the val loss has done so far."""

import math
from fractions import Fraction

from normhpc.config.training import Constant, Cosine, MultiStep, Plateau, ScheduleConfig, Step, TwoLevel
from normhpc.train.state import Position


def lr_factor(schedule: ScheduleConfig, update: int, updates_per_epoch: int, epochs: int, drops: int = 0) -> float:
    """What the peak learning rate is multiplied by for optimizer update number ``update`` (from 0).

    During warmup of w updates the factor is (update + 1) / w, so that the first update already moves and the
    last one of the warmup runs at the peak. After it, with t = (update - w) / (total - w) in [0, 1):

    - constant: 1
    - cosine: f + (1 - f) (1 + cos(pi t)) / 2 with f = ``final_factor``
    - step: ``factor`` ** (finished epochs // ``every_epochs``)
    - multistep: ``factor`` ** (number of milestones <= finished epochs)
    - two_level: 1 before update number :func:`drop_update`, ``factor`` from there on
    - plateau: ``factor`` ** ``drops``, which :func:`follow_val_loss` counts
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
        case TwoLevel():
            return 1.0 if update < drop_update(schedule, updates_per_epoch, epochs) else schedule.factor
        case Plateau():
            return schedule.factor**drops


def drop_update(schedule: TwoLevel, updates_per_epoch: int, epochs: int) -> int:
    """Number (from 0) of the first update at the low level: W + ceil(``drop_at`` (total - W)).

    W = ceil(``warmup_epochs`` x ``updates_per_epoch``) are the updates of the warmup. Both numbers are taken as the
    decimals they are written as: 0.07 of 100 updates are 7, though the nearest binary number to 0.07 is above it.
    """
    warmup = math.ceil(Fraction(str(schedule.warmup_epochs)) * updates_per_epoch)
    return warmup + math.ceil(Fraction(str(schedule.drop_at)) * (epochs * updates_per_epoch - warmup))


def follow_val_loss(schedule: ScheduleConfig, position: Position, loss: float) -> None:
    """Count the drops of a plateau after an epoch with this ``val`` loss; nothing for other schedules.

    An epoch is good when its loss is below (1 - ``threshold``) times the lowest so far, and the loss is then the
    lowest. After more than ``patience`` epochs in a row that are not, the rate drops and the count of them starts
    anew. So torch's ReduceLROnPlateau with mode min, threshold_mode rel and eps 0. A loss that is no number is not
    good, and epochs that end within the warmup are not looked at.
    """
    if not isinstance(schedule, Plateau) or position.epoch < schedule.warmup_epochs:
        return
    if loss < position.lowest_val_loss * (1.0 - schedule.threshold):
        position.lowest_val_loss = loss
        position.epochs_without_fall = 0
    else:
        position.epochs_without_fall += 1
    if position.epochs_without_fall > schedule.patience:
        position.lr_drops += 1
        position.epochs_without_fall = 0
