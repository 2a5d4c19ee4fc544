"""Cheap scores of the running average in a method's features, to watch a run and to choose its best checkpoint."""

import torch
from torch import Tensor


def distances(features: Tensor, others: Tensor) -> Tensor:
    """Return all Euclidean distances (N, M), float64, between features (N, D) and (M, D)."""
    return torch.cdist(features.double(), others.double())


def energy_distance(samples: Tensor, images: Tensor) -> float:
    """Return 2 E|s - x| - E|s - s'| - E|x - x'| between features (k, D) and (n, D): 0 for equal distributions.

    Unbiased: no vector is compared with itself (Szekely & Rizzo 2013). Needs two of each.
    """
    across = distances(samples, images).mean()
    return (2 * across - _mean_within(samples) - _mean_within(images)).item()


def nearest_other(features: Tensor) -> Tensor:
    """Return each vector's distance (n,) to its nearest other one."""
    return distances(features, features).fill_diagonal_(float("inf")).amin(dim=1)


def _mean_within(features: Tensor) -> Tensor:
    n = len(features)
    return distances(features, features).fill_diagonal_(0).sum() / (n * (n - 1))
