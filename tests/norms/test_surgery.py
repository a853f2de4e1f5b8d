"""Foreign networks with another norm at every place."""

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.models import build
from normhpc.norms import Norm, plan_of, swap
from normhpc.norms.surgery import gate, kinds, places, read


def images(size=32, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def library(name, **options):
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, num_classes=10, **options)


def calls(network, *targets):
    """How often the graph of ``network`` calls modules or functions of these kinds."""
    return sum(
        type(network.get_submodule(node.target)) in targets
        if node.op == "call_module"
        else node.op == "call_function" and node.target in targets
        for node in network.graph.nodes
    )


class Small(nn.Module):
    """Two norms before activations, one of them shared, one before an addition."""

    def __init__(self, act=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv3, self.bn3 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.act = act or nn.ReLU(inplace=True)
        self.drop = nn.Identity()
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.act(self.drop(self.bn1(self.conv1(x))))
        y = self.act(self.bn2(self.conv2(x)))
        y = self.act(self.bn3(self.conv3(y)) + x)
        return self.head(y.mean((2, 3)))


class Functions(nn.Module):
    """A norm before the activation that ``function`` computes."""

    def __init__(self, function, norm=None):
        super().__init__()
        self.function = function
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), norm or nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.function(self.norm(self.conv(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("resnet18", {"norm_act": 9, "lone": 11}),
        ("densenet121", {"norm_act": 121}),
        ("mobilenet_v2", {"norm_act": 35, "lone": 17}),
        ("mobilenet_v3_small", {"norm_act": 23, "lone": 11}),
        ("convnext_tiny", {"token": 23}),
    ],
)
def test_places_of_published_networks(name, counts):
    model = library(name)
    network, plan = swap(model, "dyt", images(64))
    assert plan.counts == counts
    assert sum(isinstance(module, Norm) for module in network.modules()) == sum(counts.values())
    assert {site.name for site in plan.sites} == {
        path for path, module in model.named_modules() if kinds.is_norm(module)
    }


def test_activations_after_additions_stay():
    model = library("resnet18")
    network, plan = swap(model, "evonorm_s0", images())
    assert plan.summary == "9 norm_act, 11 lone"
    assert calls(network, nn.ReLU, F.relu) == 8
    assert {site.act for site in plan.sites if site.kind == "norm_act"} == {"relu"}
    assert {site.act for site in plan.sites if site.kind == "lone"} == {"none"}
    assert plan.sites[0].name == "bn1"
    assert plan.sites[0].layer.startswith("EvoNormS(64, act=relu, groups=32")
    assert network(images()).shape == (2, 10)


def test_what_is_saved_keeps_its_names_and_the_network_itself_is_untouched():
    model = library("resnet18")
    before = copy.deepcopy(model.state_dict())
    network, plan = swap(model, "batch", images())
    assert network.state_dict().keys() == before.keys()
    sites = tuple(f"{site.name}." for site in plan.sites)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
        if not key.startswith(sites):
            assert torch.equal(value, network.state_dict()[key]), key
    assert type(model.bn1) is nn.BatchNorm2d
    assert network.training == model.training


def test_batch_norm_by_slots_is_the_network_it_was():
    model = Small()
    network, _ = swap(model, "batch", images())
    for training in (True, False):
        model.train(training), network.train(training)
        torch.testing.assert_close(network(images()), model(images()))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_network_is_kept(training):
    model = Small().train(training)
    model.bn2.eval()
    network, _ = swap(model, "rms", images())
    assert network.training == training
    assert network.conv1.training == training


def test_a_shared_activation_is_replaced_at_its_calls():
    network, plan = swap(Small(), "frn_tlu", images())
    assert plan.counts == {"norm_act": 2, "lone": 1}
    assert calls(network, nn.ReLU) == 1
    assert swap(Small(), "batch", images())[1].counts == plan.counts


@pytest.mark.parametrize(
    ("function", "act"),
    [
        (F.relu, "relu"),
        (lambda x: F.relu(x, inplace=True), "relu"),
        (torch.relu, "relu"),
        (lambda x: x.relu(), "relu"),
        (lambda x: x.relu_(), "relu"),
        (F.silu, "silu"),
        (F.gelu, "gelu"),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu_tanh"),
        (F.leaky_relu, "leaky_relu"),
        (lambda x: F.leaky_relu(x, 0.2), "leaky_relu(0.2)"),
        (torch.tanh, "tanh"),
        (F.relu6, "relu6"),
        (F.hardswish, "hardswish"),
        (nn.ReLU6(inplace=True), "relu6"),
        (nn.Hardswish(), "hardswish"),
        (nn.LeakyReLU(0.3), "leaky_relu(0.3)"),
        (nn.PReLU(), "prelu"),
        (torch.sigmoid, "none"),
        (lambda x: F.relu(x) + x, "none"),
        (lambda x: 1 + x, "none"),
    ],
)
def test_activations_are_found_however_they_are_called(function, act):
    torch.manual_seed(0)
    model = Functions(function)
    network, plan = swap(model, "batch", images())
    (site,) = plan.sites
    assert (site.kind, site.act) == ("lone" if act == "none" else "norm_act", act)
    torch.testing.assert_close(network(images()), model(images()))
    # a norm that owns the activation takes the place of any
    owner, _ = swap(model, "frn_tlu", images())
    assert owner.norm.owns_act == (act != "none")
    if act != "none":
        assert [node.op for node in owner.graph.nodes].count("call_module") == 3
        assert {node.name for node in owner.graph.nodes} == {"x", "conv", "norm", "mean", "head", "output"}


def test_an_activation_that_no_slot_ends_with_stays_a_call():
    network, plan = swap(Functions(nn.Hardswish()), "batch", images())
    assert calls(network, nn.Hardswish) == 1
    assert network.norm.act == "none"
    assert plan.sites[0].layer.startswith("Batch(8, act=none")


class NormAct(nn.BatchNorm2d):
    """A norm with its activation inside, as timm has them."""

    def __init__(self, act):
        super().__init__(8)
        self.drop, self.act = nn.Identity(), act

    def forward(self, x):
        return self.act(self.drop(super().forward(x)))


@pytest.mark.parametrize(
    ("act", "name", "left"),
    [
        (nn.ReLU(inplace=True), "relu", 0),
        (nn.GELU(), "gelu", 0),
        (nn.ReLU6(inplace=True), "relu6", 1),
        (nn.Hardswish(), "hardswish", 1),
        (nn.Identity(), "none", 0),
    ],
)
def test_activations_inside_norms(act, name, left):
    model = Functions(nn.Identity(), NormAct(act))
    network, plan = swap(model, "batch", images())
    assert [(site.kind, site.act) for site in plan.sites] == [("lone" if name == "none" else "norm_act", name)]
    assert calls(network, type(act)) - (name == "none") == left
    torch.testing.assert_close(network(images()), model(images()))
    owner, _ = swap(model, "frn_tlu", images())
    assert calls(owner, type(act)) == (name == "none")


def test_a_norm_that_drops_blocks_is_refused():
    norm = NormAct(nn.ReLU())
    norm.drop = nn.Dropout2d(0.1)
    with pytest.raises(InputError, match=r"^Functions: norm: NormAct drops blocks between norm and activation"):
        swap(Functions(nn.Identity(), norm), "batch", images())


def test_functional_activations_of_googlenet():
    network, plan = swap(library("googlenet", aux_logits=False, init_weights=False), "dyt", images(64))
    assert plan.counts == {"norm_act": 57}
    assert calls(network, F.relu) == 0


@pytest.mark.parametrize("norm", ["rms", "dyt", "derf", "none"])
def test_tokens(norm):
    block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6), nn.GELU(), nn.LayerNorm(6, elementwise_affine=False))
    model = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.Flatten(2), Transposed(), block)
    network, plan = swap(model, norm, images(32))
    assert [(site.name, site.kind, site.channels, site.act) for site in plan.sites] == [
        ("3.0", "token", 6, "none"),
        ("3.3", "token", 6, "none"),
    ]
    tokens = torch.randn(2, 16, 6)
    slot = network.get_submodule("3.0")
    seen = []
    slot.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    assert network(images(32)).shape == (2, 16, 6)
    assert seen == [(2, 6, 16, 1)]
    if norm == "rms":
        wanted = F.rms_norm(tokens, (6,), eps=1e-6)
        torch.testing.assert_close(slot(tokens.transpose(1, 2)[..., None])[..., 0].transpose(1, 2), wanted)


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


