"""The objectives: which images take a new match, and when. All use the same refresh.

IMLE and RS-IMLE: every image, every `refresh_epochs`. Adaptive IMLE (Aghabozorgi et al. 2023): each image once its
loss falls below its own threshold tau. A refresh matches the pool to all images; an image that asks later takes its
match from the same pool. A new pool is drawn when an image asks that has already taken its match from the present one.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from imle.settings import Imle


class Objective(Protocol):
    """Choose which images take a new match, and when."""

    def asking(self, step: int, losses: Tensor) -> Tensor | None:
        """Return which images need a new match before `step`, bool (n,), or None if none does; `losses` (n,) are the last ones."""

    def needs_pool(self, asking: Tensor) -> bool:
        """Return whether the images `asking`, bool (n,), need a new pool."""

    def take(self, asking: Tensor, offers: Tensor | None) -> Tensor:
        """Return the new matches (k, latent_dim) of the k images `asking`; `offers` (n, latent_dim) are a new pool's, if any."""

    def state_dict(self) -> dict:
        """Return everything that the next decisions depend on."""

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""


class Everyone:
    """Rematch all images at once (imle.match=every)."""

    def __init__(self, config: Imle, n: int, steps_per_epoch: int):
        self.every = config.refresh_epochs * steps_per_epoch
        self.n = n

    def asking(self, step: int, losses: Tensor) -> Tensor | None:
        return torch.ones(self.n, dtype=torch.bool) if step % self.every == 0 else None

    def needs_pool(self, asking: Tensor) -> bool:
        return True

    def take(self, asking: Tensor, offers: Tensor | None) -> Tensor:
        assert offers is not None  # needs_pool is always True
        return offers[asking]

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class Adaptive:
    """Rematch each image once its loss is below its threshold tau (imle.match=adaptive)."""

    def __init__(self, config: Imle, n: int, steps_per_epoch: int):
        self.config, self.steps_per_epoch = config, steps_per_epoch
        self.tau = torch.full((n,), float("inf"))
        self.age = torch.zeros(n, dtype=torch.int64)  # epochs since the last match
        self.new = torch.zeros(n, dtype=torch.bool)  # just rematched: the next loss sets tau
        self.used = torch.ones(n, dtype=torch.bool)  # took its match from the present pool
        self.offers: Tensor | None = None  # (n, latent_dim), the present pool's matches

    def asking(self, step: int, losses: Tensor) -> Tensor | None:
        if step % self.steps_per_epoch:
            return None
        losses = losses.cpu()
        if self.offers is None:
            return torch.ones_like(self.used)  # the first match; tau stays at infinity until the second
        self.age += 1
        self.tau = torch.where(self.new, self.config.adaptive_decay * losses, self.tau)
        near = (losses < self.tau) & (self.age >= self.config.staleness)
        asking = near | (self.age >= self.config.force_resample)
        self.new = asking.clone()
        return asking if asking.any() else None

    def needs_pool(self, asking: Tensor) -> bool:
        return bool((asking & self.used).any())

    def take(self, asking: Tensor, offers: Tensor | None) -> Tensor:
        if offers is not None:
            self.offers = offers
            self.used = torch.zeros_like(self.used)
        self.used |= asking
        self.age[asking] = 0
        assert self.offers is not None  # `used` starts as True, so the first request draws a pool
        return self.offers[asking]

    def state_dict(self) -> dict:
        return {key: getattr(self, key) for key in ("tau", "age", "new", "used", "offers")}

    def load_state_dict(self, state: dict) -> None:
        for key, value in state.items():
            setattr(self, key, value)


OBJECTIVES: dict[str, Callable[[Imle, int, int], Objective]] = {"every": Everyone, "adaptive": Adaptive}
