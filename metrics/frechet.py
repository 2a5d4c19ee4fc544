"""Frechet distance of two sets of features, without a matrix root (Heusel et al. 2017, eq. 6)."""

import math

import torch
from torch import Tensor

from metrics.interface import Comparison, Value, too_few
from metrics.pytorch_fid_bridge import LibraryFailed, library_distance

MINIMUM = 2  # images a side: one image has no covariance
BLOCKS = 10
ERROR_LIMIT = 1000  # real images; with more, ten exact distances take minutes and the error is small
JACKKNIFE_SEED = 0


def measure(seen: Comparison) -> list[Value | None]:
    """Return FID by pytorch-fid's matrix root, and the exact distance; without published numbers only the exact distance."""
    (exact,) = measure_exact(seen)
    if not seen.protocol.published:
        return [exact, None]
    if not seen.errors or exact.value is None:
        return [exact, exact]
    try:
        return [exact._replace(value=library_distance(seen.real, seen.fake)), exact]
    except LibraryFailed as failure:
        return [Value(None, str(failure)), exact]


def measure_exact(seen: Comparison) -> list[Value]:
    """Return the exact distance."""
    real, fake = seen.real, seen.fake
    if min(len(real), len(fake)) < MINIMUM:
        return [Value(None, too_few(MINIMUM, "either side"))]
    values = jackknife(real, fake, JACKKNIFE_SEED) if seen.errors and len(real) <= ERROR_LIMIT else None
    return [Value(frechet_distance(real, fake), error=jackknife_error(values) if values else None, jackknife=values)]


def measure_heldout(seen: Comparison) -> list[Value | None]:
    """Return the exact distance to the held-out images: unlike that to the training images, copying does not lower it to 0."""
    if seen.heldout is None:
        return [None]
    (value,) = measure_exact(seen._replace(real=seen.heldout))
    return [value._replace(num_real=len(seen.heldout))]


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Return |m1 - m2|^2 + Tr(S1) + Tr(S2) - 2 Tr (S1 S2)^(1/2) of features (N, D) and (M, D), in float64.

    With centred features X scaled by 1/sqrt(n-1), S = X^T X, and the last trace is the nuclear norm of X1 X2^T,
    the sum of the singular values of an N x M matrix. This needs neither a D x D root nor a regulariser.
    """
    means = [features.double().mean(dim=0) for features in (real, fake)]
    centred = [(features.double() - mean) / math.sqrt(len(features) - 1) for features, mean in zip((real, fake), means)]
    traces = sum(float(features.square().sum()) for features in centred)
    gap = float((means[0] - means[1]).square().sum())
    if min(len(real), len(fake)) > real.shape[1]:  # X = Q R: R (D, D) has the same products and is smaller
        centred = [torch.linalg.qr(features, mode="r").R for features in centred]
    root = float(torch.linalg.svdvals(centred[0] @ centred[1].T).sum())
    distance = gap + traces - 2 * root
    assert distance > -1e-9 * (gap + traces), f"the distance is {distance}, which is more than rounding below zero"
    return max(distance, 0.0)


def jackknife(real: Tensor, fake: Tensor, seed: int) -> tuple[float, ...] | None:
    """Return the distance without each random tenth of the real images; None below 20 real images."""
    if len(real) < 2 * BLOCKS:
        return None
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
    kept = [torch.cat([*blocks[:i], *blocks[i + 1 :]]) for blocks in [order.tensor_split(BLOCKS)] for i in range(BLOCKS)]
    return tuple(frechet_distance(real[index], fake) for index in kept)


def jackknife_error(values: tuple[float, ...]) -> float:
    """Return the standard error of a number from its values without each block (delete-d jackknife)."""
    spread = torch.tensor(values, dtype=torch.float64)
    return float(((len(values) - 1) / len(values) * (spread - spread.mean()).square().sum()).sqrt())