@pytest.mark.parametrize("norm", ["batch", "layer", "instance", "evonorm_s0"])
def test_norms_over_several_tokens_are_refused_at_tokens(norm):
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), torchvision.models.convnext.LayerNorm2d(8))
    with pytest.raises(InputError, match=rf"^Sequential: {norm} takes its statistics over several tokens.* at 2; what"):
        swap(model, norm, images())


def test_a_vision_transformer():
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 12, 24, num_classes=10)
    network, plan = swap(model, "rms", images(32))
    assert plan.counts == {"token": 5}
    assert network.state_dict().keys() - model.state_dict().keys() == set()
    assert network(images(32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("norm", "model", "message"),
    [
        (
            {"name": "group", "groups": 3},
            Small(),
            "Small: bn1, bn2, bn3: norm.groups: groups 3 does not divide 8 channels; what does: 1, 2, 4, 8",
        ),
        (
            "instance",
            nn.Sequential(nn.Conv2d(3, 8, 32), nn.BatchNorm2d(8)),
            "Sequential: 1: norm: instance norm over a single pixel is always 0",
        ),
        (
            "batch",
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm((8, 30, 30))),
            "Sequential: 1: LayerNorm normalizes several dimensions of fixed size at once",
        ),
        (
            "batch",
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
            "Sequential: no norm to replace; looked for modules of batch, instance, group, layer and RMS norm",
        ),
        ("batch", nn.Linear(7, 3), "Linear: cannot take images of 3x32x32: "),
        ("grop", Small(), "norm.name: no norm is called 'grop', did you mean 'group'?"),
    ],
)
def test_mistakes_name_the_place(norm, model, message):
    with pytest.raises(InputError, match="^" + re.escape(message)):
        swap(model, norm, images())


