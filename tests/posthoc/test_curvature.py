"""Lanczos, trace and density against the whole Hessian, from torch.func in float64."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import scipy.sparse.linalg
import torch
from support.norm_cases import ONE_OF_EACH
from support.trainings import SMALL
from torch import nn

from normhpc import norms
from normhpc.config import RunConfig
from normhpc.config.norm import NormPart
from normhpc.errors import InputError
from normhpc.posthoc.curvature import (
    GRAPH_BYTES,
    Hessian,
    Mode,
    Quadrature,
    kept_buffers,
    lanczos,
    mode_of,
    quadrature,
    trace_of,
)
from normhpc.posthoc.hessian import checks, headline, in_nchw, measured, modes_differ, stability_rate
from normhpc.posthoc.subject import mean_loss


def norm_of(norm: object) -> NormPart:
    return norm if isinstance(norm, NormPart) else RunConfig.model_validate(SMALL | {"norm": norm}).norm


def network(norm: object, widths: tuple[int, int], act: str = "silu") -> nn.Module:
    """A smooth network in float64 for 8x8 images of 2 channels, some steps of gradient descent away from its start."""
    slots = [norms.build(norm_of(norm), width, act) for width in widths]
    torch.manual_seed(1)
    first, second = widths
    model = nn.Sequential(
        nn.Conv2d(2, first, 3, padding=1, bias=False),
        slots[0],
        nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
        slots[1],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, 10),
    ).double()
    images, labels = sample(48)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(50):
        optimizer.zero_grad()
        mean_loss(model(images), labels).backward()
        optimizer.step()
    return model.eval()


def sample(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 2, 8, 8, dtype=torch.float64, generator=generator)
    return images, torch.randint(0, 10, (count,), generator=generator)


def in_batches(count: int, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images, labels = sample(count)
    return [(images[at : at + size], labels[at : at + size]) for at in range(0, count, size)]


def loss_of_weights(
    model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]:
    """The mean loss as a function of (P,) weights for torch.func, where norms are plain formulas, and the weights."""
    weights = {name: value.detach() for name, value in model.named_parameters()}
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    total = sum(len(images) for images, _ in batches)

    def loss(flat: torch.Tensor) -> torch.Tensor:
        pieces = torch.split(flat, [value.numel() for value in weights.values()])
        parts = {name: piece.view_as(weights[name]) for name, piece in zip(weights, pieces, strict=True)}
        losses = []
        for images, labels in batches:
            own = {name: value.clone() for name, value in buffers.items()}
            logits = torch.func.functional_call(model, (parts, own), (images,))
            losses.append(mean_loss(logits, labels) * (len(images) / total))
        return torch.stack(losses).sum()

    return loss, torch.cat([value.reshape(-1) for value in weights.values()])


@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_spectrum_and_trace_of_a_batch_norm_network_are_those_of_the_whole_hessian(
    mode: Mode, precision: torch.dtype, tolerance: float
) -> None:
    exact_model = network("batch", (5, 20)).float().double()  # weights that both types hold
    model = copy.deepcopy(exact_model).to(precision)
    batches = in_batches(16, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with mode_of(model, mode), mode_of(exact_model, mode):
        hessian = Hessian(model, [(images.to(precision), labels) for images, labels in batches], mean_loss)
        values, arrays = measured(hessian, steps=40)
        loss, weights = loss_of_weights(exact_model, batches)
        whole = torch.func.jacrev(torch.func.grad(loss), chunk_size=128)(weights).detach().numpy()
    exact = np.linalg.eigvalsh(whole)
    assert hessian.size == len(exact) == 1250
    np.testing.assert_allclose(values["top"], exact[::-1][:5], rtol=tolerance)
    assert values["lambda_max"] == values["top"][0]
    assert values["lambda_min"] == pytest.approx(exact[0], rel=1e-3)
    for name in ("trace", "trace_hutchinson", "trace_from_density"):
        assert abs(values[name] - exact.sum()) <= 3 * values[f"{name}_standard_error"], name
    assert values["frobenius"] == pytest.approx(np.sqrt((exact**2).sum()), rel=0.2)
    assert values["checks"] == dict.fromkeys(("traces", "largest", "order", "settled"), True)
    assert values["checks_failed"] == []
    norm = sum(float((weight.detach() ** 2).sum()) for weight in model.parameters())
    assert values["lambda_max_times_squared_norm"] == pytest.approx(values["top"][0] * norm)
    # 40 for the ends, 30 and twice 10 for the trace, 10 times 20 for the density; 40 where weights have no scale
    assert values["products"] == (330 if mode == "train" else 290)
    area = np.trapezoid(arrays["density"], arrays["density_grid"])
    assert area == pytest.approx(1, abs=1e-3)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("spec", ONE_OF_EACH, ids=lambda spec: spec.name)
def test_products_of_every_norm_are_those_of_plain_formulas(spec: NormPart, mode: Mode) -> None:
    try:
        model = network(spec, (16, 16))
    except InputError as error:
        pytest.skip(str(error))
    batches = in_batches(32, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with mode_of(model, mode):
        hessian = Hessian(model, batches, mean_loss)
        vector = torch.randn(hessian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        found, again = hessian(vector), hessian(vector)
        loss, weights = loss_of_weights(model, batches)
        gradient, wanted = torch.func.vjp(torch.func.grad(loss), weights)
        wanted = wanted(vector)[0].detach()
        own_gradient = hessian.gradient()
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
    torch.testing.assert_close(own_gradient, gradient.detach(), rtol=1e-9, atol=1e-9)
    assert torch.equal(found, again)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def matrix_hessian(matrix: np.ndarray) -> Hessian:
    """The loss w^T A w / 2 of tensors of weights of 3 and of the other numbers: its Hessian is A."""
    fixed = torch.from_numpy(matrix)

    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.ones(3, dtype=torch.float64))
            self.second = nn.Parameter(torch.ones(len(matrix) - 3, dtype=torch.float64))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            weights = torch.cat([self.first, self.second])
            return weights @ fixed @ weights / 2

    batch = (torch.zeros(1), torch.zeros(1))
    return Hessian(Quadratic(), [batch], lambda logits, labels: logits)


def symmetric(size: int) -> np.ndarray:
    drawn = np.random.default_rng(3).standard_normal((size, size))
    return drawn + drawn.T


def test_lanczos_over_the_whole_space_finds_every_eigenvalue() -> None:
    matrix = symmetric(12)
    start = torch.from_numpy(np.random.default_rng(4).standard_normal(12))
    found = lanczos(matrix_hessian(matrix), start, 40)
    np.testing.assert_allclose(found.values, np.linalg.eigvalsh(matrix), rtol=1e-10)
    assert found.residuals.max() < 1e-10
    assert found.weights.sum() == pytest.approx(1)


def test_residuals_are_those_of_the_ritz_pairs() -> None:
    matrix = symmetric(30)
    start = torch.from_numpy(np.random.default_rng(4).standard_normal(30))
    found = lanczos(matrix_hessian(matrix), start, 9)
    vectors = found.basis.numpy().T @ found.vectors
    lengths = np.linalg.norm(matrix @ vectors - vectors * found.values, axis=0)
    np.testing.assert_allclose(found.residuals, lengths, rtol=1e-8)


def test_lanczos_stops_where_nothing_new_comes() -> None:
    matrix = np.diag([1.0, 2, 2, 5, 5])
    found = lanczos(matrix_hessian(matrix), torch.tensor([1.0, 1, 1, 1, 1]), 5)
    np.testing.assert_allclose(found.values, [1, 2, 5])
    np.testing.assert_allclose(found.weights, [0.2, 0.4, 0.4])


def test_traces_and_the_seed_s_number_of_a_known_matrix() -> None:
    matrix = symmetric(6)
    hessian = matrix_hessian(matrix)
    found = trace_of(hessian, 400, 2, torch.Generator().manual_seed(0))
    assert hessian.products == 400 + 2 * 2
    generator = torch.Generator().manual_seed(0)
    drawn = [(torch.randint(0, 2, (6,), generator=generator).double() * 2 - 1).numpy() for _ in range(402)]
    sketch, vectors = np.array(drawn[:2]).T, drawn[2:]
    parts = np.array([[(v * (matrix @ v))[:3].sum(), (v * (matrix @ v))[3:].sum()] for v in vectors])
    assert found.hutchinson == pytest.approx(parts.sum(axis=1).mean())
    assert found.hutchinson_standard_error == pytest.approx(parts.sum(axis=1).std(ddof=1) / 20)
    assert found.seed_trace == pytest.approx(np.abs(parts).sum(axis=1).mean())
    assert found.seed_trace > abs(found.hutchinson)
    basis = scipy.linalg.orth(matrix @ sketch)
    rest = np.eye(6) - basis @ basis.T
    terms = [v @ rest @ matrix @ rest @ v for v in vectors]
    assert found.mean == pytest.approx(np.trace(basis.T @ matrix @ basis) + np.mean(terms))
    assert found.standard_error == pytest.approx(np.std(terms, ddof=1) / 20)
    for mean, error in ((found.mean, found.standard_error), (found.hutchinson, found.hutchinson_standard_error)):
        assert abs(mean - np.trace(matrix)) < 3 * error


def test_a_trace_that_lies_in_few_directions_is_found_without_error() -> None:
    drawn = np.random.default_rng(5).standard_normal((40, 4))
    matrix = drawn @ np.diag([9.0, 5.0, -3.0, 1.0]) @ drawn.T
    found = trace_of(matrix_hessian(matrix), 5, 4, torch.Generator().manual_seed(0))
    assert found.mean == pytest.approx(np.trace(matrix), rel=1e-10)
    assert found.standard_error < 1e-10 * found.hutchinson_standard_error


def test_a_sketch_of_more_vectors_than_weights_is_the_whole_matrix() -> None:
    matrix = symmetric(4)
    found = trace_of(matrix_hessian(matrix), 1, 9, torch.Generator().manual_seed(0))
    assert found.mean == pytest.approx(np.trace(matrix))
    assert np.isnan(found.standard_error)


def test_quadrature_has_the_moments_of_the_matrix() -> None:
    matrix = symmetric(8)
    nodes = quadrature(matrix_hessian(matrix), 100, 8, torch.Generator().manual_seed(0))
    for power in (1, 2):
        moments = 8 * nodes.moments(power)
        exact = np.trace(np.linalg.matrix_power(matrix, power))
        assert abs(moments.mean() - exact) < 4 * moments.std() / 100**0.5


def test_density_is_a_sum_of_bells() -> None:
    nodes = Quadrature([np.array([0.0, 1.0])], [np.array([0.25, 0.75])])
    grid, density = nodes.density()
    bells = [share * np.exp(-((grid - at) ** 2) / (2 * 0.01**2)) for share, at in ((0.25, 0), (0.75, 1))]
    np.testing.assert_allclose(density, sum(bells) / (0.01 * np.sqrt(2 * np.pi)), atol=1e-100)


def test_checks_fail_for_numbers_that_do_not_fit() -> None:
    good = {
        "trace": 10.0,
        "trace_standard_error": 1.0,
        "trace_from_density": 12.0,
        "trace_from_density_standard_error": 1.0,
        "lambda_max": 5.0,
        "lambda_min": -1.0,
        "frobenius": 6.0,
        "top_relative_residuals": [1e-6],
        "lambda_min_relative_residual": 1e-3,
    }
    everything = dict.fromkeys(("traces", "largest", "order", "settled"), True)
    assert checks(good, 10, 1.0) == everything
    for change, failed in (
        ({"trace_from_density": 15.0}, "traces"),
        ({"lambda_max": 7.0}, "largest"),
        ({"lambda_min": 1.0}, "order"),
        ({"lambda_min_relative_residual": 0.02}, "settled"),
    ):
        assert checks(good | change, 10, 1.0) == everything | {failed: False}


@pytest.mark.parametrize(("norm", "mode"), [("batch", "train"), ("layer", "eval")])
def test_curvature_in_units_of_lengths_does_not_know_the_scale_of_weights(norm: str, mode: Mode) -> None:
    model, batches = network(norm, (5, 20)), in_batches(16, 8)
    found = []
    for factor in (1.0, 3.0):
        with torch.no_grad():
            model[2].weight.mul_(factor)
        with mode_of(model, mode):
            hessian = Hessian(model, batches, mean_loss)
            values, _ = measured(hessian)
            loss, weights = loss_of_weights(model, batches)
            whole = torch.func.jacrev(torch.func.grad(loss), chunk_size=128)(weights).detach().numpy()
        names = [name for name, _ in model.named_parameters()]
        lengths = {name: float(weight.detach().norm()) for name, weight in model.named_parameters()}
        convolutions = ("0.weight", "2.weight")
        scale = [lengths[name] * (name in convolutions) for name in names]
        scale = np.repeat(scale, [weight.numel() for weight in model.parameters()])
        exact = np.linalg.eigvalsh(scale[:, None] * whole * scale)
        assert values["lambda_max_scale_free"] == pytest.approx(exact[-1], rel=1e-6)
        assert values["lambda_max_scale_free_relative_residual"] < 1e-3
        assert [one["weight"] for one in values["scale_invariant"]] == list(convolutions)
        assert [one["squared_norm"] for one in values["scale_invariant"]] == pytest.approx(
            [lengths[name] ** 2 for name in convolutions]
        )
        assert sum(one["share"] for one in values["scale_invariant"]) == pytest.approx(1)
        assert values["products"] == 330
        found.append(values)
    # up to the eps of the norm
    assert found[1]["lambda_max_scale_free"] == pytest.approx(found[0]["lambda_max_scale_free"], rel=1e-3)
    assert abs(found[1]["lambda_max_times_squared_norm"] / found[0]["lambda_max_times_squared_norm"] - 1) > 0.1


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_running_statistics_do_not_make_weights_scale_invariant(norm: str) -> None:
    model = network(norm, (5, 20))
    values, _ = measured(Hessian(model, in_batches(16, 8), mean_loss), steps=5)
    assert (values["lambda_max_scale_free"], values["scale_invariant"]) == (None, [])


def test_a_check_that_fails_is_named_in_the_numbers_and_in_the_line() -> None:
    model = network("layer", (5, 20))
    values, _ = measured(Hessian(model, in_batches(16, 16), mean_loss), steps=2)
    # two steps do not settle, everything else stands
    assert values["checks"]["settled"] is False
    assert values["checks_failed"] == ["settled"]
    assert headline("eval", values).endswith(", checks failed: settled")


@pytest.mark.parametrize(
    "optim",
    [
        {"name": "sgd", "lr": 0.3, "momentum": 0.0},
        {"name": "sgd", "lr": 0.3, "momentum": 0.9},
        {"name": "sgd", "lr": 0.3, "momentum": 0.8, "nesterov": True},
    ],
)
def test_two_is_the_limit_of_stability_on_a_quadratic_loss(optim: dict[str, object]) -> None:
    rate = stability_rate(RunConfig.model_validate(SMALL | {"optim": optim}))
    assert rate is not None
    lengths = []
    for product in (1.98, 2.02):
        weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
        settings = {name: value for name, value in optim.items() if name != "name"}
        optimizer = torch.optim.SGD([weight], **settings)
        for _ in range(2000):
            optimizer.zero_grad()
            (product / rate * weight**2 / 2).sum().backward()
            optimizer.step()
        lengths.append(float(weight.detach().abs()))
    assert lengths[0] < 1e-2
    assert lengths[1] > 1e2


def test_rates_of_stability_are_those_of_the_batch_and_of_sgd_alone() -> None:
    optim = {"name": "sgd", "lr": 0.1, "momentum": 0.5, "lr_batch_size": 32}
    config = RunConfig.model_validate(SMALL | {"batch_size": 64, "optim": optim})
    assert stability_rate(config) == pytest.approx(0.1 * 2 / 1.5)
    assert stability_rate(RunConfig.model_validate(SMALL | {"optim": "adam"})) is None


@pytest.mark.parametrize(("norm", "differ"), [("batch", True), ("layer", False)])
def test_whether_a_network_sees_its_batch(norm: str, differ: bool) -> None:
    model = network(norm, (4, 4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert modes_differ(model, sample(32)[0], 16) is differ
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_dropout_is_off_in_training_mode() -> None:
    model = nn.Sequential(nn.Dropout2d(), nn.BatchNorm2d(2), nn.AlphaDropout()).eval()
    with mode_of(model, "train"):
        assert [module.training for module in model] == [False, True, False]
    assert [module.training for module in model] == [False, False, False]


def test_weights_lie_as_before_when_their_curvature_is_measured() -> None:
    nhwc = torch.channels_last
    convolutions = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=4)
    model = nn.Sequential(nn.Sequential(*convolutions).to(memory_format=nhwc), nn.Conv2d(4, 5, 3), nn.Linear(2, 3))
    before = [(weight.detach().clone(), weight.stride()) for weight in model.parameters()]
    with in_nchw(model):
        assert all(weight.is_contiguous() for weight in model.parameters())
    assert convolutions[0].weight.is_contiguous(memory_format=nhwc)
    for weight, (value, stride) in zip(model.parameters(), before, strict=True):
        assert torch.equal(weight, value)
        assert weight.stride() == stride


def test_a_graph_made_with_kept_buffers_is_good_for_a_backward_pass_after_them() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    before = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    for mode in ("eval", "train"):
        with mode_of(model, mode):
            with kept_buffers(model):
                total = model(torch.randn(2, 2, 8, 8)).square().sum()
            assert all(buffer is before[name][0] for name, buffer in model.named_buffers())
            total.backward()
    assert all(torch.equal(buffer, value) for buffer, value in before.values())


@pytest.mark.filterwarnings("ignore:`torch.jit.script")  # of linear_operator, which curvlinops loads
def test_products_and_the_largest_eigenvalue_are_those_of_curvlinops() -> None:
    from curvlinops import HessianLinearOperator

    # torch has no forward derivative of silu's backward pass, which curvlinops takes
    model, batches = network("batch", (5, 20), "relu"), in_batches(48, 16)
    parameters = list(model.parameters())
    theirs = HessianLinearOperator(model, nn.CrossEntropyLoss(), parameters, batches, progressbar=False)
    with mode_of(model, "eval"):
        hessian = Hessian(model, batches, mean_loss)
        vector = torch.randn(hessian.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        wanted = theirs @ vector
        torch.testing.assert_close(hessian(vector), wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))
        largest = scipy.sparse.linalg.eigsh(theirs.to_scipy(), k=1, which="LA", return_eigenvectors=False)[0]
        assert lanczos(hessian, vector, 40).values[-1] == pytest.approx(largest, rel=1e-9)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_kept_graphs_change_no_bit(mode: Mode) -> None:
    model, batches = network("batch", (5, 20)), in_batches(48, 16)
    graph = Hessian(model, batches, mean_loss)
    with mode_of(model, mode):
        vector = torch.randn(graph.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        wanted = Hessian(model, batches, mean_loss, graph_bytes=0)(vector)
        for _ in range(3):
            assert torch.equal(graph(vector), wanted)
        assert list(graph._graphs) == [0, 1, 2]
        # room for one graph and a half
        room = GRAPH_BYTES // graph._kept_batches * 3 // 2
        few = Hessian(model, batches, mean_loss, graph_bytes=room)
        assert torch.equal(few(vector), wanted)
        assert torch.equal(few(vector), wanted)
        assert list(few._graphs) == [0]
        # and the weights of kept graphs must stay
        with torch.no_grad():
            graph.weights[0].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            graph(vector)
