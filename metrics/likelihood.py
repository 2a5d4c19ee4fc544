"""Bits per dimension: what a byte of an image costs under a model that knows its likelihood, in bits.

8 bits: a model that knows nothing. A model that learned its training images by heart has few for them and many for held-out ones.
"""

import torch
from torch import Tensor

from metrics.images import digest
from metrics.interface import Context, Value, mean, spread

MOST = 16  # images of each kind
BATCH = 8  # images in one call; changes the last digits, because the solver's steps are those of a batch
PASSES = 80  # rough cost of an image, in passes of an image through the network of the features


def work(context: Context) -> int:
    """Return the work in passes of one image through one network, roughly."""
    return PASSES * sum(len(index) for index, _ in _chosen(context)) if context.likelihood else 0


def measure(context: Context) -> list[Value | None]:
    """Return the mean bits per dimension of training and of held-out images; None for a model without likelihoods."""
    return [_mean(context, images[index]) if context.likelihood and index else None for index, images in _chosen(context)]


def _chosen(context: Context) -> list[tuple[list[int], Tensor]]:
    """Return (numbers, images) of the training and the held-out images, evenly spread."""
    return [(spread(len(images), MOST), images) for images in (context.reals.images, context.reals.heldout)]


def _mean(context: Context, images: Tensor) -> Value:
    model = context.likelihood
    assert model

    def bits() -> dict[str, Tensor]:
        found = []
        for batch in images.split(BATCH):
            found.append(model.bits(batch))
            context.progress.advance(PASSES * len(batch))
        return {"bits": torch.cat(found)}

    kept = context.kept("bits per dimension", PASSES * len(images), bits, model=model.identity, images=digest(images))
    return mean(kept["bits"])._replace(num_fake=len(images), note="8 for a model that knows nothing; uniform dequantisation")
