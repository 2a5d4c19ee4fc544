"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), k = 3 neighbours."""

import math

import torch
from torch import Tensor

NEIGHBOURS = 3
MINIMUM = NEIGHBOURS + 1  # images that a side needs for its radii
CHUNK = 1024
# Squared distances below this part of the squared lengths are rounding: an image against its own copy is at zero,
# and a neighbour that lies exactly on a radius counts as inside however the products were summed.
ROUNDING = 1e-12
TIE = 1e-9


def prdc(real: Tensor, fake: Tensor) -> dict[str, float | None]:
    """Return precision, recall, density and coverage of features (N, D), (M, D); None where there are too few images.

    A point is inside a ball when its distance is <= the radius, which is the distance to the third neighbour.
    Precision: fakes inside a real's ball. Density: balls of reals around a fake, over k. Coverage: reals with a fake
    in their ball. Recall: reals inside a fake's ball. Float64, because float32 loses small distances.
    """
    centre = real.double().mean(dim=0)
    real, fake = real.double() - centre, fake.double() - centre
    answer = dict.fromkeys(("precision", "recall", "density", "coverage"))
    if len(real) >= MINIMUM:
        balls, covered = _inside(fake, real)  # (M,), (N,)
        answer["precision"] = float((balls > 0).double().mean())
        answer["density"] = float(balls.double().mean()) / NEIGHBOURS
        answer["coverage"] = float(covered.double().mean())
    if len(fake) >= MINIMUM:
        balls, _ = _inside(real, fake)
        answer["recall"] = float((balls > 0).double().mean())
    return answer


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a share seen in `count` images (Wilson 1927)."""
    centre = share + z * z / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - width) / scale, 0.0), min((centre + width) / scale, 1.0)


def _inside(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Count the balls around every point (M,), and say which of the centres have a point in their ball (N,)."""
    radii = _squared_radii(centres) * (1 + TIE)  # (N,)
    counts, hit = [], torch.zeros(len(centres), dtype=torch.bool)
    for chunk in points.split(CHUNK):
        inside = _squared_distances(chunk, centres) <= radii  # (chunk, N)
        counts.append(inside.sum(dim=1))
        hit |= inside.any(dim=0)
    return torch.cat(counts), hit


def _squared_radii(features: Tensor) -> Tensor:
    """Return every image's squared distance to its k-th other image, (N,)."""
    radii = []
    for start in range(0, len(features), CHUNK):
        distances = _squared_distances(features[start:start + CHUNK], features)  # (chunk, N)
        distances.diagonal(offset=start).fill_(math.inf)
        radii.append(distances.kthvalue(NEIGHBOURS, dim=1).values)
    return torch.cat(radii)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    lengths = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)  # (chunk, N)
    distances = lengths - 2 * a @ b.T
    return torch.where(distances <= ROUNDING * lengths, 0.0, distances)
