"""LPIPS backtracking: gradient descent to the latent with the sample nearest to a given image.

A generator that has learned more than its training images also reaches images that it never saw
(Aghabozorgi et al. 2023, section 5; Liu et al. 2020).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metrics.images import digest
from metrics.interface import SEED, Context, Decoder, Value, mean, share, spread
from models.perceptual import Embedding, squared_distance
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


class Backtracked(NamedTuple):
    """The result of the search for n images."""

    reconstructions: Tensor  # uint8 (n, 3, H, W)
    distances: Tensor  # (n,), perceptual distance only, of the uint8 reconstruction
    latents: Tensor  # (n, latent_dim)


class Backtrack(NamedTuple):
    """The search for the latents of some real images, and its result."""

    name: str  # heldout or train
    index: list[int]  # numbers of the images within their set
    found: Backtracked
    to_nearest: Tensor  # perceptual distance to the nearest (other) training image (k,): the best that a copier reaches


def work(context: Context) -> int:
    """Return the work in passes of one image through one network."""
    return sum(passes(len(index)) for _, index, _ in _searched(context))


def measure(context: Context) -> list[Value | None]:
    """Return how closely samples reach held-out and training images; leave a `Backtrack` of each kind in the material.

    The values: mean distance of held-out images; share of them nearer to a sample than to any training image; mean distance
    of training images; difference of both distances.
    """
    embed = context.embedding(PIXEL_WEIGHT)
    found = {name: _backtrack(context, embed, name, index, images) for name, index, images in _searched(context)}
    context.material += found.values()
    heldout, train = found.get("heldout"), found["train"]
    if heldout is None:
        return [None, None, _distance(train), None]
    return [_distance(heldout), _beyond_copying(heldout), _distance(train), _gap(heldout.found.distances, train.found.distances)]


def passes(num_images: int) -> int:
    """Return the work for `num_images`, in passes of one image through one network; a descent step has three."""
    descent = num_images * (STARTS * SCREENING + STEPS - SCREENING)
    return -(-num_images // BATCH) * NUM_LATENTS + 3 * descent


def backtrack(decoder: Decoder, embed: Embedding, images: Tensor, seed: int, advance: Callable[[int], None]) -> Backtracked:
    """Search for the latents of images uint8 (n, 3, H, W). `embed` must have the pixel weight PIXEL_WEIGHT."""
    random = torch.randn(NUM_LATENTS, decoder.latent_dim, generator=torch.Generator().manual_seed(seed))
    found = [_search(decoder, embed, batch.to(decoder.device), random.to(decoder.device), advance) for batch in images.split(BATCH)]
    return Backtracked(*(torch.cat(parts).cpu() for parts in zip(*found)))


@torch.no_grad()
def to_nearest(embed: Embedding, images: Tensor, training: Tensor, device: torch.device) -> Tensor:
    """Return the perceptual distance (k,) of images uint8 (k, 3, H, W) to their nearest other training image.

    A generator that only repeats its training images reaches this distance.
    """
    nearest = torch.full((len(images),), torch.inf)
    with true_fp32(device):
        ours = embed(to_float(images.to(device)))[:-1]
        for batch in training.split(LOOK_BATCH):
            distances = _distances(ours, embed(to_float(batch.to(device)))[:-1]).cpu()  # (k, B)
            itself = (images[:, None] == batch).flatten(2).all(dim=2)
            nearest = torch.minimum(nearest, distances.masked_fill(itself, torch.inf).amin(dim=1))
    return nearest


def _search(
    decoder: Decoder, embed: Embedding, images: Tensor, random: Tensor, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor, Tensor]:
    """Search for a batch of images: pick the nearest random latents, then descend from them."""
    with torch.no_grad(), true_fp32(decoder.device):
        targets = [maps.detach() for maps in embed(to_float(images))]
        looks = torch.cat([_distances(embed(decoder.generator(latents)), targets) for latents in random.split(LOOK_BATCH)])
    advance(len(random))
    starts = looks.topk(STARTS, dim=0, largest=False).indices.T  # (n, STARTS)
    owners = torch.arange(len(images), device=images.device)  # (n,)
    latents, losses = _descend(
        decoder, embed, [maps.repeat_interleave(STARTS, dim=0) for maps in targets], random[starts.flatten()], range(SCREENING), advance
    )
    best = owners * STARTS + losses.view(-1, STARTS).argmin(dim=1)
    latents, _ = _descend(decoder, embed, targets, latents[best], range(SCREENING, STEPS), advance)
    with torch.no_grad(), true_fp32(decoder.device):
        reconstructions = to_uint8(decoder.generator(latents))
        maps = embed(to_float(reconstructions))
    return reconstructions, squared_distance(maps[:-1], targets[:-1]), latents  # the last map is the pixels


def _descend(
    decoder: Decoder, embed: Embedding, targets: list[Tensor], latents: Tensor, steps: range, advance: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    """Move each latent (B, latent_dim) towards its target with Adam; return the best latent found and its loss (B,)."""
    latents = latents.clone().requires_grad_()
    optimizer = torch.optim.Adam([latents])
    best, best_loss = latents.detach().clone(), torch.full((len(latents),), torch.inf, device=latents.device)
    for step in steps:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        with true_fp32(decoder.device):
            loss = squared_distance(embed(decoder.generator(latents)), targets)
            optimizer.zero_grad()
            loss.sum().backward()
        better = loss.detach() < best_loss
        best = torch.where(better[:, None], latents.detach(), best)
        best_loss = torch.where(better, loss.detach(), best_loss)
        optimizer.step()
        advance(3 * len(latents))
    return best, best_loss


def _distances(maps: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Return all squared distances (B, n) between two lists of maps."""
    return sum(torch.cdist(a.flatten(1), b.flatten(1)).square() for a, b in zip(maps, targets))


