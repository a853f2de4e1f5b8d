"""Errors relative to a reference network against the formula written out."""

import numpy as np
import pytest

from normhpc.errors import InputError
from normhpc.results.robustness import CorruptionErrors, mean_over_seeds, over_seeds, robustness


def drawn(seed: int, names: tuple[str, ...] = ("fog", "snow")) -> dict[str, object]:
    generator = np.random.default_rng(seed)
    errors = {name: generator.uniform(0.2, 0.9, 5).tolist() for name in (*names, "extra")}
    return {
        "clean_error": 0.1,
        "in_mean": list(names),
        "error_by_severity": errors,
        "mean_corruption_error": float(np.mean([errors[name] for name in names])),
    }


def test_mce_is_that_of_the_paper() -> None:
    own, reference = drawn(1), drawn(2)
    found = robustness(CorruptionErrors.of(own), CorruptionErrors.of(reference))
    ce, relative = {}, []
    for name in ("fog", "snow"):
        ours, theirs = own["error_by_severity"][name], reference["error_by_severity"][name]
        ce[name] = sum(ours) / sum(theirs)
        relative.append(sum(error - 0.1 for error in ours) / sum(error - 0.1 for error in theirs))
    assert found.ce == pytest.approx(ce)
    assert found.mce == pytest.approx(sum(ce.values()) / 2)
    assert found.relative_mce == pytest.approx(sum(relative) / 2)


def test_the_mean_over_seeds_is_the_mce_of_the_mean_errors() -> None:
    runs, controls = [drawn(seed) for seed in (1, 2, 3)], [drawn(seed) for seed in (4, 5)]
    reference = mean_over_seeds([CorruptionErrors.of(one) for one in controls])
    found = over_seeds(runs, controls)
    whole = robustness(mean_over_seeds([CorruptionErrors.of(one) for one in runs]), reference)
    assert found["mce"].shape == (3,)
    assert found["mce"].mean() == pytest.approx(whole.mce)
    assert found["fog"].mean() == pytest.approx(whole.ce["fog"])
    assert found["mean_corruption_error"].tolist() == [one["mean_corruption_error"] for one in runs]
    assert over_seeds(controls, controls)["mce"].mean() == pytest.approx(1)


def test_what_the_reference_never_gets_wrong_has_no_ratio() -> None:
    own, reference = drawn(1), drawn(2)
    reference["error_by_severity"]["fog"] = [0.0] * 5
    found = robustness(CorruptionErrors.of(own), CorruptionErrors.of(reference))
    assert np.isnan([found.ce["fog"], found.mce, found.relative_mce]).all()
    assert over_seeds([own], [reference]).keys() == {"mean_corruption_error", "snow"}


def test_other_corruptions_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        over_seeds([drawn(1, ("fog",))], [drawn(2)])
    assert str(caught.value) == (
        "expected the same corruptions of all runs, got fog and others; "
        "normhpc analyze RUN --what corruption --again makes them anew"
    )
