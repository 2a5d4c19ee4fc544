"""Cheap scores of the EMA in a method's features, to watch a run and to choose its best checkpoint."""

import torch
import torch.nn.functional as F
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


def variety(features: Tensor) -> float:
    """Return how far a vector of `features` (n, D), n >= 2, is from its nearest other one, over its distance to any other, on average.

    Near 0: most images have a twin. 1: all are equally far from each other.
    """
    n = len(features)
    return (nearest_other(features).mean() / (distances(features, features).fill_diagonal_(0).sum() / (n * (n - 1)))).item()


def detail_correlation(a: Tensor, b: Tensor) -> float:
    """Return the correlation of the finest detail of uint8 images `a` and `b` (N, C, H, W), in [-1, 1].

    The finest detail is what is lost if every 2 x 2 pixels are averaged. 1: the same detail in the same places; 0: unrelated detail,
    or none.
    """
    return F.cosine_similarity(_finest(a), _finest(b), dim=0).item()


def _finest(images: Tensor) -> Tensor:
    images, (height, width) = images.double(), images.shape[2:]
    coarse = F.interpolate(F.avg_pool2d(images, 2, ceil_mode=True), scale_factor=2, mode="nearest")
    return (images - coarse[:, :, :height, :width]).flatten()


def _mean_within(features: Tensor) -> Tensor:
    n = len(features)
    return distances(features, features).fill_diagonal_(0).sum() / (n * (n - 1))
