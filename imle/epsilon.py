"""What may be matched: nothing within a radius epsilon, fixed or set by the pool's distances, or by rank alone."""

import torch
from torch import Tensor

from imle.settings import Imle


def target_share(n: int, m: int) -> float:
    """Return the share of the pool that each image's own ball should hold (`quantile`).

    It is the quantile at which the median of "nearest of m" under rejection equals the median of "nearest of n"
    without: 1 - 2^-(1/n - 1/m), and 0 where the pool is no larger than the training set. It is at most 0.69 / n: of the
    candidates it is measured on, a ball holds a few at n = 1,000 and none at n = 10,000.
    """
    return max(0.0, 1 - 2 ** -(1 / n - 1 / m))


RANKED = ("rank", "median_rank")  # ways to reject without a radius


def ranks(mode: str, n: int, m: int, generator: torch.Generator) -> Tensor:
    """Return which of its nearest candidates in a pool of m each of n images is matched to, int64 (n,) from 1.

    RS-IMLE asks for a prior under which the nearest of m is distributed as the nearest of n was: density phi(F) f, with
    phi(t) = (n/m) (1 - t)^(n/m - 1), which the hard ball approximates. A pool of m old draws gives that law exactly if, going
    outwards from the image, the candidate of rank r is accepted with probability n / (m - r + 1), which is phi at
    F = (r - 1)/m but for the power n/m, and the first accepted is the match: its rank is then that of the nearest of n
    candidates chosen from the m at random. (Thinning the pool by phi over its largest value leaves some ten candidates of
    500, and the nearest of these has another law.)

    `rank` draws from this law. `median_rank` takes its median for every image: no more of some images' matches than of
    others' is asked of the generator.
    """
    accepted = (n / torch.arange(m, 0, -1, dtype=torch.float64)).clamp(max=1)  # (m,) of ranks 1 to m
    passed_over = (1 - accepted).cumprod(0)  # (m,) that ranks 1 to r all are
    chance = torch.rand(n, dtype=torch.float64, generator=generator) if mode == "rank" else torch.full((n,), 0.5, dtype=torch.float64)
    return 1 + torch.searchsorted(-passed_over, -chance).clamp(max=m - 1)


def measure(config: Imle, distances: Tensor, m: int) -> Tensor:
    """Return the radius for a pool of m, () or one per image (n,) on the CPU, from distances to the images (candidates, n)."""
    if config.reject == "fixed":
        return torch.tensor(config.epsilon, dtype=torch.float64)
    if config.reject == "share":
        return radius_below(distances.amin(dim=1, keepdim=True), config.rejected_fraction)[0].cpu()
    return radius_below(distances, target_share(distances.shape[1], m)).cpu()


def radius_below(values: Tensor, share: float) -> Tensor:
    """Return (n,), for each column of (N, n) a number that round(share * N) of its entries lie below; 0 for none.

    It is halfway between two entries: one that was itself an entry, rounded, would be above or below it by chance.
    """
    below = min(round(share * len(values)), len(values) - 1)
    if below == 0:
        return torch.zeros_like(values[0])
    return values.topk(below + 1, dim=0, largest=False).values[-2:].mean(dim=0)
