"""Which candidates are rejected: those within a radius epsilon, fixed or measured on the pool, or those before a rank."""

import torch
from torch import Tensor

from imle.settings import Imle


def target_share(n: int, m: int) -> float:
    """Return the share of the pool that lies within each image's own radius (imle.reject=quantile).

    With this share the median distance to the nearest of m candidates after rejection equals the median distance to the
    nearest of n without: 1 - 2^-(1/n - 1/m), or 0 if m <= n. The share is at most 0.69 / n. In a pilot of 4096, a radius
    thus holds a few candidates at n = 1,000 and none at n = 10,000.
    """
    return max(0.0, 1 - 2 ** -(1 / n - 1 / m))


RANKED = ("rank", "median_rank")  # values of imle.reject without a radius


def ranks(mode: str, n: int, m: int, generator: torch.Generator) -> Tensor:
    """Return the rank of each image's match among its nearest of m candidates, int64 (n,), from 1 (nearest) to m.

    RS-IMLE wants a prior under which the nearest of m candidates is distributed like the nearest of n without rejection:
    density phi(F) f, with phi(t) = (n/m) (1 - t)^(n/m - 1). A rejection radius only approximates this. Ranks give it
    exactly: choose n of the m candidates at random; the match is the nearest of these. To draw its rank, go through the
    ranks r = 1, 2, ... and accept rank r with probability n / (m - r + 1); the match is the first accepted. (Thinning the
    pool in proportion to phi leaves about ten candidates of 500, and the nearest of these has another distribution.)

    `rank` draws every image's rank from this distribution. `median_rank` gives every image the median rank, so that no
    image gets a worse match by chance.
    """
    accepted = (n / torch.arange(m, 0, -1, dtype=torch.float64)).clamp(max=1)  # (m,) probability of accepting rank r
    passed_over = (1 - accepted).cumprod(0)  # (m,) probability that ranks 1 to r are all passed over
    chance = torch.rand(n, dtype=torch.float64, generator=generator) if mode == "rank" else torch.full((n,), 0.5, dtype=torch.float64)
    return 1 + torch.searchsorted(-passed_over, -chance).clamp(max=m - 1)


def measure(config: Imle, distances: Tensor, m: int) -> Tensor:
    """Return the radius for a pool of m, on the CPU: () or one per image (n,).

    `distances` (candidates, n) are the pilot's distances to the images.
    """
    if config.reject == "fixed":
        return torch.tensor(config.epsilon, dtype=torch.float64)
    if config.reject == "share":
        return radius_below(distances.amin(dim=1, keepdim=True), config.rejected_fraction)[0].cpu()
    return radius_below(distances, target_share(distances.shape[1], m)).cpu()


def radius_below(values: Tensor, share: float) -> Tensor:
    """Return for each column of `values` (N, n) a number that is larger than round(share * N) of its entries, (n,).

    The number lies halfway between two entries, so that rounding moves no entry to the other side. It is 0 if
    round(share * N) is 0.
    """
    below = min(round(share * len(values)), len(values) - 1)
    if below == 0:
        return torch.zeros_like(values[0])
    return values.topk(below + 1, dim=0, largest=False).values[-2:].mean(dim=0)
