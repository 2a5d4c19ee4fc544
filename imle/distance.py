"""The distance that training makes smaller: squared, or robust, where what is far off at a position counts for less.

The energy e of a position of a map is its squared difference summed over channels: of a unit-normalised map between 0
and 4, of the image `pixel_weight` times the mean over colours. A robust distance is the mean of rho(e) over positions,
summed over maps. Both have slope 1 at 0, so that small differences count as in the squared distance, which a large
scale c gives back:

    charbonnier     rho(e) = 2 c^2 (sqrt(1 + e / c^2) - 1)     Charbonnier et al. 1994; grows like the root of e
    geman-mcclure   rho(e) = e / (1 + e / c^2)                 Geman & McClure 1985; never exceeds c^2

Barron 2019 (arXiv 1701.03077) has both in one family, alpha = 1 and -2; the c here is his, and twice his.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from imle.settings import Loss
from models.perceptual import squared_distance


def charbonnier(energy: Tensor, scale: float) -> Tensor:
    """Return rho of energies, any shape, in a form that does not cancel near 0."""
    return 2 * energy / (1 + (1 + energy / scale**2).sqrt())


def geman_mcclure(energy: Tensor, scale: float) -> Tensor:
    """Return rho of energies, any shape."""
    return energy / (1 + energy / scale**2)


ROBUST = {"charbonnier": charbonnier, "geman-mcclure": geman_mcclure}


def robust_distance(a: list[Tensor], b: list[Tensor], *, rho: Callable[[Tensor, float], Tensor], scale: float) -> Tensor:
    """Return the robust distance (B,) between two lists of maps (B, C, H, W), which hold 1/sqrt(H W)."""
    parts = []
    for x, y in zip(a, b):
        energy = (x - y).square().sum(dim=1) * (x.shape[2] * x.shape[3])  # (B, H, W)
        parts.append(rho(energy, scale).mean(dim=(1, 2)))
    return torch.stack(parts).sum(dim=0)


def make_distance(settings: Loss) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
    """Return the distance (B,) between two lists of maps that `loss.distance` names."""
    if settings.distance == "squared":
        return squared_distance
    return partial(robust_distance, rho=ROBUST[settings.distance], scale=settings.scale)
