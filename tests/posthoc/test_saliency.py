"""Grad-CAM against its formula with the network cut in two, and numbers that say whether maps are worth anything."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from support.trainings import SMALL

from normhpc import models
from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.posthoc.faithfulness import area, blurred, faithfulness, ranks, removal
from normhpc.posthoc.gradcam import Place, grad_cam, place_of
from normhpc.posthoc.saliency import answers_to_explain, sensitivity_max


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


@pytest.mark.parametrize(
    ("model", "norm", "layer", "grid"),
    [
        ({"name": "resnet8", "width": 4}, "batch", lambda network: network.blocks[2], None),
        ({"name": "vgg", "cfg": "cfg_10"}, "batch", lambda network: network.layers[-1], None),
        (VIT, "layer", lambda network: network.blocks[1].norm1, (8, 8)),
    ],
    ids=["resnet", "vgg", "vit"],
)
def test_maps_are_those_of_pytorch_grad_cam(model: dict[str, object], norm: str, layer: Callable, grid) -> None:
    network = build(model, norm, (3, 32, 32))
    images = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    classes = [0, 1, 2, 3, 4, 5]
    found = grad_cam(network, place_of(network, images), images, torch.tensor(classes))

    def laid_out(tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, grid)

    peer = GradCAM(network, [layer(network)], reshape_transform=laid_out if grid else None)
    theirs = peer(images, [ClassifierOutputTarget(number) for number in classes])
    assert int(found.zero.sum()) < 3
    # theirs have their minimum subtracted
    low, high = found.values.amin(dim=(1, 2), keepdim=True), found.values.amax(dim=(1, 2), keepdim=True)
    stretched = (found.values - low) / torch.where(high > low, high - low, 1.0)
    np.testing.assert_allclose(stretched.numpy(), theirs, rtol=0, atol=1e-5)


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
    ones = torch.ones(6, dtype=torch.long)
    found = faithfulness(OnePixel(), images, maps, baseline, ones, generator)
    # removed first: retained at 0 of 16 alone; removed last: at 0 ... 15 of 16
    most, least = 0.5 / 16, 15.5 / 16
    np.testing.assert_allclose(found.srg_retention, least - most)
    share = 1 / (1 + np.exp(-2.0))
    np.testing.assert_allclose(found.deletion, (0.5 * share + 15.5 * (1 - share)) / 16)
    np.testing.assert_allclose(found.insertion, (15.5 * share + 0.5 * (1 - share)) / 16)
    upside_down = faithfulness(OnePixel(), images, 1 - maps, baseline, ones, generator)
    np.testing.assert_allclose(upside_down.srg_retention, most - least)


def test_removal_replaces_a_sixteenth_of_the_pixels_a_step() -> None:
    seen: list[torch.Tensor] = []

    def answer(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images.flatten(1)[:, :2]

    images = torch.rand(2, 3, 8, 8) + 1
    places = ranks(torch.rand(2, 8, 8), torch.Generator().manual_seed(0))
    classes = torch.zeros(2, dtype=torch.long)
    removal(answer, images, places, torch.zeros_like(images), classes, temperature=1.0, least_first=False)
    assert [int((one == 0).sum()) for one in seen] == [2 * 3 * 4 * step for step in range(17)]
    assert all(torch.equal(one[:, 0] == 0, places < 4 * step) for step, one in enumerate(seen))


class Divided(torch.nn.Module):
    """Logits at a temperature."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits / self.by


@pytest.mark.parametrize("multiple", [False, True])
@pytest.mark.parametrize("heat", [0.5, 0.7, 1.3, 3.3, 4.0])
def test_the_headline_does_not_change_with_the_temperature_of_the_logits(heat: float, multiple: bool) -> None:
    network = build({"name": "resnet8", "width": 4})
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    results = []
    for divisor in (1.0, heat):
        hot = torch.nn.Sequential(network, Divided(divisor))
        exact = copy.deepcopy(hot).double()
        place, classes = place_of(hot, images), hot(images).argmax(dim=1)
        maps = grad_cam(exact, place, images.double(), classes)
        generator, plain = torch.Generator().manual_seed(0), torch.zeros_like(images)
        results.append(faithfulness(hot, images, maps.values, plain, classes, generator, multiple=multiple))
    assert results[0].srg_retention.std() > 0.1
    assert results[0].srg_retention.mean() == pytest.approx(results[1].srg_retention.mean(), abs=1e-6)
    assert abs(results[0].insertion.mean() - results[1].insertion.mean()) > 1e-3


