"""The scores in search features against their definitions."""

import math

import pytest
import torch

from training.scores import detail_correlation, energy_distance, nearest_other, variety


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


def test_detail_correlation_sees_the_finest_octave_alone():
    noise = torch.Generator().manual_seed(5)
    images, other = torch.randint(256, (2, 6, 3, 16, 16), generator=noise, dtype=torch.uint8)
    coarse = torch.randint(256, (6, 3, 8, 8), generator=noise).repeat_interleave(2, 2).repeat_interleave(2, 3).to(torch.uint8)
    assert detail_correlation(images, images) == pytest.approx(1)
    assert detail_correlation(images, 255 - images) == pytest.approx(-1)
    assert detail_correlation(images // 2, images // 2 + coarse // 2) == pytest.approx(1)  # coarse differences do not count
    assert abs(detail_correlation(images, other)) < 0.05
    assert detail_correlation(images, images.roll(1, dims=-1)) < 0  # the same detail, elsewhere
    assert detail_correlation(images, coarse) == 0  # no detail
    assert detail_correlation(images[:, :, :9, :13], images[:, :, :9, :13]) == pytest.approx(1)


def test_detail_correlation_equals_its_definition_on_one_square():
    a, b = (torch.tensor(values, dtype=torch.uint8).view(1, 1, 2, 2).expand(-1, 3, -1, -1) for values in ([0, 10, 20, 30], [4, 0, 0, 0]))
    # Less their means 15 and 1: (-15, -5, 5, 15) and (3, -1, -1, -1), whose product is -60.
    assert detail_correlation(a, b) == pytest.approx(-60 / math.sqrt(500 * 12))


def test_variety_is_the_nearest_distance_over_the_mean_distance():
    line = torch.tensor([[0.0], [1.0], [4.0]])  # nearest: 1, 1, 3; all pairs: 1, 4, 3
    assert variety(line) == pytest.approx((5 / 3) / (8 / 3))
    assert variety(torch.eye(7)) == pytest.approx(1)
    twins = normal(20, 9, seed=4).repeat(2, 1)
    assert variety(twins) == pytest.approx(0, abs=1e-6)
