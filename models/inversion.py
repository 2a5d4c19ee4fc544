"""Inversion: gradient descent to the latent with the sample nearest to a given image, under a perceptual distance."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.perceptual import Embedding, pairwise_distances, squared_distance
from models.pixels import to_float, to_uint8
from models.precision import true_fp32

NUM_LATENTS = 256  # random latents to start from
STARTS = 4  # nearest random latents, which all descend at first
SCREENING = 50  # steps, after which only the best start continues
STEPS = 500
LEARNING_RATE = 0.1  # of Adam, falling to 0 along a cosine
PIXEL_WEIGHT = 0.1  # of the mean squared error that the search adds to the perceptual distance
BATCH = 8  # images in one search
LOOK_BATCH = 16

Advance = Callable[[int], None]  # called with the number of passes that were done since the last call


class Inverted(NamedTuple):
    """The result of the search for n images, on the CPU."""

    reconstructions: Tensor  # uint8 (n, C, H, W)
    distances: Tensor  # (n,), perceptual distance only, of the uint8 reconstruction
    latents: Tensor  # (n, latent_dim)


def passes(num_images: int) -> int:
    """Return the work for `num_images`, in passes of one image through one network; a descent step has three."""
    descent = num_images * (STARTS * SCREENING + STEPS - SCREENING)
    return -(-num_images // BATCH) * NUM_LATENTS + 3 * descent


def invert(generator: nn.Module, embed: Embedding, *, images: Tensor, latent_dim: int, seed: int, advance: Advance) -> Inverted:
    """Search for the latents of images uint8 (n, C, H, W), which are on the device of both networks.

    `generator` maps latents (B, latent_dim) to images, with gradients. `embed` must have the pixel weight PIXEL_WEIGHT. The random
    latents depend on `seed` alone.
    """
    random = torch.randn(NUM_LATENTS, latent_dim, generator=torch.Generator().manual_seed(seed)).to(images.device)
    found = [_search(generator, embed, batch, random, advance) for batch in images.split(BATCH)]
    return Inverted(*(torch.cat(parts).cpu() for parts in zip(*found)))


def _search(generator: nn.Module, embed: Embedding, images: Tensor, random: Tensor, advance: Advance) -> tuple[Tensor, Tensor, Tensor]:
    """Search for a batch of images: pick the nearest random latents, then descend from them."""
    with torch.no_grad(), true_fp32(images.device):
        targets = [maps.detach() for maps in embed(to_float(images))]
        looks = torch.cat([pairwise_distances(embed(generator(latents)), targets) for latents in random.split(LOOK_BATCH)])
    advance(len(random))
    starts = looks.topk(STARTS, dim=0, largest=False).indices.T  # (n, STARTS)
    owners = torch.arange(len(images), device=images.device)  # (n,)
    latents, losses = _descend(
        generator, embed, [maps.repeat_interleave(STARTS, dim=0) for maps in targets], random[starts.flatten()], range(SCREENING), advance
    )
    best = owners * STARTS + losses.view(-1, STARTS).argmin(dim=1)
    latents, _ = _descend(generator, embed, targets, latents[best], range(SCREENING, STEPS), advance)
    with torch.no_grad(), true_fp32(images.device):
        reconstructions = to_uint8(generator(latents))
        maps = embed(to_float(reconstructions))
    return reconstructions, squared_distance(maps[:-1], targets[:-1]), latents  # the last map is the pixels


def _descend(
    generator: nn.Module, embed: Embedding, targets: list[Tensor], latents: Tensor, steps: range, advance: Advance
) -> tuple[Tensor, Tensor]:
    """Move each latent (B, latent_dim) towards its target with Adam; return the best latent found and its loss (B,)."""
    latents = latents.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents])
    best, best_loss = latents.detach().clone(), torch.full((len(latents),), torch.inf, device=latents.device)
    for step in steps:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        with true_fp32(latents.device):
            loss = squared_distance(embed(generator(latents)), targets)
            optimizer.zero_grad()
            loss.sum().backward()
        better = loss.detach() < best_loss
        best = torch.where(better[:, None], latents.detach(), best)
        best_loss = torch.where(better, loss.detach(), best_loss)
        optimizer.step()
        advance(3 * len(latents))
    return best, best_loss
