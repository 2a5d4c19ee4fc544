"""The scores in search features against their definitions."""

import math

import pytest
import torch

from training.scores import energy_distance, nearest_other


def normal(*shape, seed, offset=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + offset


def mean_distance(a, b):
    """Average over all pairs of different vectors, in Python's own arithmetic."""
    pairs = [math.dist(x, y) for i, x in enumerate(a.tolist()) for j, y in enumerate(b.tolist()) if a is not b or i != j]
    return sum(pairs) / len(pairs)


@pytest.mark.parametrize("k, n", [(2, 2), (5, 9), (30, 28)])
def test_energy_distance_equals_its_definition(k, n):
    samples, images = normal(k, 6, seed=1), normal(n, 6, seed=2, offset=0.5)
    expected = 2 * mean_distance(samples, images) - mean_distance(samples, samples) - mean_distance(images, images)
    assert energy_distance(samples, images) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_energy_distance_is_unbiased_and_tells_distributions_apart():
    same = [energy_distance(normal(8, 5, seed=seed), normal(6, 5, seed=1000 + seed)) for seed in range(400)]
    mean, deviation = torch.tensor(same).mean().item(), torch.tensor(same).std().item()
    # With vectors compared with themselves the mean would be E|s - s'| (1/8 + 1/6), about 0.9.
    assert abs(mean) < 4 * deviation / math.sqrt(400) < 0.1
    assert energy_distance(normal(100, 5, seed=1), normal(100, 5, seed=2)) < 0.05
    assert energy_distance(normal(100, 5, seed=1), normal(100, 5, seed=2, offset=1.0)) > 0.5


def test_nearest_other_is_another_vector_far_from_the_origin_too():
    for offset in (0.0, 1000.0):
        features = normal(40, 6, seed=3, offset=offset)
        expected = [min(math.dist(x, y) for j, y in enumerate(features.tolist()) if i != j) for i, x in enumerate(features.tolist())]
        torch.testing.assert_close(nearest_other(features), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=0)
    assert nearest_other(torch.ones(2, 6)).tolist() == [0, 0]
