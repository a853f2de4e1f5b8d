"""Every schedule against its closed form at every update of a run."""

import math
from fractions import Fraction

import pytest
import torch

from normhpc.config.training import Constant, Cosine, MultiStep, Plateau, Step, TwoLevel
from normhpc.train.schedule import drop_update, follow_val_loss, lr_factor
from normhpc.train.state import Position

WARMUPS = (0.0, 0.3, 0.5, 1.0, 2.0, 2.55)


def factors(schedule, updates_per_epoch, epochs):
    return [lr_factor(schedule, update, updates_per_epoch, epochs) for update in range(updates_per_epoch * epochs)]


def ramp(update, warmup_epochs, updates_per_epoch):
    """(update + 1) / w while that is below 1, in exact arithmetic; None after the warmup."""
    warmup = Fraction(warmup_epochs) * updates_per_epoch
    return float((update + 1) / warmup) if update + 1 < warmup else None


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize(("updates_per_epoch", "epochs"), [(1, 4), (7, 5), (10, 3)])
class TestClosedForms:
    def test_constant(self, warmup, updates_per_epoch, epochs):
        for update, factor in enumerate(factors(Constant(warmup_epochs=warmup), updates_per_epoch, epochs)):
            assert factor == pytest.approx(ramp(update, warmup, updates_per_epoch) or 1.0, rel=1e-12)

    @pytest.mark.parametrize("final", [0.0, 0.1])
    def test_cosine(self, warmup, updates_per_epoch, epochs, final):
        schedule = Cosine(warmup_epochs=warmup, final_factor=final)
        start, total = warmup * updates_per_epoch, updates_per_epoch * epochs
        for update, factor in enumerate(factors(schedule, updates_per_epoch, epochs)):
            past = max(0.0, update - start)
            half_wave = final + (1 - final) * math.cos(math.pi / 2 * past / (total - start)) ** 2
            assert factor == pytest.approx(ramp(update, warmup, updates_per_epoch) or half_wave, rel=1e-12, abs=1e-15)

    def test_step(self, warmup, updates_per_epoch, epochs):
        schedule = Step(warmup_epochs=warmup, every_epochs=2, factor=0.3)
        drops = [0.3 ** (epoch // 2) for epoch in range(epochs) for _ in range(updates_per_epoch)]
        for update, factor in enumerate(factors(schedule, updates_per_epoch, epochs)):
            assert factor == pytest.approx(ramp(update, warmup, updates_per_epoch) or drops[update], rel=1e-12)

    def test_multistep(self, warmup, updates_per_epoch, epochs):
        schedule = MultiStep(warmup_epochs=warmup, milestones=(1, 2), factor=0.5)
        for update, factor in enumerate(factors(schedule, updates_per_epoch, epochs)):
            epoch = update // updates_per_epoch
            dropped = 1.0 if epoch < 1 else 0.5 if epoch < 2 else 0.25
            assert factor == pytest.approx(ramp(update, warmup, updates_per_epoch) or dropped, rel=1e-12)

    @pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.75, 0.99])
    def test_two_level(self, warmup, updates_per_epoch, epochs, share):
        schedule = TwoLevel(warmup_epochs=warmup, drop_at=share, factor=0.2)
        start = math.ceil(Fraction(round(100 * warmup), 100) * updates_per_epoch)
        after = updates_per_epoch * epochs - start
        for update, factor in enumerate(factors(schedule, updates_per_epoch, epochs)):
            # in hundredths of an update: done of the `after` updates, before this one
            level = 0.2 if 100 * (update - start) >= round(100 * share) * after and update >= start else 1.0
            assert factor == pytest.approx(ramp(update, warmup, updates_per_epoch) or level, rel=1e-12)

    @pytest.mark.parametrize("drops", [0, 1, 3])
    def test_plateau(self, warmup, updates_per_epoch, epochs, drops):
        schedule = Plateau(warmup_epochs=warmup, factor=0.5)
        for update in range(updates_per_epoch * epochs):
            factor = lr_factor(schedule, update, updates_per_epoch, epochs, drops)
            assert factor == pytest.approx(ramp(update, warmup, updates_per_epoch) or 2.0**-drops, rel=1e-12)


