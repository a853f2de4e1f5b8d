"""Grad-CAM against its formula with the network cut in two, and numbers that say whether maps are worth anything."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.trainings import SMALL

from normhpc import models
from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.posthoc.faithfulness import area, blurred, faithfulness, ranks, removal
from normhpc.posthoc.gradcam import Place, grad_cam, place_of
from normhpc.posthoc.saliency import sensitivity_max


def build(model: dict[str, object], norm: str = "batch", image: tuple[int, int, int] = (1, 8, 8)) -> torch.nn.Module:
    """A network with running statistics of some random images, and a head that does not start at zero."""
    channels, height, width = image
    data = {"name": "synthetic", "images": 40, "test_images": 12, "num_classes": 7}
    data |= {"channels": channels, "height": height, "width": width}
    torch.manual_seed(0)
    network = models.build(RunConfig.model_validate(SMALL | {"model": model, "norm": norm, "data": data}))
    torch.nn.init.normal_(network.head.weight)
    with torch.no_grad():
        network(torch.randn(32, *image))
    return network.eval()


CONVNET = {"name": "convnet", "widths": [4, 6]}
VIT = {"name": "vit", "patch": 4, "width": 12, "depth": 2, "heads": 2, "mlp_width": 16, "image_size": None}


@pytest.mark.parametrize(
    ("model", "place"),
    [
        (CONVNET, Place("layers.1", "output", None)),
        ({"name": "resnet8"}, Place("blocks.2", "output", None)),
        ({"name": "bbn_resnet56"}, Place("blocks.26", "output", None)),
        ({"name": "resnet8", "residual": "nf"}, Place("slot", "output", None)),
        (VIT, Place("blocks.1.attention", "input", (4, 4))),
    ],
    ids=lambda value: value["name"] if isinstance(value, dict) else "",
)
def test_the_layer_is_found_by_structure(model: dict[str, object], place: Place) -> None:
    image = (1, 16, 16)
    norm = "none" if model.get("residual") == "nf" else "layer"
    assert place_of(build(model, norm, image), torch.randn(2, *image)) == place


def test_patches_lie_as_the_network_has_resized_the_image() -> None:
    network = build(VIT | {"image_size": 16}, "layer", (1, 8, 16))
    assert place_of(network, torch.randn(2, 1, 8, 16)).grid == (4, 4)


def test_the_last_map_before_the_pooling_of_a_vgg_is_taken() -> None:
    network = build({"name": "vgg", "cfg": "cfg_10"}, image=(3, 32, 32))
    place = place_of(network, torch.randn(2, 3, 32, 32))
    assert place == Place(f"layers.{len(network.layers) - 1}", "output", None)


def test_pooled_maps_and_their_containers_are_no_places() -> None:
    network = torch.nn.Sequential(
        torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2)),
        torch.nn.AdaptiveAvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(12, 5),
    )
    assert place_of(network, torch.randn(2, 1, 8, 8)) == Place("0.1", "output", None)


def test_a_network_without_maps_is_refused() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with pytest.raises(InputError, match="saliency: expected a network of maps"):
        place_of(network, torch.randn(2, 1, 8, 8))


def test_maps_of_a_network_of_convolutions_are_those_of_the_formula() -> None:
    network, images = build(CONVNET), torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    classes = torch.tensor([0, 1, 2, 3, 4])
    found = grad_cam(network, place_of(network, images), images, classes)
    first = network.layers[0]
    activation = network.layers[1](F.max_pool2d(first(images), 2)).detach().double().requires_grad_()
    logits = F.max_pool2d(activation, 2).mean(dim=(2, 3)) @ network.head.weight.double().T + network.head.bias
    for row, label in enumerate(classes.tolist()):
        (slope,) = torch.autograd.grad(logits[row, label], activation, retain_graph=True)
        alpha = slope[row].mean(dim=(1, 2))
        raw = sum(alpha[k] * activation.detach()[row, k] for k in range(6)).clamp(min=0)
        large = F.interpolate(raw[None, None], (8, 8), mode="bilinear", align_corners=False)[0, 0]
        assert bool(found.zero[row]) == (float(large.max()) == 0)
        wanted = large / large.max().clamp(min=1e-12)
        torch.testing.assert_close(found.values[row].double(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.logits, network(images))
    assert int(found.zero.sum()) < 3


def test_maps_of_a_transformer_lie_as_its_patches_do() -> None:
    image = (1, 8, 16)
    network, images = build(VIT, "layer", image), torch.randn(3, *image, generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([1, 2, 3])
    found = grad_cam(network, place_of(network, images), images, classes)
    tokens = network.tokens(images)
    block = network.blocks[1]
    tokens = network.blocks[0](tokens).detach()
    normed = block.norm1(tokens).detach().requires_grad_()
    after = tokens + block.attention(normed)
    logits = network.head(network.norm(after + block.mlp(block.norm2(after)))[:, 0])
    (slopes,) = torch.autograd.grad(logits[torch.arange(3), classes].sum(), normed)
    # 1 class token, then 2 rows of 4 patches
    maps = torch.einsum("nc,nsc->ns", slopes[:, 1:].mean(dim=1), normed[:, 1:]).clamp(min=0).detach()
    large = F.interpolate(maps.view(3, 1, 2, 4), (8, 16), mode="bilinear", align_corners=False)[:, 0]
    peaks = large.amax(dim=(1, 2))
    assert torch.equal(found.zero, peaks == 0)
    wanted = torch.where(found.zero[:, None, None], 0.0, large / peaks[:, None, None].clamp(min=1e-12))
    torch.testing.assert_close(found.values, wanted, rtol=1e-4, atol=1e-5)


def test_a_map_of_nothing_is_counted_and_zero() -> None:
    network = build(CONVNET)
    with torch.no_grad():
        network.head.weight[3] = 0
    images = torch.randn(4, 1, 8, 8)
    found = grad_cam(network, place_of(network, images), images, torch.tensor([3, 0, 3, 1]))
    assert found.zero.tolist()[::2] == [True, True]
    assert float(found.values[::2].abs().max()) == 0
    assert torch.isfinite(found.values).all()


def test_area_is_that_of_trapezoids() -> None:
    curve = np.random.default_rng(0).random((3, 17))
    np.testing.assert_allclose(area(curve), np.trapezoid(curve, np.linspace(0, 1, 17), axis=1))


def test_ranks_follow_the_map_and_break_ties_at_random() -> None:
    maps = torch.tensor([[[0.5, 0.9], [0.1, 0.5]]])
    seen = {tuple(ranks(maps, torch.Generator().manual_seed(seed)).flatten().tolist()) for seed in range(20)}
    assert seen == {(1, 0, 3, 2), (2, 0, 3, 1)}


class OnePixel(torch.nn.Module):
    """Class 1 where the pixel in the corner is positive, class 0 elsewhere."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        own = images[:, 0, 0, 0]
        return torch.stack([-own, own], dim=1)