def test_places_at_fault_are_named_once_per_reason():
    def units(channels, count):
        return [layer for _ in range(count) for layer in (nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))]

    model = nn.Sequential(nn.Conv2d(3, 8, 1), *units(8, 5), nn.Conv2d(8, 10, 1), *units(10, 1))
    with pytest.raises(InputError) as caught:
        swap(model, {"name": "group", "groups": 3}, images())
    hint = "indivisible: shrink takes the next number of groups that does"
    assert str(caught.value).splitlines() == [
        f"Sequential: 2, 4, 6 and 2 more: norm.groups: groups 3 does not divide 8 channels; what does: 1, 2, 4, 8; {hint}",
        f"Sequential: 13: norm.groups: groups 3 does not divide 10 channels; what does: 1, 2, 5, 10; {hint}",
    ]


def test_rows_of_numbers():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.ReLU())
    network, plan = swap(model, "batch", images())
    assert [(site.kind, site.channels) for site in plan.sites] == [("norm_act", 8)]
    torch.testing.assert_close(network(images()), model(images()))


class ByMode(nn.Module):
    """Drops values by a function, and computes more while it trains if ``more``."""

    def __init__(self, more):
        super().__init__()
        self.more = more
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        x = F.dropout(self.norm(x), 0.5, training=self.training)
        return x * 2 if self.training and self.more else x


def test_flags_of_the_mode_stay_flags():
    model = ByMode(more=False)
    network, _ = swap(model, "batch", images())
    assert (network(images()) == 0).float().mean() > 0.4
    network.eval(), model.eval()
    assert (network(images()) == 0).float().mean() < 0.01


def test_other_arguments_keep_their_defaults():
    class Masked(Small):
        def forward(self, x, mask=None, scale=2.0, flip=False):
            x = x if mask is None else x * mask
            return super().forward(x.flip(-1) if flip else x) * scale

    model = Masked()
    network, _ = swap(model, "batch", images())
    torch.testing.assert_close(network(images()), model(images()))


def test_a_rewrite_that_fails_is_refused(monkeypatch):
    def fail(self, x):
        raise RuntimeError("no")

    monkeypatch.setattr(gate.OwnNorm, "forward", fail)
    with pytest.raises(InputError, match=r"rewritten with its own norms it fails \(no\); replace_norms"):
        swap(Small(), "batch", images())


