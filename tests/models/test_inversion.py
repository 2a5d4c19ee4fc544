"""Inversion, on a toy generator whose latents are known."""

import math

import pytest
import torch
from torch import nn

from models import inversion
from models.inversion import NUM_LATENTS, PIXEL_WEIGHT, passes
from models.perceptual import load_embedding
from models.pixels import to_float, to_uint8

LATENT_DIM = 4
SIZE = (3, 8, 8)
EMBED = load_embedding("pixels", PIXEL_WEIGHT)


class Smooth(nn.Module):
    """A random network of two layers with images in [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(LATENT_DIM, 32), nn.Tanh(), nn.Linear(32, math.prod(SIZE)), nn.Tanh())
        generator = torch.Generator().manual_seed(0)
        for layer in (self.layers[0], self.layers[2]):
            nn.init.normal_(layer.weight, std=0.5 if layer.in_features == LATENT_DIM else 0.2, generator=generator)
            nn.init.normal_(layer.bias, std=0.2, generator=generator)

    def forward(self, latents):
        return self.layers(latents).view(-1, *SIZE)


@pytest.fixture
def generator():
    return Smooth().requires_grad_(False)


@pytest.fixture
def short(monkeypatch):
    """Search for a few steps only."""
    monkeypatch.setattr(inversion, "STEPS", 12)
    monkeypatch.setattr(inversion, "SCREENING", 5)


def normal(n, seed=0):
    return torch.randn(n, LATENT_DIM, generator=torch.Generator().manual_seed(seed))


def own_images(generator, n, seed=100):
    return to_uint8(generator(normal(n, seed)))


def noise(n, seed=0):
    return torch.randint(256, (n, *SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def search(generator, images, seed=0, advance=lambda passes: None):
    return inversion.invert(generator, EMBED, images=images, latent_dim=LATENT_DIM, seed=seed, advance=advance)


def squared_error(a, b):
    return (to_float(a) - to_float(b)).square().mean(dim=(1, 2, 3))


def search_losses(generator, latents, images):
    """Return what the search makes small (n,): here both maps are the pixels, the second with its weight."""
    return (1 + PIXEL_WEIGHT) * (generator(latents) - to_float(images)).square().mean(dim=(1, 2, 3))


def test_images_of_known_latents_are_found_and_noise_is_not(generator, monkeypatch):
    monkeypatch.setattr(inversion, "STEPS", 200)
    known = search(generator, own_images(generator, 10))
    assert known.distances.max() < 1e-3
    torch.testing.assert_close(known.latents, normal(10, 100), rtol=0, atol=0.1)
    far = search(generator, noise(3))
    assert far.distances.min() > 0.2


@pytest.mark.parametrize("count", [1, 8, 11])
def test_the_distance_is_that_of_the_reconstruction(generator, short, count):
    """It is perceptual alone, of bytes, and the bytes are the latents' own image."""
    images = noise(count)
    found = search(generator, images)
    assert found.reconstructions.dtype == torch.uint8 and found.latents.shape == (count, LATENT_DIM)
    assert (found.reconstructions.int() - to_uint8(generator(found.latents)).int()).abs().max() <= 1
    torch.testing.assert_close(found.distances, squared_error(found.reconstructions, images))


@pytest.mark.parametrize("rate", [0.1, 5.0], ids=["usual", "much too fast"])
def test_the_result_is_never_worse_than_the_best_random_latent(generator, short, rate, monkeypatch):
    monkeypatch.setattr(inversion, "LEARNING_RATE", rate)
    images = torch.cat([noise(5), own_images(generator, 5)])
    found = search(generator, images, seed=7)
    best = torch.stack([search_losses(generator, latent.expand(10, -1), images) for latent in normal(NUM_LATENTS, 7)]).amin(dim=0)
    losses = search_losses(generator, found.latents, images)
    assert (losses <= best + 1e-6).all()
    assert rate > 1 or (losses < best - 1e-3).all()


def test_the_best_of_several_starts_goes_on(generator, monkeypatch):
    monkeypatch.setattr(inversion, "STEPS", 15)
    monkeypatch.setattr(inversion, "SCREENING", 15)
    images, losses = noise(12), {}
    for starts in (1, 4):
        monkeypatch.setattr(inversion, "STARTS", starts)
        losses[starts] = search_losses(generator, search(generator, images).latents, images)
    assert (losses[4] <= losses[1] + 1e-6).all() and (losses[4] < losses[1] - 1e-3).any()


def test_an_image_is_searched_for_by_itself(generator, short):
    images = torch.cat([noise(6), own_images(generator, 5)])
    together = search(generator, images)
    backwards = [part.flip(0) for part in search(generator, images.flip(0))]
    alone = [torch.cat(parts) for parts in zip(*(search(generator, image[None]) for image in images))]
    for reconstructions, distances, latents in (backwards, alone):
        torch.testing.assert_close(latents, together.latents, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(distances, together.distances, rtol=1e-3, atol=1e-4)
        assert (reconstructions.int() - together.reconstructions.int()).abs().max() <= 1


def test_a_search_depends_on_the_seed_alone(generator, short):
    first, again, other = (search(generator, noise(2), seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.latents, other.latents)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 19])
def test_progress_adds_up_to_the_passes_foretold(generator, short, count):
    advanced = []
    search(generator, noise(count), advance=advanced.append)
    assert sum(advanced) == passes(count) and min(advanced) > 0
    assert passes(count) == math.ceil(count / 8) * 256 + 3 * count * (4 * 5 + 7)


def test_the_generator_stays_as_it_is(generator, short):
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    search(generator, noise(2))
    for name, parameter in generator.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None and not parameter.requires_grad
