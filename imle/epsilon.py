"""The rejection radius epsilon: a fixed number, or whatever distance rejects a given share of the pool."""

import torch
from torch import Tensor

from imle.config import Imle


def target_share(n: int, m: int) -> float:
    """Return the share of the pool that each image's own ball should hold (`quantile`).

    It is the quantile at which the median of "nearest of m" under rejection equals the median of "nearest of n"
    without: 1 - 2^-(1/n - 1/m), and 0 where the pool is no larger than the training set.
    """
    return max(0.0, 1 - 2 ** -(1 / n - 1 / m))


class Epsilon:
    """Set the radius at every refresh, once rejecting has begun."""

    def __init__(self, config: Imle, n: int, m: int):
        self.config, self.n, self.m = config, n, m
        self.average: Tensor | None = None  # () or (n,): the radius averaged over refreshes
        self.open = False

    def gate(self, step: int, level: float) -> bool:
        """Tell whether to reject at this step; `level` is the last matched distance over that between images."""
        c = self.config
        self.open = self.open or (step >= c.reject_after and (c.reject_below == 0 or level <= c.reject_below))
        return self.open

    def measure(self, distances: Tensor) -> Tensor:
        """Return the radius, () or one per image (n,), from candidates' distances to the images (candidates, n)."""
        c = self.config
        if c.epsilon_mode == "fixed":
            return torch.tensor(c.epsilon)
        if c.epsilon_mode == "rejected_fraction":
            radius = order_statistic(distances.amin(dim=1, keepdim=True), c.rejected_fraction)[0]
        else:
            radius = order_statistic(distances, target_share(self.n, self.m))
        if self.average is not None:
            radius = torch.lerp(radius, self.average, c.epsilon_ema)
        self.average = radius
        return radius

    def state_dict(self) -> dict:
        return {"average": self.average, "open": self.open}

    def load_state_dict(self, state: dict) -> None:
        self.average, self.open = state["average"], state["open"]


def order_statistic(values: Tensor, share: float) -> Tensor:
    """Return, for each column of (N, n), the value that round(share * N) of its entries lie below; 0 for none."""
    below = min(round(share * len(values)), len(values) - 1)
    return values.kthvalue(below + 1, dim=0).values if below else torch.zeros_like(values[0])
