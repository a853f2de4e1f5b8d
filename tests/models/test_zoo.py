"""Networks of torchvision and timm by name."""

import builtins
import hashlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
from support.trainings import new_run
from torch import nn

from normhpc.config import RunConfig
from normhpc.config.checks import FITS, findings
from normhpc.config.model.zoo import torchvision_sites
from normhpc.errors import InputError
from normhpc.models import build
from normhpc.models.zoo import load_weights, torchvision_network
from normhpc.norms import Norm, plan_of, swap
from normhpc.sweep import load
from normhpc.sweep.catalogue import list_parts, sites_of_networks
from normhpc.sweep.plan import make_plan
from normhpc.train import run

SMALL = {"name": "synthetic", "images": 8, "test_images": 4, "height": 32, "width": 32, "num_classes": 7}
NEEDS_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


def config_of(model, norm="batch", data=None, **fields):
    return RunConfig.model_validate(
        {"model": model, "norm": norm, "data": SMALL | (data or {}), "batch_size": 4, **fields}
    )


def network(*arguments, seed=0, **fields):
    torch.manual_seed(seed)
    return build(config_of(*arguments, **fields))


def images(size=32, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_one_line_of_yaml(tmp_path):
    file = tmp_path / "zoo.yaml"
    file.write_text(
        "name: zoo\nbase: {model: torchvision/resnet18, data: {name: synthetic}}\nmatrix: {norm: [batch, evonorm_s0]}\n"
    )
    runs = list(load(file).runs())
    assert sites_of_networks(runs) == ["torchvision/resnet18: 9 norm_act, 11 lone"]
    configs = [RunConfig.model_validate(json.loads(run.config_json)) for run in runs]
    assert [plan_of(build(config)).summary for config in configs] == ["9 norm_act, 11 lone"] * 2


@pytest.mark.parametrize(
    ("name", "norm", "size"),
    [
        ("resnet18", "evonorm_s0", 32),
        ("mobilenet_v3_small", "batch", 32),
        ("shufflenet_v2_x0_5", "dyt", 32),
        ("swin_t", "rms", 32),
        ("inception_v3", "layer", 96),
    ],
)
def test_places_counted_beforehand_are_those_replaced(name, norm, size):
    net = network(f"torchvision/{name}", norm, {"height": size, "width": size})
    assert plan_of(net).counts == torchvision_sites()[name]
    assert net(images(size)).shape == (2, 7)


def test_every_classifier_is_counted():
    assert torchvision_sites().keys() == set(torchvision.models.list_models(module=torchvision.models))
    (entry,) = (entry for entry in list_parts("models") if entry["name"] == "torchvision/<name>")
    assert entry["norm_sites"]["torchvision/resnet50"] == {"norm_act": 33, "lone": 20}


def test_weights_are_a_function_of_torchs_random_state_alone():
    first, again, other = (network("torchvision/resnet18", seed=seed) for seed in (3, 3, 4))
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    torch.manual_seed(3)
    assert torch.equal(torchvision.models.resnet18(num_classes=7).conv1.weight, first.conv1.weight)


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_convolutions_have_a_bias_where_no_norm_learns_a_shift(norm):
    """As in our own networks: without it, nothing below the head would learn a shift."""
    with_shift, net = (network("torchvision/resnet18", each) for each in ("batch", norm))
    convs, bare = ([m for m in each.modules() if isinstance(m, nn.Conv2d)] for each in (net, with_shift))
    assert len(convs) == 20
    assert all(conv.bias is None for conv in bare)
    assert all(torch.equal(conv.weight, other.weight) for conv, other in zip(convs, bare, strict=True))
    assert not any(conv.bias.any() for conv in convs)
    assert sum(conv.bias.numel() for conv in convs) == 4800
    assert plan_of(net).policies["biases_added"] == 20
    assert "biases_added" not in plan_of(with_shift).policies
    net(images()).sum().backward()
    assert all(conv.bias.grad.isfinite().all() for conv in convs)
    added = net.state_dict().keys() - with_shift.state_dict().keys()
    assert added == {f"{name}.bias" for name, m in net.named_modules() if isinstance(m, nn.Conv2d)}


def test_biases_that_a_network_has_and_norms_without_shift_stay():
    net = network("torchvision/convnext_tiny", "none")
    assert "biases_added" not in plan_of(net).policies
    unshifted = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, affine=False))
    for model, added in ((unshifted, 0), (torchvision.models.resnet18(), 20)):
        for wanted in (True, False):
            _, plan = swap(model, "none", images(), add_biases=wanted)
            assert plan.policies.get("biases_added", 0) == added * wanted


