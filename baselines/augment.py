"""DiffAugment: random changes of images that gradients pass through (Zhao et al., NeurIPS 2020, arXiv 2006.10738, section 4).

A discriminator that only ever sees changed images, real and generated, cannot memorise a few real ones. Every image is changed
independently of the others. Randomness comes from torch's global generator.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SHIFT = 1 / 8  # largest translation, as a share of the side
HOLE = 1 / 2  # side of the square that cutout erases, as a share of the image's side


def augment(images: Tensor, changes: Sequence[str]) -> Tensor:
    """Return float images (B, 3, H, W) in [-1, 1] after the named CHANGES, in their order; values may leave the range."""
    for name in changes:
        images = CHANGES[name](images)
    return images


def colour(images: Tensor) -> Tensor:
    """Change the brightness by up to 0.5, the saturation by a factor of 0 to 2 and the contrast by one of 0.5 to 1.5."""
    images = images + _uniform(images, -0.5, 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * _uniform(images, 0, 2)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    return level + (images - level) * _uniform(images, 0.5, 1.5)


def translation(images: Tensor) -> Tensor:
    """Shift by up to an eighth of each side, in whole pixels; what comes in is 0."""
    index, inside = [], []
    for side in images.shape[2:]:
        most = round(side * SHIFT)
        shift = torch.randint(-most, most + 1, (len(images), 1), device=images.device)
        source = torch.arange(side, device=images.device) + shift  # (B, side)
        index.append(source.clamp(0, side - 1))
        inside.append((source >= 0) & (source < side))
    (rows, columns), (high, wide) = index, inside
    batch, channels = (torch.arange(count, device=images.device) for count in images.shape[:2])
    moved = images[batch[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]
    return moved * (high[:, None, :, None] & wide[:, None, None, :])


def cutout(images: Tensor) -> Tensor:
    """Erase a square of half the side: its centre is anywhere in the image, so part of it may lie outside."""
    spans = []
    for side in images.shape[2:]:
        hole = round(side * HOLE)
        first = torch.randint(0, side + 1 - hole % 2, (len(images), 1), device=images.device) - hole // 2
        place = torch.arange(side, device=images.device)
        spans.append((place >= first) & (place < first + hole))  # (B, side)
    high, wide = spans
    return images * ~(high[:, None, :, None] & wide[:, None, None, :])


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    """Draw a number in [low, high) for each image, (B, 1, 1, 1)."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)


CHANGES = {"colour": colour, "translation": translation, "cutout": cutout}
