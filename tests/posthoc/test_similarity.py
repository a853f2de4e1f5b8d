"""Similarity of class features against the formulas written out."""

import itertools

import numpy as np
import pytest
import torch
from support.trainings import SMALL

from normhpc import models
from normhpc.config import RunConfig
from normhpc.errors import InputError
from normhpc.posthoc.similarity import features_of, similarity


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))


def written_out(features: np.ndarray, members: list[np.ndarray]) -> tuple[float, float, float, float]:
    means = [features[rows].mean(axis=0) for rows in members]
    middle = np.mean(means, axis=0)
    pairs = list(itertools.combinations(means, 2))
    raw = [cosine(*pair) for pair in pairs]
    centred = [cosine(one - middle, other - middle) for one, other in pairs]
    count = sum(len(rows) for rows in members)
    within = sum(
        np.outer(row - mean, row - mean) for rows, mean in zip(members, means, strict=True) for row in features[rows]
    )
    between = sum(np.outer(mean - middle, mean - middle) for mean in means) / len(means)
    nc1 = np.trace(within / count @ np.linalg.pinv(between, rcond=1e-10)) / len(means)
    return float(np.mean(raw)), float(np.mean(centred)), float(np.std(centred)), float(nc1)


def test_numbers_are_those_of_the_formulas() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 200)
    labels[labels == 3] = 4  # a class without images
    features = generator.standard_normal((200, 12)) + 2 * np.eye(12)[labels] + 1
    found = similarity(features, labels)
    wanted = written_out(features, [np.flatnonzero(labels == number) for number in (0, 1, 2, 4)])
    np.testing.assert_allclose(found[:4], wanted, rtol=1e-10)
    assert found.present.tolist() == [0, 1, 2, 4]


def test_an_image_of_several_labels_counts_in_each() -> None:
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 2, (80, 4))
    features = generator.standard_normal((80, 6)) + 1
    wanted = written_out(features, [np.flatnonzero(labels[:, number]) for number in range(4)])
    np.testing.assert_allclose(similarity(features, labels)[:4], wanted, rtol=1e-10)


def test_a_simplex_has_no_spread_and_collapsed_classes_no_variation() -> None:
    labels = np.repeat(np.arange(4), 3)
    found = similarity(5 * np.eye(4)[labels], labels)
    assert found.centred_similarity_mean == pytest.approx(-1 / 3)
    assert found.centred_similarity_std == pytest.approx(0, abs=1e-12)
    assert found.nc1 == pytest.approx(0, abs=1e-12)
    assert found.class_similarity == pytest.approx(0)


def test_a_common_mean_alone_makes_classes_look_alike() -> None:
    generator = np.random.default_rng(2)
    found = similarity(generator.standard_normal((1000, 32)) + 5, np.arange(1000) % 10)
    assert found.class_similarity > 0.99
    assert found.centred_similarity_mean == pytest.approx(-1 / 9, abs=0.01)


def test_features_are_what_the_head_sees() -> None:
    model = models.build(RunConfig.model_validate(SMALL)).eval()
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(features_of(model, images), model.features(images).detach())


def test_a_network_without_a_linear_head_is_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3))
    with pytest.raises(InputError, match="expected a network that ends with a linear layer"):
        features_of(model, torch.zeros(1, 1, 8, 8))
