import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
import torchvision
from rich.console import Console
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.models import MODELS, build
from normhpc.models.facts import LayerFacts, NormSite, multiply_adds, norm_sites, show_summary, summarize
from normhpc.models.receptive import ReceptiveField, receptive_fields
from normhpc.norms import swap

TINY = {"name": "vit", "image_size": 32, "patch": 8, "depth": 1, "heads": 3, "width": 12, "mlp_width": 20}
NETWORKS = ["convnet", "resnet8", "era_convnet", "mnist_model2", "mnist_model5", "eva_convnet", TINY]


def network(model, norm="batch", data="cifar10"):
    torch.manual_seed(0)
    return build(RunConfig.model_validate({"model": model, "norm": norm, "data": data}))


def zeros(images=2, channels=3, side=32):
    return torch.zeros(images, channels, side, side)


def test_rows_of_a_small_network_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 5, bias=False))
    total = 3 * 4 * 9 + 4 + 16 * 5
    assert summarize(net, zeros(7, 3, 4)) == [
        LayerFacts("0", "Conv2d", (7, 3, 4, 4), (7, 4, 4, 4), 112, 112 / total, 112 * 16 * 7),
        LayerFacts("1", "MaxPool2d", (7, 4, 4, 4), (7, 4, 2, 2), 0, 0.0, 0),
        LayerFacts("2", "Flatten", (7, 4, 2, 2), (7, 16), 0, 0.0, 0),
        LayerFacts("3", "Linear", (7, 16), (7, 5), 80, 80 / total, 80 * 7),
    ]


def test_a_layer_called_twice_has_its_parameters_once():
    layer = nn.Linear(3, 3)
    rows = summarize(nn.Sequential(layer, nn.ReLU(), layer), torch.zeros(2, 3))
    assert [(row.name, row.parameters, row.share, row.multiply_adds) for row in rows] == [
        ("0", 12, 1.0, 24),
        ("1", 0, 0.0, 0),
        ("0", 0, 0.0, 24),
    ]


@pytest.mark.parametrize("norm", ["none", "batch", "frn_tlu"])
@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_parameters_and_shares_add_up(model, norm):
    net = network(model, norm)
    rows = summarize(net, zeros())
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in net.parameters())
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert rows[-1].name == "head"
    assert rows[-1].output_size == (2, 10)


def test_these_tests_see_every_kind_of_small_network():
    found = {type(RunConfig.model_validate({"model": model, "norm": "batch"}).model) for model in NETWORKS}
    assert found <= set(MODELS)
    assert len(found) == 6


def test_a_norm_is_one_row():
    rows = {row.name: row for row in summarize(network("era_convnet"), zeros())}
    assert rows["layers.1.slot"] == LayerFacts(
        "layers.1.slot", "Batch", (2, 16, 28, 28), (2, 16, 28, 28), 32, 32 / 47_818, 64
    )


