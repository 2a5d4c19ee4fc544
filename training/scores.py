"""Cheap scores of the EMA in a method's features, to watch a run and to choose its best checkpoint."""

import torch
from torch import Tensor


def distances(features: Tensor, others: Tensor) -> Tensor:
    """Return all Euclidean distances (N, M), float64, between features (N, D) and (M, D)."""
    middle = others.double().mean(dim=0)  # subtracted, because a common offset would cost digits
    return torch.cdist(features.double() - middle, others.double() - middle)


def energy_distance(samples: Tensor, images: Tensor) -> float:
    """Return 2 E|s - x| - E|s - s'| - E|x - x'| for samples' features (k, D) and images' features (n, D), k, n >= 2.

    Its expectation is 0 for equal distributions: it is unbiased, since no vector is compared with itself (Szekely & Rizzo
    2013).
    """
    across = distances(samples, images).mean()
    return (2 * across - _mean_within(samples) - _mean_within(images)).item()


def nearest_other(features: Tensor) -> Tensor:
    """Return the distance (n,) of each vector of `features` (n, D) to its nearest other vector."""
    return distances(features, features).fill_diagonal_(float("inf")).amin(dim=1)


def _mean_within(features: Tensor) -> Tensor:
    n = len(features)
    return distances(features, features).fill_diagonal_(0).sum() / (n * (n - 1))
