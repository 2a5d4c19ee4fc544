"""The distance that training minimises: squared, or robust. A robust distance weighs large differences less.

The energy e at a position of a map is the squared difference summed over channels. In a unit-normalised map e is between
0 and 4; in the image's own map e is `pixel_weight` times the squared difference averaged over colours. A robust distance
is the mean of rho(e) over positions, summed over maps. Both rho have slope 1 at 0, so small differences count as in the
squared distance; a large scale c gives the squared distance:

    charbonnier     rho(e) = 2 c^2 (sqrt(1 + e / c^2) - 1)     Charbonnier et al. 1994; grows like the square root of e
    geman-mcclure   rho(e) = e / (1 + e / c^2)                 Geman & McClure 1985; stays below c^2

Barron 2019 (arXiv 1701.03077) has both in one family: alpha = 1 with the same c, and alpha = -2 with half of this c.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from imle.settings import Loss
from models.perceptual import squared_distance


def charbonnier(energy: Tensor, scale: float) -> Tensor:
    """Return rho of energies of any shape, in a form without cancellation near 0."""
    return 2 * energy / (1 + (1 + energy / scale**2).sqrt())


def geman_mcclure(energy: Tensor, scale: float) -> Tensor:
    """Return rho of energies of any shape."""
    return energy / (1 + energy / scale**2)


ROBUST = {"charbonnier": charbonnier, "geman-mcclure": geman_mcclure}


def robust_distance(a: list[Tensor], b: list[Tensor], *, rho: Callable[[Tensor, float], Tensor], scale: float) -> Tensor:
    """Return the robust distance (B,) between two lists of maps (B, C, H, W) that are scaled by 1/sqrt(H W)."""
    parts = []
    for x, y in zip(a, b):
        energy = (x - y).square().sum(dim=1) * (x.shape[2] * x.shape[3])  # (B, H, W)
        parts.append(rho(energy, scale).mean(dim=(1, 2)))
    return torch.stack(parts).sum(dim=0)


def make_distance(settings: Loss) -> Callable[[list[Tensor], list[Tensor]], Tensor]:
    """Return the function that `loss.distance` names: two lists of maps (B, C, H, W) -> distances (B,)."""
    if settings.distance == "squared":
        return squared_distance
    return partial(robust_distance, rho=ROBUST[settings.distance], scale=settings.scale)
