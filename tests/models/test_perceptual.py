"""The perceptual embeddings against the packages that define them."""

import contextlib
import copy
import io

import pytest
import torch

from models import efficientnet_lite, weights
from models.perceptual import LpipsVgg, load_embedding, lpips_channel_weights, squared_distance, vgg16_trunk


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (37, 51)])
def test_lpips_equals_the_package(lpips_and_ours, size):
    """In float64, within the 1e-8 by which the two differ in where they add an epsilon."""
    package, ours = (copy.deepcopy(network).double() for network in lpips_and_ours)
    a, b = (torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1 for _ in range(2))
    with torch.no_grad():
        expected = package(a, b).flatten()
        torch.testing.assert_close(squared_distance(ours(a), ours(b)), expected, rtol=1e-7, atol=0)


def test_lpips_is_a_squared_euclidean_distance(lpips_and_ours):
    _, ours = lpips_and_ours
    a, b = torch.rand(1, 3, 32, 32) * 2 - 1, torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        flat_a, flat_b = (torch.cat([m.flatten() for m in ours(x)]) for x in (a, b))
        torch.testing.assert_close((flat_a - flat_b).square().sum(), squared_distance(ours(a), ours(b))[0])


def test_gradient_is_finite_where_features_vanish():
    trunk = vgg16_trunk()
    for layer in trunk:
        if isinstance(layer, torch.nn.Conv2d):  # every feature of a black image is then exactly zero
            torch.nn.init.zeros_(layer.bias)
    network = LpipsVgg(trunk, lpips_channel_weights())
    network.shift.zero_()
    black, grey = torch.zeros(1, 3, 32, 32, requires_grad=True), torch.rand(1, 3, 32, 32)
    squared_distance(network(black), network(grey)).sum().backward()
    assert torch.isfinite(black.grad).all()


@pytest.mark.parametrize("name", ["effnet-lite0", "pixels"])
def test_gradient_is_finite_on_black_and_white_images(name):
    embedding = load_embedding(name, 0.1)
    for value in (-1.0, 0.0, 1.0):
        image = torch.full((1, 3, 32, 32), value, requires_grad=True)
        squared_distance(embedding(image), embedding(torch.rand(1, 3, 32, 32))).sum().backward()
        assert torch.isfinite(image.grad).all()


def test_efficientnet_equals_the_package_that_trained_it():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = weights.require("effnet-lite0")["effnet-lite0"]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = efficientnet_lite.load()
    pixels = torch.randint(256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels / 127.5 - 1), theirs((pixels - 127) / 128), rtol=1e-4, atol=1e-4)
        tapped = ours.stages(pixels / 127.5 - 1, (0, 2, 4, 10))
    assert [tuple(m.shape[1:]) for m in tapped] == [(16, 112, 112), (24, 56, 56), (40, 28, 28), (112, 14, 14)]


def test_pixels_are_mean_squared_error_and_weigh_in():
    a, b = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    expected = (a - b).square().mean(dim=(1, 2, 3))
    pixels = load_embedding("pixels")
    torch.testing.assert_close(squared_distance(pixels(a), pixels(b)), expected)
    plain, weighted = load_embedding("effnet-lite0"), load_embedding("effnet-lite0", 0.1)
    difference = squared_distance(weighted(a), weighted(b)) - squared_distance(plain(a), plain(b))
    torch.testing.assert_close(difference, 0.1 * expected, rtol=1e-3, atol=1e-6)


def test_a_blur_is_worse_than_a_shift_to_the_perceptual_distance():
    from data import load_images

    images = load_images("data/fluent_faces", resolution=(64, 64)).images[:20].float() / 127.5 - 1
    shifted = images.roll(1, dims=3)
    blurred = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(images, (2, 2, 2, 2), mode="replicate"), 5, 1)
    distances = {}
    for name in ("effnet-lite0", "pixels"):
        embedding = load_embedding(name)
        with torch.no_grad():
            own = embedding(images)
            distances[name] = [squared_distance(own, embedding(x)).mean().item() for x in (shifted, blurred)]
    assert distances["effnet-lite0"][0] < distances["effnet-lite0"][1]