@pytest.mark.parametrize(("name", "bias"), [("resnet18", False), ("squeezenet1_0", True)])
def test_other_image_channels(name, bias):
    net = torchvision_network(name, 5, 7)
    first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
    assert (first.in_channels, first.bias is not None) == (5, bias)
    assert first.weight.std().item() == pytest.approx((2 / first.weight[:, 0].numel()) ** 0.5, rel=0.1)
    assert net(images(64, channels=5)).shape == (2, 7)


def test_the_networks_own_norms():
    net = network({"name": "torchvision/resnet18", "replace_norms": False})
    assert type(net) is torchvision.models.ResNet
    plan = plan_of(net)
    assert (plan.sites, plan.summary, plan.kept[0]) == ((), "20 kept", "bn1 (BatchNorm2d)")


@pytest.mark.parametrize(
    ("model", "norm", "data", "message"),
    [
        (
            "torchvision/resnt18",
            "batch",
            {},
            "model.name: torchvision has no classifier called 'resnt18', did you mean 'resnet18'?",
        ),
        ("torchvision/qqq", "batch", {}, "model.name: torchvision has no classifier called 'qqq' among its "),
        (
            "torchvision/vit_b_16",
            "rms",
            {},
            "model.name: torchvision/vit_b_16 cannot take images of 32x32; it takes 224x224 (Wrong image height!",
        ),
        (
            "torchvision/alexnet",
            "batch",
            {"height": 64, "width": 64},
            "model: torchvision/alexnet: AlexNet: no norm to replace; looked for",
        ),
        (
            "torchvision/resnet18",
            {"name": "group", "groups": 48},
            {},
            "model: torchvision/resnet18: ResNet: bn1, layer1.0.bn1, layer1.0.bn2 and 2 more: norm.groups: groups 48 does not divide "
            "64 channels",
        ),
        (
            {"name": "torchvision/resnet18", "weights": "nowhere.pt"},
            "batch",
            {},
            "model.weights: nowhere.pt cannot be read (No such file or directory)",
        ),
    ],
)
def test_mistakes(model, norm, data, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        network(model, norm, data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "torchvision/resnet18", "act": "gelu"}, "act: torchvision/resnet18 has activations of its own"),
        (
            {"model": {"name": "torchvision/resnet18", "conv_bias": True}},
            "model.conv_bias: the convolutions of torchvision/resnet18 have a bias where it or its norms need one; leave it out",
        ),
        (
            {"model": {"name": "torchvision/resnet18", "replace_norms": False}, "norm": "layer"},
            "model.replace_norms: false trains torchvision/resnet18 with the norms it has; leave norm at its default",
        ),
    ],
)
def test_what_a_plan_refuses(tmp_path, fields, message):
    file = tmp_path / "x.yaml"
    file.write_text(json.dumps({"name": "x", "base": fields}))
    problems = [str(problem) for problem in load(file).misfits()]
    assert [message in problem for problem in problems] == [True]


LAYER_ON_TOKENS = (
    "layer takes its statistics over several tokens, which is no norm of each token as at 23 places of "
    "torchvision/convnext_tiny; what does: norms of one position (layer_pixel, rms) or value (dyt, derf)"
)