@pytest.mark.parametrize("model", NETWORKS, ids=str)
def test_facts_leave_the_network_as_it_was(model):
    net = network(model).train()
    net.head.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    summarize(net, zeros())
    receptive_fields(net, zeros())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [name for name, module in net.named_modules() if not module.training] == ["head"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_multiply_adds_of_era_convnet():
    """225.61 M for 32 images in swapniel99/erav1s8, by torchinfo. By hand: weights times positions, norms once."""
    convolutions = 432 * 30**2 + 2304 * 28**2 + 384 * 28**2 + 3 * 5184 * 14**2 + 768 * 14**2 + 3 * 9216 * 7**2 + 330
    found = multiply_adds(network("era_convnet"), zeros(32))
    assert found == 32 * (convolutions + 400)
    assert f"{found / 1e6:.2f}" == "225.61"
    assert multiply_adds(network("era_convnet", "none"), zeros(32)) == 32 * convolutions


def test_multiply_adds_of_attention_and_tokens():
    tokens, width, mlp = 1 + 16, 12, 20
    weights = width * 3 * width + 3 * width + width * width + width + 2 * width * mlp + width + mlp
    per_image = (
        (3 * 8 * 8 + 1) * width * 16  # patches
        + (1 + tokens) * width  # class token and positions, each value once
        + 3 * 2 * width  # norms
        + weights * tokens
        + 2 * tokens * tokens * width  # q k^T and its product with v
        + width * 10
        + 10
    )
    assert multiply_adds(network(TINY), zeros(5)) == 5 * per_image


def of_torchs_own(net):
    """``net``, a vision transformer of ours, with torch's multi-head attention of the same sizes."""
    for block in net.blocks:
        width, heads = block.attention.outward.out_features, block.attention.heads
        block.attention = SelfAttention(width, heads)
    return net


class SelfAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.inner = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        return self.inner(query=x, key=x, value=x, need_weights=False)[0]


def test_torchs_attention_is_one_layer_that_counts_as_ours():
    ours, net = network(TINY), of_torchs_own(network(TINY))
    rows = summarize(net, zeros(5))
    (row,) = [row for row in rows if row.kind == "MultiheadAttention"]
    assert row.name == "blocks.0.attention.inner"
    assert (row.input_size, row.output_size, row.parameters) == ((5, 17, 12), (5, 17, 12), 4 * 12 * 12 + 4 * 12)
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in net.parameters())
    assert multiply_adds(net, zeros(5)) == multiply_adds(ours, zeros(5))
    assert fields_of(receptive_fields(net, zeros())) == fields_of(receptive_fields(ours, zeros()))


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"batch_first": True}, [(2, 5, 12), (2, 7, 12), (2, 7, 12)]),
        ({}, [(5, 2, 12), (7, 2, 12), (7, 2, 12)]),
        ({}, [(5, 12), (7, 12), (7, 12)]),
        ({"kdim": 4, "vdim": 6, "batch_first": True}, [(2, 5, 12), (2, 7, 4), (2, 7, 6)]),
        ({"add_zero_attn": True, "batch_first": True}, [(2, 5, 12), (2, 7, 12), (2, 7, 12)]),
    ],
    ids=str,
)
def test_multiply_adds_of_torchs_attention_are_half_of_torchs_count_of_operations(options, shapes):
    """Which has no biases."""
    attention = nn.MultiheadAttention(12, 3, bias=False, **options).eval()
    query, key, value = (torch.zeros(shape) for shape in shapes)
    with FlopCounterMode(display=False) as counter:
        attention(query, key, value)

    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = attention

        def forward(self, x):
            return self.attention(x, key, value)

    assert multiply_adds(Alone(), query) == counter.get_total_flops() / 2


def test_multiply_adds_of_torchs_attention_with_learned_key_and_value():
    attention = nn.MultiheadAttention(12, 3, add_bias_kv=True, batch_first=True)
    linear, products = 5 * 4 * (12 * 12 + 12), 2 * 5 * 6 * 12
    assert multiply_adds(SelfAttentionOf(attention), torch.zeros(2, 5, 12)) == 2 * (linear + 2 * 12 + products)


class SelfAttentionOf(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x, x, x)[0]


def test_facts_of_torchvisions_vision_transformer():
    net = torchvision.models.VisionTransformer(32, 8, 2, 3, 12, 20, num_classes=10)
    rows = summarize(net, zeros())
    assert sum(row.parameters for row in rows) == sum(parameter.numel() for parameter in net.parameters())
    assert [row.kind for row in rows].count("MultiheadAttention") == 2
    swapped, _ = swap(net, "rms", zeros())
    # 5 norms without a shift, and an embedding of 17 positions that the graph reads without calling its module
    assert multiply_adds(net, zeros()) - multiply_adds(swapped, zeros()) == 2 * (5 * 12 + 17 * 12)


def test_what_gives_no_tensor_has_no_row():
    class Flag(nn.Module):
        def forward(self):
            return self.training

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.flag, self.bias = Flag(), Bias()

        def forward(self, x):
            return self.bias() if self.flag() else x + self.bias()

    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.values = nn.Parameter(torch.zeros(3))

        def forward(self):
            return self.values

    assert summarize(Net(), torch.zeros(2, 3)) == [LayerFacts("bias", "Bias", (), (3,), 3, 1.0, 9)]


def test_norm_sites():
    assert norm_sites(network("convnet", "layer")) == [
        NormSite("layers.0.slot", 32, "relu", "sample"),
        NormSite("layers.1.slot", 64, "relu", "sample"),
    ]
    assert [site.act for site in norm_sites(network("convnet", "frn_tlu"))] == ["own", "own"]
    sites = norm_sites(network("era_convnet"))
    assert [(site.channels, site.act) for site in sites] == [(16, "relu")] * 2 + [(24, "none")] * 3 + [(32, "none")] * 3
    assert len(norm_sites(network("vit"))) == 13


