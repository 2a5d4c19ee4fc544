"""Sharpness, measured on pixels without a network: the power of each octave of frequencies, and distances between patches.

Both see what networks hardly look at: whether samples have as much fine detail as the training images, and of the same kind.
"""

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metrics.interface import Comparison, Value, too_few

OCTAVES = ("1/4 to 1/2", "1/8 to 1/4", "1/16 to 1/8")  # cycles a pixel
LUMINANCE = (0.299, 0.587, 0.114)
LEAST_POWER = 1e-6  # squared levels; images with less have no detail at all, because rounding to levels alone gives 0.08
MINIMUM = 2  # images a side
ENOUGH = 8  # images a side: a standard error from fewer says little

LEVELS = 3  # of the Laplacian pyramid, the finest first
SIDE = 7  # pixels of a patch
PATCHES = 16  # of one image, at each level
DIRECTIONS = 256
CHUNK = 32  # directions that are sorted at once
LEAST_DEVIATION = 1e-3  # levels
SEED = 0  # of the places of patches and of the directions


class Spectrum(nn.Module):
    """The power of an image's luminance in each octave, in squared levels, D = 3.

    White noise has its variance in every octave. A frequency belongs to an octave by the larger of its horizontal and its
    vertical part, so the finest octave is what an image of half the side cannot hold. An octave without frequencies has 0.
    """

    dimension = len(OCTAVES)

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        window = _window(height, images.device)[:, None] * _window(width, images.device)
        grey = torch.einsum("bchw,c->bhw", images.double(), window.new_tensor(LUMINANCE))
        grey = grey - (grey * window).sum(dim=(1, 2), keepdim=True) / window.sum()
        power = torch.fft.fft2(grey * window).abs().square() / window.square().sum()
        rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64, device=images.device).abs() for side in (height, width))
        frequency = torch.maximum(rows[:, None], columns)
        octaves = [(frequency > 0.25 / 2**k) & (frequency <= 0.5 / 2**k) for k in range(len(OCTAVES))]
        return torch.stack([power[:, octave].sum(dim=1) / max(int(octave.sum()), 1) for octave in octaves], dim=1)


