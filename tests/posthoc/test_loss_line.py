"""Losses along lines: the direction, the losses, and weights that are as before."""

import copy

import numpy as np
import torch
from support.trainings import SMALL

from normhpc import models
from normhpc.config import RunConfig
from normhpc.posthoc.curvature import Hessian
from normhpc.posthoc.loss_line import filter_normalized, losses_along
from normhpc.posthoc.subject import mean_loss


def line() -> Hessian:
    torch.manual_seed(0)
    model = models.build(RunConfig.model_validate(SMALL)).double().eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(20, 1, 8, 8, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, 10, (20,), generator=generator)
    return Hessian(model, [(images[:15], labels[:15]), (images[15:], labels[15:])], mean_loss)


def test_every_filter_of_a_direction_is_as_long_as_that_of_the_weights() -> None:
    own = line()
    direction = filter_normalized(own.weights, torch.Generator().manual_seed(2))
    for step, weight in zip(direction, own.weights, strict=True):
        if weight.ndim < 2:
            assert not step.any()
        else:
            lengths = [part.detach().flatten(1).norm(dim=1) for part in (step, weight)]
            torch.testing.assert_close(*lengths)
    again = filter_normalized(own.weights, torch.Generator().manual_seed(2))
    assert all(torch.equal(*pair) for pair in zip(direction, again, strict=True))


def test_losses_are_those_of_moved_networks_and_the_weights_stay() -> None:
    own = line()
    before = copy.deepcopy(own.model.state_dict())
    direction = filter_normalized(own.weights, torch.Generator().manual_seed(2))
    distances = np.array([-0.3, 0.0, 0.2])
    found = losses_along(own, direction, distances)
    images, labels = (torch.cat(parts) for parts in zip(*own.batches, strict=True))
    for distance, loss in zip(distances, found, strict=True):
        moved = copy.deepcopy(own.model)
        with torch.no_grad():
            for weight, step in zip(moved.parameters(), direction, strict=True):
                weight += distance * step
            wanted = torch.nn.functional.cross_entropy(moved(images), labels)
        np.testing.assert_allclose(loss, wanted, rtol=1e-10)
    assert all(torch.equal(own.model.state_dict()[name], value) for name, value in before.items())
