"""Cheap scores of the running average in search features, to watch a run and to choose its best checkpoint."""

import torch
from torch import Tensor

from imle.search import distances


def energy_distance(samples: Tensor, images: Tensor) -> float:
    """Return 2 E|s - x| - E|s - s'| - E|x - x'| between features (k, D) and (n, D): 0 for equal distributions.

    Unbiased: no vector is compared with itself (Szekely & Rizzo 2013). Needs two of each.
    """
    across = distances(samples, images).mean()
    return (2 * across - torch.pdist(samples).mean() - torch.pdist(images).mean()).item()


def nearest_other(features: Tensor) -> Tensor:
    """Return each vector's distance (n,) to its nearest other one."""
    return distances(features, features).fill_diagonal_(float("inf")).amin(dim=1)
