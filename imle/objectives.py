"""Objectives as a question of who takes a new match, and when. All share one refresh.

IMLE and RS-IMLE: every image, every `refresh_epochs`. Adaptive IMLE (Aghabozorgi et al. 2023): an image, once its
distance has fallen below its own threshold tau. All images share one pool, which is drawn anew only when an image
that has already taken its match from it asks again; since a pool is matched against all images when it is drawn, what
is kept of it is one offer per image.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from imle.settings import Imle


class Objective(Protocol):
    """Who takes a new match, and when."""

    def asking(self, step: int, losses: Tensor) -> Tensor | None:
        """Return which images want a new match before this step, bool (n,), or None for none."""

    def needs_pool(self, asking: Tensor) -> bool:
        """Tell whether a new pool must be drawn to serve them."""

    def take(self, asking: Tensor, offers: Tensor | None) -> Tensor:
        """Return the latents that the asking images take; `offers` (n, latent_dim) are those of a new pool."""

    def state_dict(self) -> dict:
        """Return what the next answers depend on."""

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned."""


class Everyone:
    """All images take a new match together (every)."""

    def __init__(self, config: Imle, n: int, steps_per_epoch: int):
        self.every = config.refresh_epochs * steps_per_epoch
        self.n = n

    def asking(self, step: int, losses: Tensor) -> Tensor | None:
        return torch.ones(self.n, dtype=torch.bool) if step % self.every == 0 else None

    def needs_pool(self, asking: Tensor) -> bool:
        return True

    def take(self, asking: Tensor, offers: Tensor | None) -> Tensor:
        assert offers is not None  # every question has a pool of its own
        return offers[asking]

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        pass


class Adaptive:
    """Every image takes a new match when it is near enough to its present one (adaptive)."""

    def __init__(self, config: Imle, n: int, steps_per_epoch: int):
        self.config, self.steps_per_epoch = config, steps_per_epoch
        self.tau = torch.full((n,), float("inf"))
        self.age = torch.zeros(n, dtype=torch.int64)  # epochs since the present match
        self.new = torch.zeros(n, dtype=torch.bool)  # matched anew, tau to be set from the first distance seen
        self.used = torch.ones(n, dtype=torch.bool)  # has taken its offer from the present pool
        self.offers: Tensor | None = None

    def asking(self, step: int, losses: Tensor) -> Tensor | None:
        if step % self.steps_per_epoch:
            return None
        losses = losses.cpu()
        if self.offers is None:
            return torch.ones_like(self.used)  # a real first match; tau stays at infinity until the second
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
        assert self.offers is not None  # an image that asks first finds no pool
        return self.offers[asking]

    def state_dict(self) -> dict:
        return {key: getattr(self, key) for key in ("tau", "age", "new", "used", "offers")}

    def load_state_dict(self, state: dict) -> None:
        for key, value in state.items():
            setattr(self, key, value)


OBJECTIVES: dict[str, Callable[[Imle, int, int], Objective]] = {"every": Everyone, "adaptive": Adaptive}