@pytest.mark.parametrize(
    ("model", "norm", "found"),
    [
        (
            "torchvision/resnt18",
            "layer",
            [("model.name", "torchvision has no classifier called 'resnt18', did you mean 'resnet18'?")],
        ),
        ("torchvision/qqq", "layer", [("model.name", "torchvision has no classifier called 'qqq' among its 80")]),
        (
            {"name": "torchvision/qqq", "replace_norms": False},
            "batch",
            [("model.name", "torchvision has no classifier called 'qqq' among its 80")],
        ),
        (
            "torchvision/alexnet",
            "layer",
            [
                (
                    "model.replace_norms",
                    "expected false for torchvision/alexnet, which has no norm to replace, got true; or use another network",
                )
            ],
        ),
        ({"name": "torchvision/alexnet", "replace_norms": False}, "batch", []),
        ("torchvision/convnext_tiny", "layer", [("norm", LAYER_ON_TOKENS)]),
        ("torchvision/convnext_tiny", "batch", [("norm", LAYER_ON_TOKENS.replace("layer takes", "batch takes"))]),
        (
            "torchvision/convnext_tiny",
            {"name": "formula", "expr": "x / std(x, 'layer')"},
            [("norm", LAYER_ON_TOKENS.replace("layer takes", "formula takes"))],
        ),
        ("torchvision/convnext_tiny", {"name": "formula", "expr": "x / rms(x, 'pixel')"}, []),
        *(("torchvision/convnext_tiny", norm, []) for norm in ("none", "rms", "layer_pixel", "local_response", "dyt")),
        ({"name": "torchvision/convnext_tiny", "replace_norms": False}, "batch", []),
        ("torchvision/resnet18", "layer", []),
        ("timm/convnext_tiny", "layer", []),
    ],
)
def test_what_is_known_of_torchvisions_networks_is_refused_when_planning(model, norm, found):
    config = config_of(model, norm)
    assert findings(FITS, {name: getattr(config, name) for name in RunConfig.model_fields}) == found


