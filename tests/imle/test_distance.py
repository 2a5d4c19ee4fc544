"""The distances of training: against their formulas, their limits, and where gradients could break."""

import math

import numpy as np
import pytest
import torch

from imle.distance import ROBUST, make_distance
from imle.settings import Loss
from models.perceptual import load_embedding, squared_distance

FORMULAS = {"charbonnier": lambda e, c: 2 * c**2 * (np.sqrt(1 + e / c**2) - 1), "geman-mcclure": lambda e, c: e * c**2 / (c**2 + e)}
every = pytest.mark.parametrize("name", ROBUST)


def maps(seed: int) -> list[torch.Tensor]:
    """Draw maps (3, C, H, W) of two shapes, with 1/sqrt(H W) folded in."""
    drawn = torch.Generator().manual_seed(seed)
    shapes = ((3, 5, 8, 6), (3, 3, 4, 4))
    return [torch.randn(shape, generator=drawn) / math.sqrt(shape[2] * shape[3]) for shape in shapes]


def test_the_squared_distance_is_the_one_there_was():
    assert make_distance(Loss()) is make_distance(Loss(scale=0.1)) is squared_distance


@every
@pytest.mark.parametrize("scale", [0.3, 1.0, 5.0])
def test_robust_distances_equal_their_formulas(name, scale):
    expected = np.zeros(3)
    for x, y in zip(maps(1), maps(2)):
        x, y = (m.double().numpy() * math.sqrt(m.shape[2] * m.shape[3]) for m in (x, y))
        for image in range(3):
            at_positions = [FORMULAS[name](((x[image, :, i, j] - y[image, :, i, j]) ** 2).sum(), scale) for i, j in np.ndindex(x.shape[2:])]
            expected[image] += np.mean(at_positions)
    found = make_distance(Loss(distance=name, scale=scale))(maps(1), maps(2))
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-5, atol=0)


@every
def test_a_large_scale_gives_the_squared_distance_and_so_do_small_differences(name):
    squared = squared_distance(maps(1), maps(2))
    torch.testing.assert_close(make_distance(Loss(distance=name, scale=1000.0))(maps(1), maps(2)), squared, rtol=1e-4, atol=0)
    near = [x + 1e-3 * y for x, y in zip(maps(1), maps(2))]
    torch.testing.assert_close(make_distance(Loss(distance=name))(maps(1), near), squared_distance(maps(1), near), rtol=1e-4, atol=0)


@every
def test_more_is_never_less_but_counts_for_less(name):
    energy = torch.logspace(-12, 12, 200, dtype=torch.float64)
    for scale in (0.1, 1.0, 10.0):
        rho = ROBUST[name](energy, scale)
        slope = rho.diff() / energy.diff()
        assert (rho.diff() >= 0).all() and (slope.diff() <= 1e-9).all() and (rho <= energy).all()
        assert name != "geman-mcclure" or (rho <= scale**2).all()
    wider = [ROBUST[name](energy, scale) for scale in (0.5, 1.0, 2.0)]
    assert (wider[0] <= wider[1]).all() and (wider[1] <= wider[2]).all()


@every
@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
def test_gradients_are_finite_everywhere_and_as_autograd_should_find_them(name, scale):
    for energy in (0.0, 1e-30, 1e-8, 1.0, 1e8, 1e30):
        value = torch.tensor(energy, requires_grad=True)
        ROBUST[name](value, scale).backward()
        assert value.grad.isfinite() and -1e-7 / (1 + energy) <= value.grad <= 1  # but for rounding, none points uphill
    assert torch.autograd.gradcheck(lambda e: ROBUST[name](e, 0.7), torch.rand(5, dtype=torch.float64, requires_grad=True))
    one = [m.requires_grad_() for m in maps(1)]
    make_distance(Loss(distance=name, scale=scale))(one, [m.detach().clone() for m in one]).sum().backward()
    assert all((m.grad == 0).all() for m in one)


@every
def test_an_outlier_is_forgiven(name):
    """One spoilt pixel outweighs a fault all over in the squared distance, and not in a robust one."""
    embedding = load_embedding("pixels")
    image = torch.zeros(1, 3, 16, 16)
    all_over, spoilt = image + 0.1, image.clone()
    spoilt[:, :, 3, 3] = 2.0
    robust = make_distance(Loss(distance=name, scale=0.3))
    assert squared_distance(embedding(image), embedding(spoilt)) > squared_distance(embedding(image), embedding(all_over))
    assert robust(embedding(image), embedding(spoilt)) < robust(embedding(image), embedding(all_over))


def test_the_weight_of_pixels_stands_before_the_root_and_the_fraction():
    a, b = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    embedding = load_embedding("pixels", 0.3)  # the image with weight 1, and once more with 0.3
    error = (a - b).square().mean(dim=1)
    expected = (error / (1 + error)).mean(dim=(1, 2)) + (0.3 * error / (1 + 0.3 * error)).mean(dim=(1, 2))
    torch.testing.assert_close(make_distance(Loss(distance="geman-mcclure"))(embedding(a), embedding(b)), expected)
