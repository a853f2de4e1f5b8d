"""Trying cases before a queue does."""

import pytest
from support.trainings import SMALL

from normhpc import models
from normhpc.config import RunConfig
from normhpc.train.smoke import try_cases


def config(**changes):
    return RunConfig.model_validate({**SMALL, **changes})


def test_what_passes_and_what_does_not(tmp_path, monkeypatch):
    build = models.build

    def built(config):
        if config.act == "gelu":
            raise ZeroDivisionError("no such thing")
        return build(config)

    monkeypatch.setattr(models, "build", built)
    cases = [
        ("plain", config(batch_size=1000, optim={"accumulate": 7})),
        ("no data", config(data={"name": "mnist", "path": str(tmp_path / "nowhere")}, model={"widths": [4]})),
        ("groups", config(norm={"name": "group", "groups": 3}, model={"widths": [4]})),
        ("broken", config(act="gelu")),
    ]
    told = []
    outcomes = try_cases(cases, told.append)
    assert told == [f"trying {row['case']}" for row in outcomes]
    whys = {row["case"]: row["why"] for row in outcomes}
    # a set that cannot be loaded is one row; the network that would read it is tried all the same
    assert list(whys) == ["data digits", "data mnist", "plain", "no data", "groups", "broken"]
    assert [case for case, why in whys.items() if not why] == ["data digits", "plain", "no data"]
    assert str(tmp_path / "nowhere") in whys["data mnist"]
    assert "groups 3 does not divide 4 channels" in whys["groups"]
    assert whys["broken"] == "ZeroDivisionError: no such thing"
    assert all(row["seconds"] >= 0 for row in outcomes)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision(precision):
    assert [row["why"] for row in try_cases([("case", config(precision=precision))], lambda _: None)] == ["", ""]
