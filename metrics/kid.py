"""Kernel distance: the unbiased squared MMD with the cubic polynomial kernel (Binkowski et al. 2018, section 4)."""

import math

import torch
from torch import Tensor

from metrics.interface import Comparison, Value, too_few

MINIMUM = 2  # images a side: the U-statistic needs a pair
CHUNK = 1024


def measure(seen: Comparison) -> list[Value]:
    """Return KID with its jackknife error."""
    if min(len(seen.real), len(seen.fake)) < MINIMUM:
        return [Value(None, too_few(MINIMUM, "either side"))]
    value, error = kernel_distance(seen.real, seen.fake)
    return [Value(value, error=error)]


def kernel_distance(real: Tensor, fake: Tensor) -> tuple[float, float | None]:
    """Return the full-sample U-statistic of features (N, D), (M, D), and its jackknife error (None below 3 a side).

    The expectation is zero for two samples of one distribution, so values below zero occur. A value clearly below zero
    against the training set means copying. The error is a jackknife that deletes each image of each side once; random
    subsets would only add noise at 100 images. Near zero the error is too large, by about sqrt(2).
    """
    m, n = len(real), len(fake)
    within_real, within_fake = _pair_sums(real), _pair_sums(fake)  # (m,), (n,)
    across_real, across_fake = _sums(real, fake)  # (m,), (n,)
    real_pairs, fake_pairs, across = (float(sums.sum()) for sums in (within_real, within_fake, across_real))
    value = real_pairs / (m * (m - 1)) + fake_pairs / (n * (n - 1)) - 2 * across / (m * n)
    if min(m, n) < 3:
        return value, None
    without_real = (
        (real_pairs - 2 * within_real) / ((m - 1) * (m - 2)) + fake_pairs / (n * (n - 1)) - 2 * (across - across_real) / ((m - 1) * n)
    )
    without_fake = (
        real_pairs / (m * (m - 1)) + (fake_pairs - 2 * within_fake) / ((n - 1) * (n - 2)) - 2 * (across - across_fake) / (m * (n - 1))
    )
    variance = sum((len(left) - 1) / len(left) * float((left - left.mean()).square().sum()) for left in (without_real, without_fake))
    return value, math.sqrt(variance)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the kernel of (N, D) with (M, D) over each side: (N,) and (M,)."""
    a, b = a.double(), b.double()
    rows, columns = [], torch.zeros(len(b), dtype=torch.float64)
    for chunk in a.split(CHUNK):
        kernel = _kernel(chunk, b)  # (chunk, M)
        rows.append(kernel.sum(dim=1))
        columns += kernel.sum(dim=0)
    return torch.cat(rows), columns


def _pair_sums(features: Tensor) -> Tensor:
    """Sum the kernel of every image with all the others: (N,)."""
    features = features.double()
    with_itself = (features.square().sum(dim=1) / features.shape[1] + 1) ** 3
    return _sums(features, features)[0] - with_itself
