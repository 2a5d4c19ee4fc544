"""Backtracking: the distance to the nearest other image, against brute force. tests/models/test_inversion.py has the search."""

import math

import pytest
import torch

from metrics.backtracking import PIXEL_WEIGHT, to_nearest
from models.perceptual import load_embedding, squared_distance
from models.pixels import to_float

CPU = torch.device("cpu")
SIZE = (3, 8, 8)
EMBED = load_embedding("pixels", PIXEL_WEIGHT)


def noise(n, seed=0):
    return torch.randint(256, (n, *SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def squared_error(a, b):
    return (to_float(a) - to_float(b)).square().mean(dim=(1, 2, 3))


def brute_to_nearest(images, training):
    distances = torch.stack([squared_error(images, other.expand_as(images)) for other in training], dim=1)
    itself = torch.tensor([[torch.equal(image, other) for other in training] for image in images])
    return distances.masked_fill(itself, math.inf).amin(dim=1)


@pytest.mark.parametrize("num_images", [3, 30])
def test_to_nearest_leaves_out_the_image_itself(num_images):
    training = noise(37)
    training[5] = training[0]
    training[6] = training[1]
    training[6, 0, 0, 0] ^= 1
    images = torch.cat([training[:num_images], noise(4, seed=1)])
    nearest = to_nearest(EMBED, images, training, CPU)
    torch.testing.assert_close(nearest, brute_to_nearest(images, training), rtol=1e-4, atol=1e-5)
    assert nearest[1] < 1e-4 and nearest[0] > 0.1


def test_to_nearest_is_perceptual_alone():
    """Neither the pixels beside the perceptual maps nor their weight change it, and a near copy is not the image itself."""
    embed = load_embedding("effnet-lite0", 5.0)
    training = torch.randint(256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = training[:2].clone()
    images[1, :, :2] = 0
    perceptual = load_embedding("effnet-lite0")
    own, others = ([perceptual(to_float(image[None])) for image in each] for each in (images, training))
    expected = torch.tensor([[squared_distance(a, b).item() for b in others] for a in own])
    nearest = to_nearest(embed, images, training, CPU)
    torch.testing.assert_close(nearest, torch.stack([expected[0, 1:].min(), expected[1, 1]]), rtol=1e-4, atol=1e-5)
