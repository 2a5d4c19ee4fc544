"""Copying, measured by distances to the training images, in the features of one network and between thumbnails.

A distance to the nearest training image means nothing by itself, so every number is relative to fresh images. In a network's
features, a texture that all samples share (JPEG, noise) moves copies as far as two images differ, and hides them. Thumbnails
do not show the texture.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metrics.interface import Comparison, Value, share, too_few
from metrics.prdc import nearest_distances, nearest_other_distances

MINIMUM = 20  # training images for a 5th percentile, held-out images for C_T
PERCENTILE = 0.05
MOST_THUMBNAILS = 1000  # training images; with more, comparing thumbnails in 150 positions takes too long
SIDE, COMPARED = 16, 8  # pixels of a thumbnail, and of its reduction for comparison
SHIFTS = (-3 / 64, -1.5 / 64, 0.0, 1.5 / 64, 3 / 64)  # as shares of the image, down and right
ZOOMS = (-0.1, 0.0, 0.1)
EQUAL = 0.1  # levels; a smaller difference is rounding
CHUNK = 256


def measure(seen: Comparison, thumbnails: Comparison) -> list[Value]:
    """Return the copy rate, the copy rate between thumbnails, AuthPct and C_T."""
    real, fake, mirror, m = seen.real, seen.fake, seen.mirror, len(seen.fake)
    heldout = real[:0] if seen.heldout is None else seen.heldout
    test = copying_test(real, fake, heldout, mirror)
    return [
        share(copy_rate(real, fake, mirror), m, f"needs at least {MINIMUM} real images, most of them different in these features"),
        share(
            thumbnail_copy_rate(thumbnails.real, thumbnails.fake),
            m,
            f"needs {MINIMUM} to {MOST_THUMBNAILS} real images, most of them different at this size",
        ),
        share(authentic_share(real, fake), m, too_few(2, "the side of the reals")),
        Value(test, None if test is not None else f"needs at least {MINIMUM} held-out images ({len(heldout)} here)"),
    ]


def copy_rate(real: Tensor, fake: Tensor, mirror: Tensor | None = None) -> float | None:
    """Return the share of fakes (M, D) whose nearest training image (N, D) is closer than a threshold.

    The threshold is the 5th percentile of the training images' distances to their nearest other training image, so fresh
    images give about 0.05. `mirror` are the features of flipped training images, which count too. None below 20 training
    images, and if so many are equal that the threshold is 0.
    """
    if len(real) < MINIMUM:
        return None
    threshold = torch.quantile(nearest_other_distances(real), PERCENTILE)
    return float((_to_nearest(real, fake, mirror) < threshold).double().mean()) if threshold > 0 else None


def authentic_share(real: Tensor, fake: Tensor) -> float | None:
    """Return AuthPct as a share: fakes farther from their nearest training image than that image is from any other.

    Alaa et al. 2022. Fresh images give 0.5 to 0.75, not 1, depending on the dimension. None below two training images.
    """
    if len(real) < 2:
        return None
    distance, nearest = nearest_distances(fake, real)
    return float((distance > nearest_other_distances(real)[nearest]).double().mean())


def copying_test(real: Tensor, fake: Tensor, heldout: Tensor, mirror: Tensor | None = None) -> float | None:
    """Return C_T, in standard deviations: whether fakes lie nearer to the training images than held-out images do.

    C_T is the normal approximation of the Mann-Whitney U of both sets of distances, in a single cell, because 100 images are
    too few for more cells (Meehan et al. 2020, section 4). Below -3: copying. Above 3: fakes lie farther away than real
    images. None below 20 held-out images.
    """
    if len(heldout) < MINIMUM:
        return None
    fakes, fresh = _to_nearest(real, fake, mirror), _to_nearest(real, heldout, mirror)
    m, n = len(fakes), len(fresh)
    ordered = fresh.sort().values
    below = torch.searchsorted(ordered, fakes, side="left").double()
    upto = torch.searchsorted(ordered, fakes, side="right").double()
    wins = float(((below + upto) / 2).sum())  # pairs with the held-out image nearer than the fake; ties count half
    ties = torch.cat([fakes, fresh]).unique(return_counts=True)[1].double()
    variance = m * n / 12 * ((m + n + 1) - float((ties**3 - ties).sum()) / ((m + n) * (m + n - 1)))
    return (wins - m * n / 2) / math.sqrt(variance) if variance > 0 else 0.0


def thumbnail_copy_rate(real: Tensor, fake: Tensor) -> float | None:
    """Return the copy rate of thumbnails (M, 768) against those of training images (N, 768).

    None below 20 or above 1000 training images, and if so many are equal that the threshold is 0.
    """
    if not MINIMUM <= len(real) <= MOST_THUMBNAILS:
        return None
    threshold = torch.quantile(thumbnail_distances(real, real).fill_diagonal_(math.inf).amin(dim=1), PERCENTILE)
    return float((thumbnail_distances(fake, real).amin(dim=1) < threshold).double().mean()) if threshold > 0 else None


def thumbnail_distances(points: Tensor, real: Tensor) -> Tensor:
    """Return the distances (M, N) of thumbnails (M, 768) to real ones (N, 768): root mean square, in levels, at 8 x 8 pixels.

    Each is the minimum over small shifts and zooms of the real thumbnail and of its mirror image.
    """
    points, moved = compared_thumbnails(points), _moved(real)  # (M, 192), (150, N, 192)
    centre = moved.mean(dim=(0, 1))
    points, moved = points - centre, (moved - centre).flatten(0, 1)
    lengths = moved.square().sum(dim=1)
    nearest = torch.empty(len(points), len(real))
    for start in range(0, len(points), CHUNK):
        chunk = points[start : start + CHUNK]
        squares = chunk.square().sum(dim=1, keepdim=True) + lengths - 2 * chunk @ moved.T  # (chunk, 150 N)
        nearest[start : start + CHUNK] = squares.view(len(chunk), -1, len(real)).amin(dim=1)
    nearest = nearest.double() / points.shape[1]
    return torch.where(nearest < EQUAL**2, 0.0, nearest).sqrt()


def _moved(real: Tensor) -> Tensor:
    """Return reduced thumbnails (150, N, 192) of thumbnails (N, 768), in 75 positions and mirrored."""
    images, moved = real.view(-1, 3, SIDE, SIDE), []
    for zoom, down, right in itertools.product(ZOOMS, SHIFTS, SHIFTS):
        place = images.new_tensor([[1 - zoom, 0, 2 * right], [0, 1 - zoom, 2 * down]]).expand(len(images), 2, 3)
        at = F.affine_grid(place, list(images.shape), align_corners=False)
        there = F.grid_sample(images, at, padding_mode="border", align_corners=False)
        moved += [compared_thumbnails(there), compared_thumbnails(there.flip(3))]
    return torch.stack(moved)


def compared_thumbnails(thumbnails: Tensor) -> Tensor:
    """Reduce thumbnails (N, 768) to 8 x 8 pixels for comparison: (N, 192)."""
    return F.avg_pool2d(thumbnails.reshape(-1, 3, SIDE, SIDE), SIDE // COMPARED).flatten(1)


def _to_nearest(real: Tensor, points: Tensor, mirror: Tensor | None) -> Tensor:
    distance, _ = nearest_distances(points, real if mirror is None else torch.cat([real, mirror]))
    return distance
