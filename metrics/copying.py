"""Is it copying? Three answers from distances to the training images alone, in the features of one network.

All three look at where fresh images of the same kind would lie: a distance to the nearest training image means nothing
by itself.
"""

import math

import torch
from torch import Tensor

from metrics.prdc import nearest_distances, nearest_other_distances

MINIMUM = 20  # training images, for a 5th percentile; and held-out images, for a test against them
PERCENTILE = 0.05


def copy_rate(real: Tensor, fake: Tensor, mirror: Tensor | None = None) -> float | None:
    """Return the share of fakes (M, D) nearer to a training image (N, D) than its like are to each other.

    The threshold is the 5th percentile of the training images' distances to their nearest others, so that fresh images
    give about 0.05. `mirror` are the features of the flipped training images, which count too. None below 20
    images, and where so many repeat each other that the threshold is 0.
    """
    if len(real) < MINIMUM:
        return None
    threshold = torch.quantile(nearest_other_distances(real), PERCENTILE)
    return float((_to_nearest(real, fake, mirror) < threshold).double().mean()) if threshold > 0 else None


def authentic_share(real: Tensor, fake: Tensor) -> float | None:
    """Return AuthPct as a share: fakes farther from their nearest training image than that image is from its own.

    Alaa et al. 2022. Fresh images give 0.5 to 0.75 by their dimension, not 1: see the calibration. None below two training images.
    """
    if len(real) < 2:
        return None
    distance, nearest = nearest_distances(fake, real)
    return float((distance > nearest_other_distances(real)[nearest]).double().mean())


def copying_test(real: Tensor, fake: Tensor, heldout: Tensor, mirror: Tensor | None = None) -> float | None:
    """Return C_T: are fakes nearer to the training images than held-out images are, in standard deviations.

    The normal approximation of the Mann-Whitney U of the two sets of distances, in a single cell: at 100 images there
    are too few for more (Meehan et al. 2020, section 4). Below -3: copying; above 3: farther away than real images
    are. None below 20 held-out images.
    """
    if len(heldout) < MINIMUM:
        return None
    fakes, fresh = _to_nearest(real, fake, mirror), _to_nearest(real, heldout, mirror)
    m, n = len(fakes), len(fresh)
    ordered = fresh.sort().values
    below = torch.searchsorted(ordered, fakes, side="left").double()
    upto = torch.searchsorted(ordered, fakes, side="right").double()
    wins = float(((below + upto) / 2).sum())  # held-out images that are nearer than a fake; ties count half
    ties = torch.cat([fakes, fresh]).unique(return_counts=True)[1].double()
    variance = m * n / 12 * ((m + n + 1) - float((ties**3 - ties).sum()) / ((m + n) * (m + n - 1)))
    return (wins - m * n / 2) / math.sqrt(variance) if variance > 0 else 0.0


def _to_nearest(real: Tensor, points: Tensor, mirror: Tensor | None) -> Tensor:
    distance, _ = nearest_distances(points, real if mirror is None else torch.cat([real, mirror]))
    return distance