def _searched(context: Context) -> list[tuple[str, list[int], Tensor]]:
    """Return (name, numbers, images) of the held-out and the training images to search for, evenly spread."""
    both = [("heldout", context.reals.heldout), ("train", context.reals.images)]
    return [(name, index, images[index]) for name, images in both if (index := spread(len(images), context.num_backtracked))]


def _backtrack(context: Context, embed: Embedding, name: str, index: list[int], images: Tensor) -> Backtrack:
    kept = context.decode(
        f"backtracking, {name}",
        passes(len(index)),
        lambda: backtrack(context.decoder, embed, images, SEED, context.progress.advance)._asdict(),
        images=digest(images),
        steps=STEPS,
        starts=STARTS,
    )
    return Backtrack(name, index, Backtracked(**kept), to_nearest(embed, images, context.reals.images, context.decoder.device))


def _distance(each: Backtrack) -> Value:
    copier = each.to_nearest[each.to_nearest.isfinite()]
    note = (
        f"median {float(each.found.distances.median()):.3f}; |z|^2/d {float(each.found.latents.square().mean()):.2f}, "
        "(1 for a random latent)" + (f"; nearest other training image {float(copier.mean()):.3f}" if len(copier) else "")
    )
    return mean(each.found.distances)._replace(note=note, num_fake=len(each.index))


def _beyond_copying(each: Backtrack) -> Value:
    reached = float((each.found.distances < each.to_nearest).double().mean())
    return share(reached, len(each.index))._replace(
        num_fake=len(each.index), note="share of held-out images nearer to a sample than to any training image; a copier has 0"
    )


def _gap(heldout: Tensor, train: Tensor) -> Value:
    """Return the mean distance of held-out images (h,) less that of training images (k,)."""
    several = min(len(heldout), len(train)) > 1
    error = float((heldout.var() / len(heldout) + train.var() / len(train)).sqrt()) if several else None
    return Value(
        float(heldout.mean() - train.mean()),
        error=error,
        num_fake=len(heldout),
        note="distance of held-out less training images: 0 for a generator that reproduces both equally well",
    )
