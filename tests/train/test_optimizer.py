"""Which parameter decays how, and that the optimizers are torch's to the last bit."""

import subprocess
import sys

import pytest
import torch
from support.trainings import SMALL, new_run
from torch import nn

from normhpc import models
from normhpc.config import RunConfig
from normhpc.config.training import Adam, AdamW, Sgd
from normhpc.errors import InputError
from normhpc.norms import ParamSpec
from normhpc.train.optimizer import build_optimizer, parameter_groups, peak_lr, set_lr

KINDS = [
    (Sgd(lr=0.1, momentum=0.9, weight_decay=5e-3), torch.optim.SGD, {"momentum": 0.9, "nesterov": False}),
    (Sgd(lr=0.1, momentum=0.8, nesterov=True), torch.optim.SGD, {"momentum": 0.8, "nesterov": True}),
    (Sgd(lr=0.1, momentum=0.0), torch.optim.SGD, {"momentum": 0.0}),
    (Adam(lr=3e-3, beta1=0.8, weight_decay=0.02), torch.optim.Adam, {"betas": (0.8, 0.999), "eps": 1e-8}),
    (AdamW(lr=3e-3, eps=1e-6, beta2=0.99), torch.optim.AdamW, {"betas": (0.9, 0.99), "eps": 1e-6}),
]