def test_a_network_that_planning_refuses_is_told_at_its_name(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("name: x\nmatrix:\n  model: [torchvision/alexnet, torchvision/convnext_tiny]\n")
    assert [str(problem) for problem in load(file).misfits()] == [
        f"{file}:3:11: matrix.model[0].replace_norms: expected false for torchvision/alexnet, which has no norm to replace, "
        "got true; or use another network",
        f"{file}:3:32: matrix.model[1]: norm: {LAYER_ON_TOKENS.replace('layer takes', 'batch takes')}; set norm",
    ]


@pytest.mark.parametrize("name", ["torchvision/ResNet", "torchvision/", "timm/", "timm/a/b", "torchvision/../x"])
def test_names_that_no_library_has(name):
    with pytest.raises(ValueError, match="no model is called"):
        config_of(name)


def saved(tmp_path, state):
    file = tmp_path / "weights.pt"
    torch.save(state, file)
    return str(file)


def test_pretrained_weights(tmp_path, capfd):
    torch.manual_seed(9)
    trained = torchvision.models.resnet18(num_classes=7)
    nn.init.normal_(trained.bn1.weight)
    model = {"name": "torchvision/resnet18", "weights": saved(tmp_path, trained.state_dict())}
    net = network(model)
    sites = tuple(f"{site.name}." for site in plan_of(net).sites)
    for key, value in trained.state_dict().items():
        assert key.startswith(sites) or torch.equal(value, net.state_dict()[key]), key
    assert torch.equal(net.bn1.weight, torch.ones(64))
    taken = network(model | {"copy_affine": True})
    assert torch.equal(taken.bn1.weight, trained.bn1.weight)
    torch.testing.assert_close(taken.eval()(images()), trained.eval()(images()))
    assert capfd.readouterr().err == ""


def test_pretrained_weights_of_other_classes_and_channels(tmp_path, capfd):
    trained = torchvision.models.resnet18(num_classes=3).state_dict()
    file = saved(tmp_path, {"state_dict": trained})
    net = network({"name": "torchvision/resnet18", "weights": file}, data={"channels": 1})
    told = capfd.readouterr().err
    assert told == f"{file}: conv1.weight, fc.weight, fc.bias not taken, because of other classes or channels\n"
    assert torch.equal(net.get_parameter("layer1.0.conv1.weight"), trained["layer1.0.conv1.weight"])


def without_counts(state):
    return {key: value for key, value in state.items() if "num_batches" not in key}


def renamed(state, pattern, by):
    return {re.sub(pattern, by, key): value for key, value in state.items()}


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("resnet18", lambda state: renamed(state, "^", "module.")),
        ("resnet18", lambda state: {"state_dict": renamed(state, "^", "module."), "epoch": 3}),
        ("resnet18", lambda state: {"model": state, "optimizer": {"state": {}}, "epoch": 3}),
        ("resnet18", lambda state: without_counts(state)),
        (
            "densenet121",
            lambda state: renamed(without_counts(state), r"(denselayer\d+\.(?:norm|conv))(?=[12]\.)", r"\1."),
        ),
    ],
    ids=["module", "state_dict", "model", "no counts", "old names"],
)
def test_spellings_of_weights(tmp_path, name, spelled):
    torch.manual_seed(9)
    trained = torchvision.models.get_model(name, weights=None, num_classes=7).state_dict()
    state = spelled(trained)
    assert state.keys() != trained.keys()
    file = saved(tmp_path, state)
    net = network({"name": f"torchvision/{name}", "weights": file, "replace_norms": False})
    assert all(torch.equal(value, trained[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize(("name", "heads"), [("googlenet", {"aux1", "aux2"}), ("inception_v3", {"AuxLogits"})])
def test_weights_of_auxiliary_heads_are_left_out(tmp_path, name, heads):
    trained = torchvision.models.get_model(name, weights=None, num_classes=7, aux_logits=True, init_weights=False)
    state = trained.state_dict()
    net = torchvision_network(name, 3, 7)
    assert {key.split(".")[0] for key in state.keys() - net.state_dict().keys()} == heads
    load_weights(net, Path(saved(tmp_path, state)), of_one_more=None)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_the_random_state_is_that_of_a_network_without_a_file(tmp_path):
    file = saved(tmp_path, torchvision.models.resnet18(num_classes=3).state_dict())
    network("torchvision/resnet18", seed=3)
    drawn = torch.rand(3)
    network({"name": "torchvision/resnet18", "weights": file}, seed=3)
    assert torch.equal(torch.rand(3), drawn)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("conv1.weight"), "is of another network: it lacks conv1.weight"),
        (lambda state: state.update(x=torch.ones(1)), "is of another network: it has x"),
        (
            lambda state: state.update({"bn1.weight": torch.ones(3)}),
            r"is of another network: bn1.weight has the shape \(3,\), expected \(64,\)",
        ),
        # as many as there are classes, but no head
        (
            lambda state: state.update({"layer1.0.conv1.weight": torch.ones(64, 3, 3, 3)}),
            r"is of another network: layer1.0.conv1.weight has the shape \(64, 3, 3, 3\), expected \(64, 64, 3, 3\)",
        ),
        (
            lambda state: state.update({"bn1.weight": torch.ones(7)}),
            r"is of another network: bn1.weight has the shape \(7,\), expected \(64,\)",
        ),
        (
            lambda state: state.update({"fc.weight": torch.ones(3, 500)}),
            r"is of another network: fc.weight has the shape \(3, 500\), expected \(7, 512\)",
        ),
        (
            lambda state: state.update({"fc.weight": torch.ones(3, 512, 1, 1)}),
            r"is of another network: fc.weight has the shape \(3, 512, 1, 1\), expected \(7, 512\)",
        ),
        (lambda state: state.update(epoch=3), "is no state dict: expected tensors by name"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, change, message):
    state = dict(torchvision.models.resnet18(num_classes=7).state_dict())
    change(state)
    with pytest.raises(InputError, match=rf"^model.weights: .*weights.pt {message}"):
        network({"name": "torchvision/resnet18", "weights": saved(tmp_path, state)})


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_text("hello")
    with pytest.raises(InputError, match=r"weights.pt is no state dict \("):
        network({"name": "torchvision/resnet18", "weights": str(tmp_path / "weights.pt")})


def test_a_layer_with_as_many_outputs_as_classes_is_no_head(tmp_path):
    state = dict(torchvision.models.resnet18(num_classes=64).state_dict())
    state["layer1.0.conv1.weight"] = torch.ones(32, 64, 3, 3)
    with pytest.raises(InputError, match=r"is of another network: layer1.0.conv1.weight has the shape \(32, 64, 3"):
        network({"name": "torchvision/resnet18", "weights": saved(tmp_path, state)}, data={"num_classes": 64})


def test_a_missing_file_is_found_when_planning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "x.yaml"
    file.write_text(
        "name: x\nbase: {model: torchvision/resnet18, data: synthetic}\nmatrix: {model.weights: [w.pt, v.pt]}\n"
    )
    (tmp_path / "w.pt").write_bytes(b"")
    with pytest.raises(InputError) as caught:
        make_plan(load(file), tmp_path / "runs")
    assert caught.value.exit_code == 2
    assert [str(problem) for problem in caught.value.problems] == [
        f"{file}:3:32: matrix.model.weights[1]: expected the file of a state dict, got v.pt, where there is none; give a path that "
        "starts at / or at the folder that runs are launched from, or leave it out for fresh weights"
    ]


def test_a_run_records_its_places_and_the_file_of_its_weights(tmp_path):
    trained = saved(tmp_path, torchvision.models.resnet18(num_classes=7).state_dict())
    folder = new_run(
        tmp_path / "run",
        {
            "model": {"name": "torchvision/resnet18", "weights": trained},
            "norm": "evonorm_s0",
            "epochs": 1,
            "data": SMALL,
            "batch_size": 4,
        },
    )
    summary = run(folder.path)
    assert summary["state"] == "finished"
    assert summary["norm_sites"] == {"norm_act": 9, "lone": 11}
    assert summary["weights_sha256"] == hashlib.sha256(Path(trained).read_bytes()).hexdigest()
    assert summary["norm_plan"] == plan_of(network("torchvision/resnet18", "evonorm_s0")).digest
    assert summary["norm_policies"] == {"post_add": "keep", "lone": "affine", "copy_affine": False}
    assert summary["norms_kept"] == []


@pytest.mark.parametrize(
    ("model", "norm", "policies", "kept"),
    [
        (
            {"name": "torchvision/resnet18", "copy_affine": True},
            "none",
            {"post_add": "keep", "lone": "normalize", "copy_affine": True, "biases_added": 20},
            [],
        ),
        (
            {"name": "torchvision/resnet18", "replace_norms": False},
            "batch",
            {},
            [
                f"{name} (BatchNorm2d)"
                for name, m in torchvision.models.resnet18().named_modules()
                if "Norm" in str(type(m))
            ],
        ),
    ],
)
def test_a_run_records_how_places_were_rewritten(tmp_path, model, norm, policies, kept):
    folder = new_run(tmp_path / "run", {"model": model, "norm": norm, "epochs": 1, "data": SMALL, "batch_size": 4})
    summary = run(folder.path)
    assert (summary["norm_policies"], summary["norms_kept"]) == (policies, kept)


def test_two_heads_are_left_out():
    net = torchvision_network("googlenet", 3, 7)
    assert not any(name.startswith("aux") for name, _ in net.named_parameters())


@NEEDS_TIMM
@pytest.mark.parametrize(
    ("name", "counts"),
    [("resnet18", {"norm_act": 9, "lone": 11}), ("test_efficientnet", {"norm_act": 9, "lone": 4})],
)
def test_networks_of_timm(name, counts):
    net = network(f"timm/{name}", "frn_tlu", {"channels": 5})
    assert plan_of(net).counts == counts
    assert net(images(channels=5)).shape == (2, 7)
    owners = [module for module in net.modules() if isinstance(module, Norm) and module.owns_act]
    assert len(owners) == counts["norm_act"]


@NEEDS_TIMM
def test_an_unknown_network_of_timm():
    with pytest.raises(InputError, match=r"^model\.name: timm has no classifier called 'resnet18q', did you mean"):
        network("timm/resnet18q")


def test_without_timm(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **fields):
        if name == "timm":
            raise ImportError(name)
        return real(name, *arguments, **fields)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(
        InputError, match=r"^model\.name: timm/resnet18 needs timm, which is not installed here; pip ins"
    ):
        network("timm/resnet18")