def test_a_network_with_two_graphs_is_refused():
    with pytest.raises(InputError, match=r"ByMode: its norms cannot be replaced, because it computes one thing in tr"):
        swap(ByMode(more=True), "batch", images())


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(x) if x.sum() > 0 else x


def test_a_network_that_decides_by_values_is_refused():
    with pytest.raises(InputError, match=r"ByValue: its norms cannot be replaced, because what it computes depends on"):
        swap(ByValue(), "batch", images())


def test_a_faulty_rewrite_is_refused(monkeypatch):
    def through_additions(call, root):
        follower = next(iter(call.users))
        return next(iter(follower.users)) if follower.op == "call_function" else follower

    monkeypatch.setattr(places, "_follower", through_additions)
    with pytest.raises(InputError, match=r"^Small: its norms cannot be replaced, because rewritten .* in training"):
        swap(Small(), "batch", images())


def test_the_gate_names_the_first_module_that_differs(monkeypatch):
    forward = gate.OwnNorm.forward
    monkeypatch.setattr(gate.OwnNorm, "forward", lambda self, x: forward(self, x) * (1 + 1e-6))
    with pytest.raises(InputError, match="other outputs in training, the first at drop; replace_norms: false"):
        swap(Small(), "batch", images())


def test_the_gate_sees_a_single_bit():
    one = torch.tensor([1.0, float("nan"), -0.0])
    assert gate.same_bits((one, {"a": one}), [one.clone(), {"a": one.clone()}])
    assert not gate.same_bits(one, torch.tensor([1.0, float("nan"), 0.0]))
    assert not gate.same_bits(one, one.double())
    assert not gate.same_bits(one, (one, one))


@pytest.mark.parametrize("norm", ["evonorm_s0", "rms", "frn_tlu", "none"])
def test_gradients_reach_everything(norm):
    model = library("resnet18")
    network, _ = swap(model, {"name": norm}, images())
    F.cross_entropy(network(images()), torch.tensor([1, 2])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_no_norm_never_overwrites_what_others_read():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Hardswish(inplace=True)
            self.other = nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            y = self.other(x)
            y += 1
            return self.act(self.norm(x)) + x + y.mul_(2)

    model = Branches()
    network, _ = swap(model, "none", images())
    x = model.conv(images())
    torch.testing.assert_close(network(images()), F.hardswish(x) + x + 2 * (x + 1))


def test_compiled_in_one_graph():
    torch.compiler.reset()
    network, _ = swap(Small(), "rms", images())
    expected = network(images())
    torch.testing.assert_close(torch.compile(network, backend="aot_eager", fullgraph=True)(images()), expected)
    torch.compiler.reset()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
@pytest.mark.parametrize("build", [Small, lambda: ByMode(more=False)])
def test_copies(build, copied):
    network, plan = swap(build(), "rms", images())
    network.eval()
    other = copied(network)
    assert torch.equal(other(images()), network(images()))
    assert plan_of(other) == plan


def test_the_state_goes_into_a_network_made_the_same_way():
    first, second = (swap(Small(), "batch", images())[0] for _ in range(2))
    first(images())
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.eval()(images()), second.eval()(images()))


def test_values_of_the_replaced_norms_are_taken_over_on_demand():
    model = Small()
    nn.init.normal_(model.bn1.weight)
    model(images())
    fresh, plan = swap(model, "batch", images())
    taken, other = swap(model, "batch", images(), copy_affine=True)
    assert torch.equal(fresh.bn1.weight, torch.ones(8))
    for key, value in model.bn1.state_dict().items():
        assert torch.equal(taken.bn1.state_dict()[key], value), key
    assert (plan.policies["copy_affine"], other.policies["copy_affine"]) == (False, True)
    assert plan.digest != other.digest
    unaffected, _ = swap(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False)), "dyt", images())
    assert torch.equal(unaffected.get_submodule("1").weight, torch.ones(8))