def test_two_levels_are_counted_in_decimals():
    """0.07 x 100 and 1.1 x 10 are 7.000000000000001 and 11.000000000000002 in binary numbers."""
    assert drop_update(TwoLevel(drop_at=0.07), 100, 1) == 7
    assert drop_update(TwoLevel(drop_at=0.5, warmup_epochs=1.1), 10, 2) == 11 + 5
    assert drop_update(TwoLevel(drop_at=0.75, warmup_epochs=5), 196, 60) == 5 * 196 + 55 * 147
    # a share of an update counts as a whole one at the peak
    assert [drop_update(TwoLevel(drop_at=share), 10, 1) for share in (0.1, 0.11, 0.99)] == [1, 2, 10]


def of_torch(losses, *, factor, patience, threshold):
    """The rate before each epoch by torch's scheduler, of a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode="min", threshold_mode="rel", factor=factor, patience=patience, threshold=threshold, eps=0.0
    )
    rates = []
    for loss in losses:
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(loss)
    return rates


def losses_of(kind):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, generator=generator, dtype=torch.float64)
    return {
        "noise": (1 + 0.1 * noise).tolist(),
        "falling": (torch.linspace(2, 1, 200) + 0.02 * noise).tolist(),
        "slowly": [0.9995**epoch for epoch in range(200)],
        "never": [1.0] * 200,
        "no_number": [math.nan, 1.0, math.nan, math.inf, 0.5, math.nan, 0.5, 0.4, math.nan, 0.1],
        "below_zero": [-(1.01**epoch) for epoch in range(20)],
    }[kind]


@pytest.mark.parametrize("kind", ["noise", "falling", "slowly", "never", "no_number", "below_zero"])
@pytest.mark.parametrize(
    ("factor", "patience", "threshold"), [(0.1, 10, 1e-4), (0.3, 0, 1e-4), (0.5, 2, 0.0), (0.9, 3, 0.1)]
)
def test_a_plateau_drops_when_torchs_does(kind, factor, patience, threshold):
    schedule = Plateau(factor=factor, patience=patience, threshold=threshold)
    position, found = Position(), []
    for loss in losses_of(kind):
        found.append(lr_factor(schedule, position.epoch, 1, 1000, position.lr_drops))
        position.epoch += 1
        follow_val_loss(schedule, position, loss)
    assert found == pytest.approx(
        of_torch(losses_of(kind), factor=factor, patience=patience, threshold=threshold), rel=1e-9, abs=0
    )


def test_a_plateau_looks_at_no_epoch_of_the_warmup():
    schedule = Plateau(warmup_epochs=2.5, factor=0.5, patience=0)
    position, drops = Position(), []
    for loss in (0.1, 0.2, 3.0, 3.5, 2.0, 2.5):
        position.epoch += 1
        follow_val_loss(schedule, position, loss)
        drops.append(position.lr_drops)
    assert drops == [0, 0, 0, 1, 1, 2]
    assert position.lowest_val_loss == 2.0


def test_other_schedules_do_not_look_at_losses():
    position = Position(epoch=3)
    follow_val_loss(Cosine(), position, 1.0)
    assert position == Position(epoch=3)


@pytest.mark.parametrize("warmup", WARMUPS)
def test_rises_through_the_warmup_to_the_peak_and_never_again(warmup):
    found = factors(Cosine(warmup_epochs=warmup), 10, 5)
    top = found.index(1.0)
    assert top == max(0, math.ceil(warmup * 10) - 1)
    assert found[: top + 1] == sorted(set(found[: top + 1]))
    assert found[top:] == sorted(found[top:], reverse=True)
    assert all(0 < factor <= 1 for factor in found)


def test_last_update_of_a_cosine_still_moves():
    assert lr_factor(Cosine(), 99, 10, 10) == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2, rel=1e-12)
    assert lr_factor(Cosine(final_factor=0.2), 99, 10, 10) > 0.2


def test_warmup_over_the_whole_run_ends_at_the_peak():
    assert factors(Cosine(warmup_epochs=3.0), 2, 3) == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
