"""Backtracking: on a toy decoder whose latents are known, and against brute force."""

import math

import pytest
import torch
from torch import nn

from metrics import backtracking
from metrics.backtracking import NUM_LATENTS, PIXEL_WEIGHT, backtrack, passes, to_nearest
from metrics.interface import Decoder
from models.perceptual import load_embedding, squared_distance
from models.pixels import to_float, to_uint8

CPU = torch.device("cpu")
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
def decoder():
    return Decoder(Smooth().requires_grad_(False), LATENT_DIM, CPU, {})


@pytest.fixture
def short(monkeypatch):
    """Search for a few steps only."""
    monkeypatch.setattr(backtracking, "STEPS", 12)
    monkeypatch.setattr(backtracking, "SCREENING", 5)


def normal(n, seed=0):
    return torch.randn(n, LATENT_DIM, generator=torch.Generator().manual_seed(seed))


def own_images(decoder, n, seed=100):
    return to_uint8(decoder.generator(normal(n, seed)))


def noise(n, seed=0):
    return torch.randint(256, (n, *SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def ignore(count):
    pass


def squared_error(a, b):
    return (to_float(a) - to_float(b)).square().mean(dim=(1, 2, 3))


def search_losses(decoder, latents, images):
    """Return what the search makes small (n,): here both maps are the pixels, the second with its weight."""
    return (1 + PIXEL_WEIGHT) * (decoder.generator(latents) - to_float(images)).square().mean(dim=(1, 2, 3))


def test_images_of_known_latents_are_found_and_noise_is_not(decoder, monkeypatch):
    monkeypatch.setattr(backtracking, "STEPS", 200)
    known = backtrack(decoder, EMBED, own_images(decoder, 10), 0, ignore)
    assert known.distances.max() < 1e-3
    torch.testing.assert_close(known.latents, normal(10, 100), rtol=0, atol=0.1)
    far = backtrack(decoder, EMBED, noise(3), 0, ignore)
    assert far.distances.min() > 0.2


@pytest.mark.parametrize("count", [1, 8, 11])
def test_the_distance_is_that_of_the_reconstruction(decoder, short, count):
    """It is perceptual alone, of bytes, and the bytes are the latents' own image."""
    images = noise(count)
    found = backtrack(decoder, EMBED, images, 0, ignore)
    assert found.reconstructions.dtype == torch.uint8 and found.latents.shape == (count, LATENT_DIM)
    assert (found.reconstructions.int() - to_uint8(decoder.generator(found.latents)).int()).abs().max() <= 1
    torch.testing.assert_close(found.distances, squared_error(found.reconstructions, images))


@pytest.mark.parametrize("rate", [0.1, 5.0], ids=["usual", "much too fast"])
def test_the_result_is_never_worse_than_the_best_random_latent(decoder, short, rate, monkeypatch):
    monkeypatch.setattr(backtracking, "LEARNING_RATE", rate)
    images = torch.cat([noise(5), own_images(decoder, 5)])
    found = backtrack(decoder, EMBED, images, 7, ignore)
    best = torch.stack([search_losses(decoder, latent.expand(10, -1), images) for latent in normal(NUM_LATENTS, 7)]).amin(dim=0)
    losses = search_losses(decoder, found.latents, images)
    assert (losses <= best + 1e-6).all()
    assert rate > 1 or (losses < best - 1e-3).all()


def test_the_best_of_several_starts_goes_on(decoder, monkeypatch):
    monkeypatch.setattr(backtracking, "STEPS", 15)
    monkeypatch.setattr(backtracking, "SCREENING", 15)
    images, losses = noise(12), {}
    for starts in (1, 4):
        monkeypatch.setattr(backtracking, "STARTS", starts)
        losses[starts] = search_losses(decoder, backtrack(decoder, EMBED, images, 0, ignore).latents, images)
    assert (losses[4] <= losses[1] + 1e-6).all() and (losses[4] < losses[1] - 1e-3).any()


def test_an_image_is_searched_for_by_itself(decoder, short):
    images = torch.cat([noise(6), own_images(decoder, 5)])
    together = backtrack(decoder, EMBED, images, 0, ignore)
    backwards = [part.flip(0) for part in backtrack(decoder, EMBED, images.flip(0), 0, ignore)]
    alone = [torch.cat(parts) for parts in zip(*(backtrack(decoder, EMBED, image[None], 0, ignore) for image in images))]
    for reconstructions, distances, latents in (backwards, alone):
        torch.testing.assert_close(latents, together.latents, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(distances, together.distances, rtol=1e-3, atol=1e-4)
        assert (reconstructions.int() - together.reconstructions.int()).abs().max() <= 1


def test_a_search_depends_on_the_seed_alone(decoder, short):
    first, again, other = (backtrack(decoder, EMBED, noise(2), seed, ignore) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.latents, other.latents)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 19])
def test_progress_adds_up_to_the_passes_foretold(decoder, short, count):
    advanced = []
    backtrack(decoder, EMBED, noise(count), 0, advanced.append)
    assert sum(advanced) == passes(count) and min(advanced) > 0
    assert passes(count) == math.ceil(count / 8) * 256 + 3 * count * (4 * 5 + 7)


def test_the_generator_stays_as_it_is(decoder, short):
    before = {name: value.clone() for name, value in decoder.generator.state_dict().items()}
    backtrack(decoder, EMBED, noise(2), 0, ignore)
    for name, parameter in decoder.generator.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.grad is None and not parameter.requires_grad


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