def fields_of(rows):
    return [
        (row.rows_in, row.rf_in, row.jump_in, row.padding, row.kernel, row.stride, row.rows_out, row.rf, row.jump)
        for row in rows
    ]


ERA = [
    (32, 1, 1, 0, 3, 1, 30, 3, 1),
    (30, 3, 1, 0, 3, 1, 28, 5, 1),
    (28, 5, 1, 0, 1, 1, 28, 5, 1),
    (28, 5, 1, 0, 2, 2, 14, 6, 2),
    (14, 6, 2, 1, 3, 1, 14, 10, 2),
    (14, 10, 2, 1, 3, 1, 14, 14, 2),
    (14, 14, 2, 1, 3, 1, 14, 18, 2),
    (14, 18, 2, 0, 1, 1, 14, 18, 2),
    (14, 18, 2, 0, 2, 2, 7, 20, 4),
    (7, 20, 4, 1, 3, 1, 7, 28, 4),
    (7, 28, 4, 1, 3, 1, 7, 36, 4),
    (7, 36, 4, 1, 3, 1, 7, 44, 4),
    (7, 44, 4, 0, 7, 7, 1, 68, 28),
    (1, 68, 28, 0, 1, 1, 1, 68, 28),
]
"""The table in the README of swapniel99/erav1s8."""


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("norm", ["none", "batch", "layer", "frn_tlu"])
def test_receptive_fields_of_era_convnet(norm, skip):
    rows = receptive_fields(network({"name": "era_convnet", "skip": skip}, norm), zeros())
    assert fields_of(rows) == ERA
    assert [row.layer for row in rows[:5]] == [
        "layers.0.conv",
        "layers.1.conv",
        "layers.2",
        "layers.3",
        "layers.4.conv",
    ]
    assert [row.layer for row in rows[-2:]] == ["pool", "head"]


def test_receptive_fields_of_eva_convnet():
    rows = receptive_fields(network("eva_convnet", data="mnist"), zeros(2, 1, 28))
    assert [(row.rf, row.jump) for row in rows] == [
        *((3, 1), (5, 1), (6, 2), (10, 2), (14, 2), (18, 2), (22, 2), (26, 2)),
        *((32, 8), (32, 8), (32, 8)),
    ]


def test_receptive_fields_through_functions():
    rows = receptive_fields(network("convnet", "layer"), zeros())
    assert rows == [
        ReceptiveField("layers.0.conv", 32, 1, 1, 1, 3, 1, 32, 3, 1),
        ReceptiveField("(max_pool2d_with_indices)", 32, 3, 1, 0, 2, 2, 16, 4, 2),
        ReceptiveField("layers.1.conv", 16, 4, 2, 1, 3, 1, 16, 8, 2),
        ReceptiveField("(max_pool2d_with_indices)", 16, 8, 2, 0, 2, 2, 8, 10, 4),
        ReceptiveField("(mean)", 8, 10, 4, 0, 8, 8, 1, 38, 32),
        ReceptiveField("head", 1, 38, 32, 0, 1, 1, 1, 38, 32),
    ]


def test_the_longest_path_of_a_residual_network_counts():
    rows = {row.layer: row for row in receptive_fields(network("resnet8"), zeros())}
    # By hand: stem 3; two convolutions of jump 1 add 2 each; then 2 + 4, then 4 + 8; 8 rows of jump 4 add 28.
    assert (rows["blocks.0.conv2.conv"].rf, rows["blocks.1.conv2.conv"].rf) == (7, 13)
    assert (rows["blocks.1.shortcut.conv"].rf_in, rows["blocks.1.shortcut.conv"].rf) == (7, 7)
    assert rows["blocks.2.conv1.conv"].rf_in == 13
    assert (rows["(mean)"].rf_in, rows["(mean)"].rf, rows["head"].rf) == (25, 53, 53)


def test_attention_reaches_the_whole_image():
    rows = receptive_fields(network(TINY), zeros())
    assert rows == [
        ReceptiveField("tokens.patches", 32, 1, 1, 0, 8, 8, 4, 8, 8),
        ReceptiveField("blocks.0.attention.product", 17, 8, 8, 0, 17, 1, 17, 32, 8),
        ReceptiveField("head", 1, 32, 8, 0, 1, 1, 1, 32, 8),
    ]


