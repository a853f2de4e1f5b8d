"""Every schedule against its closed form at every update of a run."""

import math
from fractions import Fraction

import pytest

from normhpc.config.training import Constant, Cosine, MultiStep, Step
from normhpc.train.schedule import lr_factor

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