def test_plans():
    (_, plan), (_, same), (_, other) = (swap(Small(), norm, images()) for norm in ("batch", "batch", "layer"))
    assert plan == same
    assert plan.digest == same.digest != other.digest
    assert len(plan.digest) == 16
    json = plan.to_json()
    assert json["policies"] == {"post_add": "keep", "lone": "normalize", "copy_affine": False}
    assert json["sites"][2] == {
        "name": "bn3",
        "kind": "lone",
        "channels": 8,
        "act": "none",
        "layer": plan.sites[2].layer,
    }


def test_norms_that_stay_are_told():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LocalResponseNorm(2), nn.BatchNorm2d(8))
    assert swap(model, "batch", images())[1].kept == ("1 (LocalResponseNorm)",)


def test_slots_can_be_replaced_again():
    network, plan = swap(Small(), "batch", images())
    again, other = swap(network, "rms", images())
    assert [(site.name, site.kind, site.act) for site in other.sites] == [
        (site.name, site.kind, site.act) for site in plan.sites
    ]
    assert again(images()).shape == (2, 10)


OWNERS = [
    {"name": "evonorm_s0", "groups": 4},
    "evonorm_b1",
    "frn_tlu",
    "selu",
    {"name": "weight", "scaled_relu": True},
    {"name": "formula", "expr": "x * sigmoid(x)", "owns_act": True},
]


@pytest.mark.parametrize("norm", OWNERS, ids=str)
def test_norms_that_own_the_activation_give_it_back(norm):
    network, plan = swap(Small(nn.SiLU()), norm, images())
    again, other = swap(network, "batch", images())
    _, direct = swap(Small(nn.SiLU()), "batch", images())
    assert other == direct
    assert [(site.kind, site.act) for site in plan.sites] == [("norm_act", "silu")] * 2 + [("lone", "none")]
    x = images()[:, :1].expand(-1, 8, -1, -1)
    torch.testing.assert_close(again.bn1(x), F.silu(F.batch_norm(x, None, None, training=True)))


def test_an_activation_that_a_norm_took_the_place_of_and_no_slot_ends_with():
    kept, _ = swap(Small(nn.Hardswish()), "batch", images())
    assert calls(swap(kept, "rms", images())[0], nn.Hardswish) == 3
    network, _ = swap(Small(nn.Hardswish()), "frn_tlu", images())
    again, plan = swap(network, "selu", images())
    assert [site.act for site in plan.sites] == ["hardswish", "hardswish", "none"]
    with pytest.raises(InputError) as caught:
        swap(again, "batch", images())
    assert [str(problem) for problem in caught.value.problems] == [
        "GraphModule: bn1, bn2: Selu took the place of hardswish, which is no longer in the network and which no slot "
        "ends with; swap the norms of the network as it was before"
    ]


@pytest.mark.parametrize("norm", OWNERS, ids=str)
def test_our_own_networks_are_swapped_as_they_would_be_built(norm):
    def built(norm):
        return build(RunConfig.model_validate({"model": "resnet8", "norm": norm, "act": "tanh", "data": "cifar10"}))

    batch = built("batch")
    owner = built(norm)
    _, plan = swap(owner, "batch", images())
    assert plan.sites == plan_of(batch).sites
    assert plan_of(owner).counts == plan.counts == {"norm_act": 4, "lone": 5}


def test_the_random_state_is_left_alone():
    model = ByMode(more=False)
    torch.manual_seed(1)
    swap(model, "dyt", images())
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


def test_a_norm_called_before_different_activations_is_refused():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return F.relu(self.norm(x)) + self.norm(x + 1)

    with pytest.raises(InputError, match=r"^Shared: norm: BatchNorm2d is called 2 times, not always before the same"):
        swap(Shared(), "batch", images())


def test_reading_changes_nothing():
    model = Small()
    before = copy.deepcopy(model.state_dict())
    _, _, found = read(model, images())
    assert [place.slot_shape for place in found] == [(2, 8, 32, 32)] * 3
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_norm_that_gives_its_input_back_is_not_overwritten():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(2)

        def forward(self, x):
            y = self.norm(x)
            y = y.add_(1)
            return y + x

    x = torch.zeros(2, 2, 3, 3)
    for norm in ("none", "selu"):
        assert torch.equal(swap(InPlace(), norm, x)[0](x), torch.ones_like(x))