def test_a_map_without_order_gains_nothing_on_average() -> None:
    images = torch.ones(400, 1, 4, 4)
    maps, classes = torch.zeros(400, 4, 4), torch.ones(400, dtype=torch.long)
    nothing = faithfulness(OnePixel(), images, maps, -images, classes, torch.Generator().manual_seed(0))
    each = nothing.srg_retention
    assert abs(each.mean()) < 3 * each.std() / 20


def signs(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1


def finder(patterns: int) -> torch.nn.Sequential:
    """Where a pattern of 5 x 5 pixels is, then the 5 x 5 pixels around it; on a torus, so that no place is special."""
    wide = {"padding": 2, "padding_mode": "circular"}
    first, second = torch.nn.Conv2d(1, patterns, 5, **wide), torch.nn.Conv2d(patterns, patterns, 5, **wide)
    pooled = (torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten())
    return torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), *pooled)


def test_fresh_weights_gain_nothing_where_neither_place_nor_brightness_tells_what_matters() -> None:
    """A pattern of signs anywhere among random signs: a network that has not learned it cannot know where to look."""
    generator, count, patterns = torch.Generator().manual_seed(0), 128, 16
    wanted = signs(patterns, 1, 5, 5, generator=generator)
    images, classes = signs(count, 1, 12, 12, generator=generator), torch.arange(count) % patterns
    images[:, :, :5, :5] = wanted[classes]
    shifts = torch.randint(0, 12, (count, 2), generator=generator).tolist()
    images = torch.stack([image.roll(shift, (1, 2)) for image, shift in zip(images, shifts, strict=True)])
    learned = finder(patterns)
    with torch.no_grad():
        learned[0].weight.copy_(wanted)
        learned[0].bias.fill_(-15.0)
        learned[2].weight.copy_(torch.eye(patterns)[:, :, None, None].expand(patterns, patterns, 5, 5))
        learned[2].bias.zero_()
    assert torch.equal(learned(images).argmax(dim=1), classes)

    def gain(network: torch.nn.Module) -> float:
        maps = grad_cam(network, Place("3", "output", None), images, classes).values
        found = faithfulness(learned, images, maps, torch.zeros_like(images), classes, generator)
        return float(found.srg_retention.mean())

    torch.manual_seed(0)
    assert gain(learned) > 0.7
    assert abs(np.mean([gain(finder(patterns)) for _ in range(4)])) < 0.05


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


def test_probabilities_of_several_labels_are_each_their_own() -> None:
    logits = torch.tensor([[2.0, 1.0, -3.0]])
    images = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    places = ranks(images[:, 0], torch.Generator().manual_seed(0))
    given = {"temperature": 2.0, "least_first": False}
    several = removal(lambda _: logits, images, places, images, torch.tensor([2]), **given, multiple=True)
    single = removal(lambda _: logits, images, places, images, torch.tensor([0]), **given)
    np.testing.assert_allclose(several.probability, 1 / (1 + math.exp(1.5)), rtol=1e-12)
    np.testing.assert_allclose(
        single.probability, math.exp(1) / (math.exp(1) + math.exp(0.5) + math.exp(-1.5)), rtol=1e-12
    )


def test_a_label_is_retained_while_its_logit_stays_on_its_side_of_0() -> None:
    """Labels 0 and 1 hang on the sum of all pixels, at other levels; the highest logit is always that of label 0."""

    def answer(images: torch.Tensor) -> torch.Tensor:
        total = images.sum(dim=(1, 2, 3))
        return torch.stack([total + 100, total - 7.5, total - 20], dim=1)

    images = torch.ones(3, 1, 4, 4)
    places = torch.arange(16).view(1, 4, 4).expand(3, 4, 4)
    given = {"temperature": 1.0, "least_first": False, "multiple": True}
    found = removal(answer, images, places, torch.zeros_like(images), torch.arange(3), **given)
    # label 1 until 16 - step < 7.5; label 2 was never found, and stays so
    assert found.retention.tolist() == [[1] * 17, [1] * 9 + [0] * 8, [1] * 17]


def test_each_label_of_an_image_is_explained() -> None:
    logits = torch.tensor([[0.5, -1.0, 2.0, 9.0], [3.0, 1.0, 0.0, 9.0], [-1.0, -1.0, -1.0, 9.0]])
    labels = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 0]])
    several = answers_to_explain(logits, labels)
    assert several.rows.tolist() == [0, 0, 2]
    assert several.classes.tolist() == several.labels.tolist() == [0, 1, 1]
    assert several.right.tolist() == several.counted.tolist() == [True, False, False]
    single = answers_to_explain(logits[:, :3], torch.tensor([2, 1, 0]))
    assert single.rows.tolist() == [0, 1, 2]
    assert single.labels.tolist() == [2, 1, 0]
    assert single.classes.tolist() == [2, 0, 0]
    assert single.right.tolist() == [True, False, True]
    assert single.counted.all()