def corner_maps(count: int) -> torch.Tensor:
    maps = torch.zeros(count, 4, 4)
    maps[:, 0, 0] = 1
    return maps


def test_a_map_of_the_only_pixel_that_matters_gains_most() -> None:
    images, maps = torch.ones(6, 1, 4, 4), corner_maps(6)
    baseline = -torch.ones_like(images)
    generator = torch.Generator().manual_seed(0)
    found = faithfulness(OnePixel(), images, maps, baseline, generator)
    # removed first: retained at 0 of 16 alone; removed last: at 0 ... 15 of 16
    most, least = 0.5 / 16, 15.5 / 16
    np.testing.assert_allclose(found.srg_retention, least - most)
    share = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(found.deletion, (0.5 * share + 15.5 * (1 - share)) / 16)
    np.testing.assert_allclose(found.insertion, (15.5 * share + 0.5 * (1 - share)) / 16)
    upside_down = faithfulness(OnePixel(), images, 1 - maps, baseline, generator)
    np.testing.assert_allclose(upside_down.srg_retention, most - least)


def test_removal_replaces_a_sixteenth_of_the_pixels_a_step() -> None:
    seen: list[torch.Tensor] = []

    def answer(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.flatten(1)[:, :2]

    images = torch.rand(2, 3, 8, 8) + 1
    places = ranks(torch.rand(2, 8, 8), torch.Generator().manual_seed(0))
    removal(answer, images, places, torch.zeros_like(images), temperature=1.0, least_first=False)
    assert [int((one == 0).sum()) for one in seen] == [2 * 3 * 4 * step for step in range(17)]
    assert all(torch.equal(one[:, 0] == 0, places < 4 * step) for step, one in enumerate(seen))


class Divided(torch.nn.Module):
    """Logits at a temperature."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / self.by


@pytest.mark.parametrize("heat", [0.5, 0.7, 1.3, 3.3, 4.0])
def test_the_headline_does_not_change_with_the_temperature_of_the_logits(heat: float) -> None:
    network = build({"name": "resnet8", "width": 4})
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    results = []
    for divisor in (1.0, heat):
        hot = torch.nn.Sequential(network, Divided(divisor))
        exact = copy.deepcopy(hot).double()
        place = place_of(hot, images)
        maps = grad_cam(exact, place, images.double(), hot(images).argmax(dim=1))
        generator = torch.Generator().manual_seed(0)
        results.append(faithfulness(hot, images, maps.values, torch.zeros_like(images), generator))
    assert results[0].srg_retention.std() > 0.1
    assert results[0].srg_retention.mean() == pytest.approx(results[1].srg_retention.mean(), abs=1e-6)
    assert abs(results[0].insertion.mean() - results[1].insertion.mean()) > 1e-3


def test_a_map_without_order_gains_nothing_on_average() -> None:
    images = torch.ones(400, 1, 4, 4)
    nothing = faithfulness(OnePixel(), images, torch.zeros(400, 4, 4), -images, torch.Generator().manual_seed(0))
    each = nothing.srg_retention
    assert abs(each.mean()) < 3 * each.std() / 20


def test_sensitivity_is_the_most_that_a_map_moves() -> None:
    network = build(CONVNET)
    images = torch.randn(3, 1, 8, 8)
    classes = torch.tensor([0, 1, 2])
    place = place_of(network, images)
    maps = grad_cam(network, place, images, classes)
    found = sensitivity_max(network, place, images, maps, classes, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    moved = []
    for _ in range(10):
        noise = (torch.rand(images.shape, generator=generator) * 2 - 1) * 0.1
        other = grad_cam(network, place, images + noise, classes).values
        moved.append([float((other[row] - maps.values[row]).norm() / maps.values[row].norm()) for row in range(3)])
    np.testing.assert_allclose(found, np.max(moved, axis=0), rtol=1e-5)


def test_blur_is_a_gaussian_with_repeated_edges() -> None:
    from scipy.ndimage import gaussian_filter

    images = torch.rand(2, 3, 9, 12)
    wanted = gaussian_filter(images.double().numpy(), (0, 0, 1.5, 1.5), mode="nearest", radius=(0, 0, 5, 5))
    np.testing.assert_allclose(blurred(images, 1.5).numpy(), wanted, rtol=1e-5)


def test_probabilities_of_several_labels_are_each_their_own():
    logits = torch.tensor([[2.0, 1.0, -3.0]])
    images = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    places = ranks(images[:, 0], torch.Generator().manual_seed(0))
    given = {"temperature": 2.0, "least_first": False}
    several = removal(lambda _: logits, images, places, images, **given, multiple=True)
    single = removal(lambda _: logits, images, places, images, **given)
    np.testing.assert_allclose(several.probability, 1 / (1 + math.exp(-1.0)), rtol=1e-12)
    np.testing.assert_allclose(
        single.probability, math.exp(1) / (math.exp(1) + math.exp(0.5) + math.exp(-1.5)), rtol=1e-12
    )
