"""A refresh: draw a pool, reject what lies too near to any image, match every image to its nearest survivor.

RS-IMLE, algorithm 1 (Vashist et al. 2024); with nothing rejected it is IMLE (Li & Malik 2018). One streaming pass:
images are dropped as soon as they are embedded and features as soon as they are compared, so that memory does not
grow with the pool.
"""

from dataclasses import dataclass
from typing import Callable

import torch
from torch import Tensor

from imle import rng
from imle.config import Config
from imle.epsilon import Epsilon
from imle.search import PoolMatcher, distances

# Epsilon is measured on this many candidates at the most, the first of the pool: draws are independent, so their
# quantile is the pool's within half a percent, and a pool of any size passes only once.
PILOT = 4096


@dataclass(frozen=True)
class Matches:
    """What a refresh chose for every image, and what it saw on the way."""

    latents: Tensor  # (n, latent_dim) CPU
    distance: Tensor  # (n,) in feature units, from image to match
    diagnostics: dict[str, float]


class Refresher:
    """Choose a latent for every image, whatever the objective makes of them."""

    def __init__(self, config: Config, targets: Tensor):
        """Compare candidates with `targets` (n, D), the images' search features."""
        self.config = config
        self.targets = targets
        self.n = len(targets)
        self.pool_size = max(1, round(config.imle.pool_factor * self.n))
        self.epsilon = Epsilon(config.imle, self.n, self.pool_size)
        self.level = float("inf")  # mean matched distance at the last refresh / mean distance between images
        between = torch.pdist(targets[:512].double())
        self.between_images = between.mean().item() if len(between) else float("inf")

    @torch.no_grad()
    def refresh(self, embed: Callable[[Tensor], Tensor], number: int, step: int) -> Matches:
        """Draw pool `number` and match. `embed` maps latents (B, latent_dim) to features of their images (B, D)."""
        settings, seed = self.config.imle, self.config.seed
        pilot = self._draw(embed, number, 0, min(self.pool_size, PILOT))
        pilot_distances = distances(pilot, self.targets)  # (pilot, n)
        radius = torch.zeros(())
        if settings.objective == "rs" and self.epsilon.gate(step, self.level):
            radius = self.epsilon.measure(pilot_distances)
        matcher = PoolMatcher(self.targets, radius.to(self.targets.device), settings.search,
                              generator=rng.generator(seed, "search", number))  # fmt: skip
        survivors = int((~matcher.offer(pilot)).sum())
        start, bound = len(pilot), round(self.pool_size * settings.top_up)
        while start < self.pool_size or (survivors < self.n and start < bound):
            stop = min(start + settings.pool_batch, self.pool_size if start < self.pool_size else bound)
            survivors += int((~matcher.offer(self._draw(embed, number, start, stop))).sum())
            start = stop
        match = matcher.result()
        fell_back = match.index < 0
        index = torch.where(fell_back, match.fallback, match.index).cpu()
        distance = torch.where(fell_back, match.fallback_distance, match.distance)
        self.level = distance.mean().item() / self.between_images
        latents = rng.pool_latents_at(seed, number, index, self.config.model.latent_dim)
        return Matches(latents, distance, {
            "pool_seen": match.seen,
            "rejected_share": match.rejected / match.seen,
            "epsilon": radius.mean().item(),
            "unique_matches": len(index.unique()) / self.n,
            "fallback_images": int(fell_back.sum()),
            "matched_distance": distance.mean().item(),
            "matched_level": self.level,
            "pit": (match.nearer.double().mean().item() + 1) / (match.seen + 1),
            "train_test_gap": pilot_distances.amin(dim=1).mean().item() - distance.mean().item(),
            "latent_gap": latent_gap(latents, seed, number),
        })  # fmt: skip

    def _draw(self, embed: Callable[[Tensor], Tensor], number: int, start: int, stop: int) -> Tensor:
        """Return the features of candidates `start` to `stop`, generated `pool_batch` at a time."""
        settings, chunks = self.config.imle, []
        for first in range(start, stop, settings.pool_batch):
            last = min(first + settings.pool_batch, stop)
            chunks.append(embed(rng.pool_latents(self.config.seed, number, first, last, self.config.model.latent_dim)))
        return torch.cat(chunks)

    def state_dict(self) -> dict:
        return {"level": self.level, "epsilon": self.epsilon.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.level = state["level"]
        self.epsilon.load_state_dict(state["epsilon"])


def latent_gap(latents: Tensor, seed: int, number: int, probes: int = 512) -> float:
    """Return how much farther fresh latents lie from the selected ones than from as many fresh ones (1: no gap).

    The 95% quantile of the distance to the nearest, over the same for fresh latents.
    """
    fresh = rng.normal((probes, latents.shape[1]), seed, "latent_gap", number, 0)
    control = rng.normal(tuple(latents.shape), seed, "latent_gap", number, 1)
    to_selected, to_control = (torch.cdist(fresh, z).amin(dim=1).quantile(0.95) for z in (latents, control))
    return (to_selected / to_control).item()
