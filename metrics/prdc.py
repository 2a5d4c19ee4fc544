"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), k = 3 neighbours."""

import math

import torch
from torch import Tensor

from metrics.interface import Comparison, Value, share, too_few

NEIGHBOURS = 3
MINIMUM = NEIGHBOURS + 1  # images that a side needs for its radii
CHUNK = 1024
# Squared distances below ROUNDING times the squared lengths become zero, so an image has distance 0 to its own copy.
# TIE widens a radius, so a neighbour exactly on it counts as inside in spite of rounding.
ROUNDING = 1e-12
TIE = 1e-9


def measure(seen: Comparison) -> list[Value]:
    """Return precision, recall, density, coverage and reached, for as many fakes as the protocol uses."""
    real, fake = seen.real, seen.fake[: seen.protocol.manifold_samples]
    precision, recall, density, coverage = prdc(real, fake, strict=seen.protocol.strict).values()
    few = too_few(MINIMUM, "the side of the reals")
    values = [
        share(precision, len(fake), few),
        share(recall, len(real), too_few(MINIMUM, "the side of the fakes")),
        Value(density, few if density is None else None),
        share(coverage, len(real), few),
        share(reached(real, fake), len(real), few),
    ]
    return [value._replace(num_fake=len(fake)) for value in values]


def prdc(real: Tensor, fake: Tensor, *, strict: bool = False) -> dict[str, float | None]:
    """Return precision, recall, density and coverage of features (N, D), (M, D); None below 4 images.

    The radius of a ball is the distance to the third neighbour. A point is inside a ball if its distance is <= the radius, or
    < with `strict`. Precision: share of fakes inside a real image's ball. Density: mean number of real balls around a fake, over k.
    Coverage: share of real images with a fake in their ball. Recall: share of real images inside a fake's ball. Computed in
    float64, because float32 loses small distances.
    """
    answer = dict.fromkeys(("precision", "recall", "density", "coverage"))
    if len(real) >= MINIMUM:
        balls, covered = _inside(fake, real, strict)  # (M,), (N,)
        answer["precision"] = float((balls > 0).double().mean())
        answer["density"] = float(balls.double().mean()) / NEIGHBOURS
        answer["coverage"] = float(covered.double().mean())
    if len(fake) >= MINIMUM:
        balls, _ = _inside(real, fake, strict)
        answer["recall"] = float((balls > 0).double().mean())
    return answer


def reached(real: Tensor, fake: Tensor) -> float | None:
    """Return the share of real images (N, D) that are the nearest one to some fake (M, D).

    This number measures only variety: samples that lie off the real images in all directions reach as many as real images
    would, while coverage and recall fall. It grows with M, so compare equal counts. None below 4 real images.
    """
    if len(real) < MINIMUM:
        return None
    return len(nearest_distances(fake, real)[1].unique()) / len(real)


def nearest_distances(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return each point's distance (M,) to its nearest of the others, in float64, and the index of that one (M,)."""
    nearest = [_squared_distances(chunk, others).min(dim=1) for chunk in points.split(CHUNK)]
    return torch.cat([each.values for each in nearest]).sqrt(), torch.cat([each.indices for each in nearest])


def nearest_other_distances(features: Tensor, neighbours: int = 1) -> Tensor:
    """Return each image's distance to its k-th nearest other image (N,), in float64."""
    return _squared_radii(features, neighbours).sqrt()


def _inside(points: Tensor, centres: Tensor, strict: bool) -> tuple[Tensor, Tensor]:
    """Return the number of balls around each point (M,), and whether each centre has a point in its ball (N,)."""
    radii = _squared_radii(centres, NEIGHBOURS) * (1 - TIE if strict else 1 + TIE)  # (N,)
    counts, hit = [], torch.zeros(len(centres), dtype=torch.bool)
    for chunk in points.split(CHUNK):
        distances = _squared_distances(chunk, centres)
        inside = distances < radii if strict else distances <= radii  # (chunk, N)
        counts.append(inside.sum(dim=1))
        hit |= inside.any(dim=0)
    return torch.cat(counts), hit


def _squared_radii(features: Tensor, neighbours: int) -> Tensor:
    """Return each image's squared distance to its k-th nearest other image, (N,)."""
    radii = []
    for start in range(0, len(features), CHUNK):
        distances = _squared_distances(features[start : start + CHUNK], features)  # (chunk, N)
        distances.diagonal(offset=start).fill_(math.inf)
        radii.append(distances.kthvalue(neighbours, dim=1).values)
    return torch.cat(radii)


def _squared_distances(points: Tensor, others: Tensor) -> Tensor:
    """Return squared distances (M, N) in float64, converting one chunk of the others at a time.

    Points are taken relative to the mean of the others, so that a common offset costs no digits.
    """
    centre = others.mean(dim=0, dtype=torch.float64)
    points = points.double() - centre
    lengths = points.square().sum(dim=1, keepdim=True)
    distances = torch.empty(len(points), len(others), dtype=torch.float64)
    for start in range(0, len(others), CHUNK):
        chunk = others[start : start + CHUNK].double() - centre
        sums = lengths + chunk.square().sum(dim=1)
        part = torch.addmm(sums, points, chunk.T, alpha=-2)
        distances[:, start : start + CHUNK] = torch.where(part <= ROUNDING * sums, 0.0, part)
    return distances