def reached_rows(net, side):
    """Rows of the image whose values have a gradient from the middle row of the output, the map's only channel."""
    x = torch.rand(1, 1, side, side, requires_grad=True)
    y = net(x)
    y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum().backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    return int(rows.max() - rows.min()) + 1


class Branches(nn.Module):
    """A sum of paths of different reach, with functions between the modules."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(1, 1, 5, stride=2, padding=4, dilation=2)
        self.narrow = nn.Conv2d(1, 1, 1, stride=2)

    def forward(self, x):
        x = nn.functional.conv2d(x, torch.ones(1, 1, 3, 3), padding=2, dilation=2)
        y = self.wide(x) + self.narrow(x)
        return nn.functional.avg_pool2d(nn.functional.pad(y, (1, 1, 1, 1)), 3, 1)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Conv2d(1, 1, 3, padding=1), 3),
        (nn.Sequential(nn.Conv2d(1, 1, 3, 2), nn.AvgPool2d(3, 2), nn.Conv2d(1, 1, 3)), 3 + 2 * 2 + 2 * 4),
        (nn.Conv2d(1, 1, 3, padding="same", dilation=3), 7),
        (Branches(), 5 + 8 * 1 + 2 * 2),
    ],
    ids=["conv", "chain", "dilated", "branches"],
)
def test_receptive_fields_are_the_rows_that_gradients_reach(net, expected):
    for parameter in net.parameters():
        nn.init.ones_(parameter)
    rows = receptive_fields(net, torch.zeros(1, 1, 64, 64))
    assert rows[-1].rf == expected
    assert reached_rows(net, 64) == expected
    for row in rows:
        if "avg" not in row.layer or "(" not in row.layer:
            assert row.rows_out == (row.rows_in + 2 * row.padding - row.kernel) // row.stride + 1


def test_an_operation_that_is_no_window_is_refused():
    net = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3))
    with pytest.raises(InputError, match="upsample_nearest2d makes 64 rows of 32, which is no window"):
        receptive_fields(net, zeros())


def test_tables():
    file = io.StringIO()
    console = Console(file=file, width=200)
    console.print(show_summary(summarize(network("era_convnet"), zeros())))
    console.print(show_summary(receptive_fields(network("era_convnet"), zeros())))
    console.print(show_summary(norm_sites(network("era_convnet"))))
    words = [line.replace("│", " ").replace("┃", " ").split() for line in file.getvalue().splitlines()]
    assert ["name", "kind", "input", "size", "output", "size", "parameters", "share", "multiply", "adds"] in words
    assert [
        "layers.1.conv",
        "Conv2d",
        "2",
        "x",
        "16",
        "x",
        "30",
        "x",
        "30",
        "2",
        "x",
        "16",
        "x",
        "28",
        "x",
        "28",
        "2,304",
        "4.82%",
        "3,612,672",
    ] in words
    assert ["pool", "7", "44", "4", "0", "7", "7", "1", "68", "28"] in words
    assert ["layers.0.slot", "16", "relu", "batch"] in words
    assert show_summary([]).row_count == 0


DOCUMENT = (Path(__file__).parents[2] / "docs" / "models.md").read_text()


def cells_of(columns):
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("| ")]
    found = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines]
    return [cells for cells in found if len(cells) == columns]


@pytest.mark.parametrize(("model", "norm", "data", "parameters"), [cells[:4] for cells in cells_of(5)[1:]])
def test_documented_parameters(model, norm, data, parameters):
    assert f"{sum(parameter.numel() for parameter in network(model, norm, data).parameters()):,}" == parameters


def test_documented_example():
    code = DOCUMENT.split("```python\n")[1].split("```")[0]
    output = io.StringIO()
    with redirect_stdout(output):
        exec(code, {})
    assert output.getvalue().splitlines()[-1] == "225,612,608"
    rows = {row.layer: row for row in receptive_fields(network("era_convnet", "layer"), zeros())}
    told = cells_of(10)
    assert len(told) == 6
    for layer, *numbers in told[1:]:
        assert fields_of([rows[layer]]) == [tuple(map(int, numbers))]