class Patches(nn.Module):
    """Patches of 7 x 7 pixels from the three finest levels of an image's Laplacian pyramid, in levels, D = 3 * 16 * 147.

    All images of one size have their patches at the same random places. A level smaller than a patch has zeros.
    """

    dimension = LEVELS * PATCHES * 3 * SIDE * SIDE

    def forward(self, images: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(SEED)
        maps, patches = images.float(), []
        for _ in range(LEVELS):
            coarse = F.interpolate(maps, size=[-(-side // 2) for side in maps.shape[2:]], mode="bilinear", antialias=True)
            detail = maps - F.interpolate(coarse, size=maps.shape[2:], mode="bilinear")
            patches += [_cut(detail, torch.rand(2, generator=generator).tolist()) for _ in range(PATCHES)]
            maps = coarse
        return torch.cat(patches, dim=1)


def measure_power(seen: Comparison) -> list[Value]:
    """Return the samples' power over the training images' power in each octave, the finest first."""
    return [power_ratio(real, fake, octave) for real, fake, octave in zip(seen.real.double().T, seen.fake.double().T, OCTAVES)]


def power_ratio(real: Tensor, fake: Tensor, octave: str) -> Value:
    """Return the mean of the fakes' powers (M,) over the mean of the real ones (N,); no error below 8 images a side."""
    if min(len(real), len(fake)) < MINIMUM:
        return Value(None, too_few(MINIMUM, "either side"))
    mean = float(real.mean())
    if mean < LEAST_POWER:
        return Value(None, f"the training images have no detail of {octave} cycles a pixel")
    ratio = float(fake.mean()) / mean
    if min(len(real), len(fake)) < ENOUGH:
        return Value(ratio)
    variance = float(fake.var() / len(fake) + ratio**2 * real.var() / len(real)) / mean**2
    return Value(ratio, error=math.sqrt(variance))


def measure_patches(seen: Comparison) -> list[Value]:
    """Return the sliced Wasserstein distance of the patches: the sum over levels, and that of the finest level.

    Karras et al. 2018, section 5, with one difference: both sets are divided by the deviations of the training images, not
    each by its own, so that samples of too little contrast have a distance.
    """
    if min(len(seen.real), len(seen.fake)) < MINIMUM:
        return [Value(None, too_few(MINIMUM, "either side"))] * 2
    distances = patch_distances(seen.real, seen.fake)
    found = [distance for distance in distances if distance is not None]
    reason = f"the training images have no detail in patches of {SIDE} x {SIDE} pixels, in a colour at least"
    note = "by level, the finest first: " + ", ".join("-" if each is None else f"{each:.3f}" for each in distances)
    return [
        Value(sum(found), note=note) if found else Value(None, reason),
        Value(distances[0], reason if distances[0] is None else None),
    ]


def patch_distances(real: Tensor, fake: Tensor) -> list[float | None]:
    """Return the distance of `Patches` (N, D) and (M, D) of each level, the finest first; None if the real ones have no detail there."""
    return [_level_distance(a, b) for a, b in zip(_by_level(real), _by_level(fake))]


def sliced_distance(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Return the mean Wasserstein distance (the first, W1) of points (N, D) and (M, D) along directions (D, K), in float64."""
    n, m = len(a), len(b)
    a, b, total = a.double(), b.double(), 0.0
    for some in directions.double().T.split(CHUNK):
        values, order = torch.cat([some @ a.T, some @ b.T], dim=1).sort(dim=1)
        lead = torch.where(order < n, m, -n).cumsum(dim=1)[:, :-1]  # n m times the difference of both distribution functions
        total += float((lead.abs() * values.diff(dim=1)).sum())
    return total / (n * m * directions.shape[1])


def equivalent_size(ratio: float, ratios: Mapping[Fraction, float]) -> float:
    """Return the size, as a share of the side, at which the training images would have this ratio of power.

    `ratios` holds their ratio after they were resized to some sizes and back. Between two sizes the size is interpolated;
    beyond the largest or smallest it is that one.
    """
    sizes = sorted(ratios, reverse=True)
    if ratio >= ratios[sizes[0]]:
        return float(sizes[0])
    for larger, smaller in pairwise(sizes):
        if ratio > ratios[smaller]:
            return float(smaller) + float(larger - smaller) * (ratio - ratios[smaller]) / (ratios[larger] - ratios[smaller])
    return float(sizes[-1])


def _window(side: int, device: torch.device) -> Tensor:
    """Return a Hann window without its zeros at both ends."""
    return torch.hann_window(side + 2, periodic=False, dtype=torch.float64, device=device)[1:-1]


def _cut(maps: Tensor, place: list[float]) -> Tensor:
    """Return the patch (B, 147) of maps (B, 3, H, W) at a place in the unit square."""
    spare = [side - SIDE for side in maps.shape[2:]]
    if min(spare) < 0:
        return maps.new_zeros(len(maps), 3 * SIDE * SIDE)
    top, left = (int(share * (room + 1)) for share, room in zip(place, spare))
    return maps[:, :, top : top + SIDE, left : left + SIDE].flatten(1)


def _by_level(features: Tensor) -> list[Tensor]:
    """Return the patches of each level, (N * 16, 3, 49)."""
    return [level.reshape(-1, 3, SIDE * SIDE) for level in features.tensor_split(LEVELS, dim=1)]


def _level_distance(real: Tensor, fake: Tensor) -> float | None:
    """Return the distance of patches (N, 3, 49) and (M, 3, 49); None if the real ones are all alike in a channel."""
    mean, deviation = real.double().mean(dim=(0, 2), keepdim=True), real.double().std(dim=(0, 2), keepdim=True)
    if deviation.min() < LEAST_DEVIATION:
        return None
    directions = torch.randn(3 * SIDE * SIDE, DIRECTIONS, generator=torch.Generator().manual_seed(SEED), dtype=torch.float64)
    normalised = (((side.double() - mean) / deviation).flatten(1) for side in (real, fake))
    return sliced_distance(*normalised, directions / directions.norm(dim=0))
