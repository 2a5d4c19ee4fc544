"""LPIPS backtracking: how closely samples reach a given image, by gradient descent to the nearest one.

A generator that has learned more than its training images also reaches images that it never saw
(Aghabozorgi et al. 2023, section 5; Liu et al. 2020).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from metrics.images import digest
from metrics.interface import SEED, Context, Value, mean, share, spread
from models import inversion
from models.inversion import LOOK_BATCH, PIXEL_WEIGHT, Inverted, invert, passes
from models.perceptual import Embedding, pairwise_distances
from models.pixels import to_float
from models.precision import true_fp32


class Backtrack(NamedTuple):
    """The search for the latents of some real images, and its result."""

    name: str  # heldout or train
    index: list[int]  # numbers of the images within their set
    found: Inverted
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


@torch.no_grad()
def to_nearest(embed: Embedding, images: Tensor, training: Tensor, device: torch.device) -> Tensor:
    """Return the perceptual distance (k,) of images uint8 (k, 3, H, W) to their nearest other training image.

    A generator that only repeats its training images reaches this distance.
    """
    nearest = torch.full((len(images),), torch.inf)
    with true_fp32(device):
        ours = embed(to_float(images.to(device)))[:-1]
        for batch in training.split(LOOK_BATCH):
            distances = pairwise_distances(ours, embed(to_float(batch.to(device)))[:-1]).cpu()  # (k, B)
            itself = (images[:, None] == batch).flatten(2).all(dim=2)
            nearest = torch.minimum(nearest, distances.masked_fill(itself, torch.inf).amin(dim=1))
    return nearest


def _searched(context: Context) -> list[tuple[str, list[int], Tensor]]:
    """Return (name, numbers, images) of the held-out and the training images to search for, evenly spread."""
    both = [("heldout", context.reals.heldout), ("train", context.reals.images)]
    return [(name, index, images[index]) for name, images in both if (index := spread(len(images), context.num_backtracked))]


def _backtrack(context: Context, embed: Embedding, name: str, index: list[int], images: Tensor) -> Backtrack:
    decoder = context.decoder

    def search() -> Inverted:
        ours, advance = images.to(decoder.device), context.progress.advance
        return invert(decoder.generator, embed, images=ours, latent_dim=decoder.latent_dim, seed=SEED, advance=advance)

    kept = context.decode(
        f"backtracking, {name}",
        passes(len(index)),
        lambda: search()._asdict(),
        images=digest(images),
        steps=inversion.STEPS,
        starts=inversion.STARTS,
    )
    return Backtrack(name, index, Inverted(**kept), to_nearest(embed, images, context.reals.images, decoder.device))


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
