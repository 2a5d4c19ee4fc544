"""Clipping against the same in numpy, one gradient at a time."""

import numpy as np
import torch
from torch import nn

from training.clipping import MEMORY, Clipping


def clipped(gradients: list[np.ndarray], factor: float) -> list[np.ndarray]:
    """Return one weight's gradients, step by step, each at most `factor` times the running mean of the norms before."""
    usual, out = 0.0, []
    for gradient in gradients:
        norm = np.linalg.norm(gradient)
        usual = usual or norm
        kept = min(norm, factor * usual)
        out.append(gradient * (kept / norm if norm else 1.0))
        usual += (1 - MEMORY) * (kept - usual)
    return out


def test_each_weight_is_clipped_by_its_own_past():
    draw = np.random.default_rng(0)
    lengths = np.exp(draw.normal(0, 1, (60, 3))) * [1e-6, 1.0, 1e4]
    lengths[20, 1], lengths[:10, 2] = 1e9, 0.0  # one outlier, and a weight that gets no gradient at first
    shapes = [(4,), (2, 3), (5, 1, 2)]
    gradients = [[draw.normal(size=shape) * length for shape, length in zip(shapes, row)] for row in lengths]
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    clipping, found = Clipping(parameters, 1.5), []
    for row in gradients:
        for parameter, gradient in zip(parameters, row):
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        clipping.clip(torch.stack([parameter.grad.norm() for parameter in parameters]))
        found.append([parameter.grad.numpy() for parameter in parameters])
    for place, past in enumerate(zip(*gradients)):
        expected = clipped(list(past), 1.5)
        assert any(not np.array_equal(a, b) for a, b in zip(expected, past))
        for step, wanted in enumerate(expected):
            np.testing.assert_allclose(found[step][place], wanted, rtol=1e-5)


def test_usual_gradients_are_left_alone_to_the_last_bit():
    parameter = nn.Parameter(torch.zeros(8))
    clipping = Clipping([parameter], 2.0)
    for seed in range(20):
        gradient = torch.randn(8, generator=torch.Generator().manual_seed(seed))
        gradient /= gradient.norm()
        parameter.grad = gradient.clone()
        clipping.clip(parameter.grad.norm()[None])
        assert torch.equal(parameter.grad, gradient)
