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
        ("plain", config(batch_size=1000, optim={"accumulate": 7}), 1),
        ("no data", config(data={"name": "mnist", "path": str(tmp_path / "nowhere")}, model={"widths": [4]}), 1),
        ("groups", config(norm={"name": "group", "groups": 3}, model={"widths": [4]}), 1),
        ("broken", config(act="gelu"), 1),
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


def test_a_pattern_that_fits_no_parameter_is_found():
    optim = {"lr_factors": [{"parameters": "layers.7.*", "factor": 2.0}]}
    assert [row["why"] for row in try_cases([("case", config(optim=optim), 1)], lambda _: None)] == [
        "",
        "optim.lr_factors[0].parameters: expected a pattern that fits a parameter of the network, got 'layers.7.*'; "
        "near it: layers.1.slot.bias, layers.0.slot.bias, layers.1.slot.weight",
    ]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_every_optimizer_with_all_it_can_be_asked_for(name):
    asked = {"ema_decay": 0.9, "l1": 1e-4, "clip_norm": 1.0, "clip_adaptive": 0.1, "lr_batch_size": 32}
    optim = {"name": name, "lr_factors": [{"parameters": "head.*", "factor": 2.0}], **asked}
    cases = [("case", config(optim=optim, schedule="plateau"), 1)]
    assert [row["why"] for row in try_cases(cases, lambda _: None)] == ["", ""]


def test_a_step_sees_labels_and_augmentation_of_the_case():
    many = config(
        data={"name": "synthetic", "images": 300, "multi_label": True, "normalize": "half", "order": "stored"},
        loss="asymmetric",
        augment={
            "rotation_degrees": 7,
            "perspective_probability": 0.5,
            "grayscale_probability": 0.5,
            "cutmix_alpha": 1.0,
        },
    )
    assert [row["why"] for row in try_cases([("case", many, 1)], lambda _: None)] == ["", ""]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision(precision):
    assert [row["why"] for row in try_cases([("case", config(precision=precision), 1)], lambda _: None)] == ["", ""]


BATCH_OF_ONE = (
    "norm: batch norm over one value per channel is always 0 (input (1, 32, 1, 1)); give every rank a larger share "
)
GHOST_OF_ONE = (
    "norm: batch norm over a ghost with one value per channel is always 0 (ghost (1, 32, 1, 1), norm.ghost_size 16); "
    "choose batch_size and norm.ghost_size so that no rank has a single image left over, or use larger images or "
    "another norm; "
)


@pytest.mark.parametrize(
    ("norm", "batch_size", "ranks", "accumulate", "why"),
    [
        ({"name": "ghost_batch", "ghost_size": 16}, 32, 1, 1, ""),
        ({"name": "ghost_batch", "ghost_size": 16}, 34, 1, 1, ""),
        (
            {"name": "ghost_batch", "ghost_size": 16},
            34,
            2,
            1,
            GHOST_OF_ONE
            + "with batch_size 34, 2 ranks and accumulate 1 the statistics of this run are over 16 and 1 images",
        ),
        (
            "batch",
            7,
            2,
            3,
            BATCH_OF_ONE + "of the batch, or use sync: true, larger images or another norm; "
            "with batch_size 7, 2 ranks and accumulate 3 the statistics of this run are over 2 and 1 images",
        ),
        (
            {"name": "batch", "sync": True},
            1,
            1,
            1,
            BATCH_OF_ONE + "of the batch, or use larger images or another norm; "
            "with batch_size 1, 1 ranks and accumulate 1 the statistics of this run are over 1 images",
        ),
        ({"name": "batch", "sync": True}, 7, 2, 3, ""),
        ("layer", 7, 2, 3, ""),
        (
            "layer",
            7,
            3,
            3,
            "batch_size: expected at least 9 images, one for each of 3 micro-batches on 3 ranks, got 7",
        ),
    ],
)
def test_shares_of_the_batch_are_those_of_the_run(norm, batch_size, ranks, accumulate, why):
    """A network with a norm on single pixels: the statistics of one image have one value."""
    data = {"name": "synthetic", "images": 64, "test_images": 4, "height": 8, "width": 8}
    fields = {"model": "mnist_model3", "data": data, "norm": norm, "batch_size": batch_size}
    case = RunConfig.model_validate({**fields, "optim": {"accumulate": accumulate}})
    assert [row["why"] for row in try_cases([("case", case, ranks)], lambda _: None)] == ["", why]


def test_ghosts_of_one_image_are_no_fault_where_maps_are_larger():
    ghosts = config(norm={"name": "ghost_batch", "ghost_size": 16}, batch_size=17)
    assert [row["why"] for row in try_cases([("case", ghosts, 1)], lambda _: None)] == ["", ""]