class Scaled(nn.Module):
    """A parameter with wishes of its own, one without, and one that another module shares."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 3)
        self.matrix = nn.Parameter(torch.ones(2, 2))
        self.slow = nn.Parameter(torch.ones(2))
        self.twin = self.inner.weight

    def param_specs(self):
        return {"matrix": ParamSpec(decay=False), "slow": ParamSpec(decay=True, lr_factor=0.1)}


def names_by_group(model, optim):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        (group["weight_decay"], group["lr_factor"]): {names[id(parameter)] for parameter in group["params"]}
        for group in parameter_groups(model, optim)
    }


def small_model(**changes):
    torch.manual_seed(0)
    return models.build(RunConfig.model_validate({**SMALL, **changes}))


def test_decay_spares_norms_biases_and_scalars():
    model = small_model(norm="group", model={"name": "resnet8", "width": 32, "residual": "skipinit"})
    found = names_by_group(model, Sgd(weight_decay=0.5))
    every = {name for name, _ in model.named_parameters()}
    decayed = {name for name in every if name.endswith("conv.weight")} | {"head.weight"}
    assert found == {(0.5, 1.0): decayed, (0.0, 1.0): every - decayed}
    assert {"head.bias", "stem.slot.weight", "blocks.0.scale.factor"} <= found[0.0, 1.0]


def test_decay_of_all_spares_nothing():
    model = small_model()
    assert names_by_group(model, Sgd(weight_decay=0.5, decay="all")) == {
        (0.5, 1.0): {name for name, _ in model.named_parameters()}
    }


def test_modules_may_say_otherwise_and_shared_parameters_count_once():
    groups = names_by_group(Scaled(), Sgd(weight_decay=0.5))
    assert groups == {(0.0, 1.0): {"matrix", "inner.bias", "twin"}, (0.5, 0.1): {"slow"}}


def test_decay_of_library_networks_spares_tokens_positions_and_scales():
    model = nn.ModuleDict(
        {
            "attention": nn.MultiheadAttention(8, 2),
            "conv": nn.Conv2d(3, 4, 1),
            "words": nn.Embedding(5, 8),
            "norm": nn.LayerNorm(8),
        }
    )
    model.register_parameter("pos_embedding", nn.Parameter(torch.zeros(1, 9, 8)))
    model.register_parameter("layer_scale", nn.Parameter(torch.zeros(8, 1, 1)))
    found = names_by_group(model, Sgd(weight_decay=0.5))
    assert found[0.5, 1.0] == {"attention.in_proj_weight", "attention.out_proj.weight", "conv.weight"}


def test_learning_rate_reaches_each_group_by_its_factor():
    optimizer = build_optimizer(Scaled(), Sgd(lr=0.3, weight_decay=0.5))
    set_lr(optimizer, 0.3)
    assert {group["lr_factor"]: group["lr"] for group in optimizer.param_groups} == {1.0: 0.3, 0.1: 0.03}


def factors(model, *patterns, **optim):
    wanted = [{"parameters": pattern, "factor": factor} for pattern, factor in patterns]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr_factor"]
        for group in parameter_groups(model, Sgd.model_validate({"lr_factors": wanted, **optim}))
        for parameter in group["params"]
    }


def test_rates_of_single_layers():
    found = factors(small_model(), ("layers.*", 0.5), ("*.bias", 2.0), ("layers.1.conv.weight", 3.0), ("*.bias", 4.0))
    assert found == {
        "layers.0.conv.weight": 0.5,
        "layers.0.slot.weight": 0.5,
        "layers.0.slot.bias": 4.0,
        "layers.1.conv.weight": 3.0,
        "layers.1.slot.weight": 0.5,
        "layers.1.slot.bias": 4.0,
        "head.weight": 1.0,
        "head.bias": 4.0,
    }


def test_a_pattern_multiplies_what_the_network_says():
    assert factors(Scaled(), ("s*", 5.0))["slow"] == 0.5
    # a shared parameter goes by the first of its names
    assert factors(Scaled(), ("twin", 3.0))["twin"] == 3.0


def test_the_rate_is_multiplied_at_every_step():
    wanted = ({"parameters": "head.*", "factor": 0.1},)
    model = small_model()
    optimizer = build_optimizer(model, Sgd.model_validate({"lr_factors": wanted, "momentum": 0.0, "weight_decay": 0.0}))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_lr(optimizer, 0.5)
    optimizer.step()
    for name, parameter in model.named_parameters():
        taken = 0.05 if name.startswith("head.") else 0.5
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, taken), rtol=1e-5, atol=1e-7)


def test_patterns_that_fit_nothing_are_all_told():
    with pytest.raises(InputError) as caught:
        factors(small_model(), ("head.bais", 0.1), ("*.bias", 0.1), ("stages.0.*", 0.1), ("HEAD.*", 0.1), ("qqq", 2.0))
    expected = "expected a pattern that fits a parameter of the network, got"
    some = "the network has layers.0.conv.weight, layers.0.slot.weight, layers.0.slot.bias, ..."
    assert str(caught.value).splitlines() == [
        f"optim.lr_factors[0].parameters: {expected} 'head.bais'; near it: head.bias, head.weight",
        f"optim.lr_factors[2].parameters: {expected} 'stages.0.*'; {some}",
        f"optim.lr_factors[3].parameters: {expected} 'HEAD.*'; {some}",
        f"optim.lr_factors[4].parameters: {expected} 'qqq'; {some}",
    ]


@pytest.mark.parametrize(
    ("meant_for", "batch_size", "expected"), [(None, 64, 0.4), (256, 64, 0.1), (256, 512, 0.8), (256, 256, 0.4)]
)
def test_the_peak_grows_with_the_batch(meant_for, batch_size, expected):
    assert peak_lr(Sgd(lr=0.4, lr_batch_size=meant_for), batch_size) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(("optim", "peer", "options"), KINDS, ids=lambda value: getattr(value, "name", None))
def test_twenty_steps_equal_torch_bit_for_bit(optim, peer, options):
    model, twin = small_model(), small_model()
    own = build_optimizer(model, optim)
    plain = [parameter for name, parameter in twin.named_parameters() if parameter.ndim < 2]
    decayed = [parameter for name, parameter in twin.named_parameters() if parameter.ndim >= 2]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": optim.weight_decay}]
    theirs = peer(groups, lr=optim.lr, **options, fused=own.defaults["fused"])
    generator = torch.Generator().manual_seed(1)
    for step in range(20):
        lr = optim.lr * (1 - step / 30)
        set_lr(own, lr)
        for group in theirs.param_groups:
            group["lr"] = lr
        for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        own.step()
        theirs.step()
    before = dict(small_model().named_parameters())
    for (name, mine), other in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine, other), name
        assert not torch.equal(mine, before[name]), name


def test_states_move_between_torchs_optimizer_and_ours():
    model = nn.Linear(3, 2)
    own, theirs = build_optimizer(model, AdamW()), torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    own.step()
    own.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    theirs.load_state_dict(own.state_dict() | {"param_groups": theirs.state_dict()["param_groups"]})
    moved, kept = theirs.state_dict()["state"], own.state_dict()["state"]
    assert set(moved) == set(kept) == {0, 1}
    for number, state in kept.items():
        assert set(state) == {"exp_avg", "exp_avg_sq", "step"}
        assert all(torch.equal(moved[number][name], value) for name, value in state.items())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_eager_training_on_cpu_imports_neither_the_compiler_nor_scikit_learn(tmp_path, optimizer):
    everything = {"name": optimizer, "ema_decay": 0.9, "l1": 1e-6, "clip_norm": 1.0, "clip_adaptive": 0.01}
    folder = new_run(tmp_path / "run", {"optim": everything, "precision": "fp16", "augment": "standard"})
    program = (
        "import sys, normhpc.train as train; train.run(sys.argv[1]);"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sklearn', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder.path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stderr == ""
