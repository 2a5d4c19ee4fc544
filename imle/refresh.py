"""A refresh: draw a pool, reject candidates too near to any image, match every image to its nearest survivor.

RS-IMLE, algorithm 1 (Vashist et al. 2024); without rejection it is IMLE (Li & Malik 2018). The pool is streamed: a
candidate's image is dropped once it is embedded, and its features once they are compared, so memory does not grow with
the pool. Several processes divide the pool into the same chunks that one process would generate. They exchange the
pilot's distances, the number of survivors and the matches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from imle.epsilon import RANKED, measure, ranks
from imle.search import PoolMatcher, distances
from imle.search.bounds import block_size
from imle.settings import Config
from training import processes, rng

# Epsilon is measured on the first candidates, the pilot, so that the pool is generated once. Candidates are independent:
# a quantile of 4096 of them rejects a share of the rest with a standard error below 0.8 percentage points. The pilot's
# features are all held in memory, up to 1 GiB.
PILOT = 4096
PILOT_ELEMENTS = 2**28
TOP_UP = 4  # if too few candidates survive, draw up to this many pools


@dataclass(frozen=True)
class Matches:
    """Every image's match, and diagnostics of the refresh."""

    latents: Tensor  # (n, latent_dim), on the CPU
    distance: Tensor  # (n,) from each image to its match, in feature units
    diagnostics: dict[str, float]


class Refresher:
    """Find a match for every image; the objective decides which images take theirs."""

    def __init__(self, config: Config, targets: Tensor):
        """Prepare to match `targets` (n, D), the images' search features."""
        self.config = config
        self.targets = targets
        self.n = len(targets)
        self.pool_size = max(1, round(config.imle.pool_factor * self.n))
        self.pilot_size = min(self.pool_size, PILOT, max(1, PILOT_ELEMENTS // targets.shape[1]))
        self.between_images = torch.pdist(targets[:512]).mean()

    @torch.no_grad()
    def refresh(self, embed: Callable[[Tensor], Tensor], number: int) -> Matches:
        """Draw pool `number` and match. `embed` maps latents (B, latent_dim) to the features (B, D) of their images.

        If no candidate survives for an image, it falls back to its nearest candidate, rejected or not.
        """
        settings, seed = self.config.imle, self.config.seed
        first, last = self._share(0, self.pilot_size)
        pilot = torch.cat([self.targets[:0], *(features for _, features in self._candidates(embed, number, first, last))])
        pilot_distances = processes.all_cat(distances(pilot, self.targets))  # (pilot, n)
        radius, chosen = torch.zeros(()), None
        if settings.reject in RANKED:
            chosen = ranks(settings.reject, self.n, self.pool_size, rng.generator(seed, "ranks", number))
        elif settings.reject != "none":
            radius = measure(settings, pilot_distances, self.pool_size)
        matcher = PoolMatcher(self.targets, radius, settings.search, ranks=chosen, generator=rng.generator(seed, "search", number))
        survivors = processes.all_sum((~matcher.offer(pilot, first)).sum())
        start, enough, bound = self.pilot_size, min(self.n, self.pool_size), TOP_UP * self.pool_size
        while start < self.pool_size or (survivors < enough and start < bound):
            stop = self.pool_size if start < self.pool_size else min(start + self.n, bound)
            found = torch.zeros_like(survivors)
            for first, features in self._candidates(embed, number, *self._share(start, stop)):
                found += (~matcher.offer(features, first)).sum()
            survivors, start = survivors + processes.all_sum(found), stop
        match = matcher.result(processes.all_gather)
        fell_back = match.index < 0
        index, distance = match.taken.cpu(), match.taken_distance
        latents = rng.pool_latents_at(seed, number, index, self.config.model.latent_dim)
        return Matches(
            latents,
            distance,
            {
                "pool_seen": match.seen,
                "rejected_share": match.rejected / match.seen,
                "epsilon": radius.mean().item(),
                "unique_matches": len(index.unique()) / self.n,
                "fallback_images": int(fell_back.sum()),
                "matched_distance": distance.mean().item(),
                "matched_level": (distance.mean() / self.between_images).item(),
                "pit": (match.nearer.where(~fell_back, 0).double().mean().item() + 1) / (match.seen + 1),
                "train_test_gap": pilot_distances.amin(dim=1).mean().item() - distance.mean().item(),
                "latent_gap": latent_gap(latents, seed, number),
                **self._losses(distance, pilot_distances),
            },
        )

    def _losses(self, matched: Tensor, pilot: Tensor) -> dict[str, float]:
        """Return the losses of new matches, from distances (n,), and of fresh samples to their nearest image, from (pilot, n).

        Empty if the search features do not compare what the loss compares. A sketch has the loss up to its own error.
        """
        if self.config.imle.features != "loss" or self.config.imle.normalise:
            return {}
        return {"loss_after": matched.square().mean().item(), "loss_fresh": pilot.amin(dim=1).square().mean().item()}

    def _share(self, start: int, stop: int) -> tuple[int, int]:
        return processes.share(start, stop, self.config.imle.pool_batch)

    def _candidates(self, embed: Callable[[Tensor], Tensor], number: int, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield candidates `start` to `stop` in chunks: the first pool id and the features (B, D)."""
        size, seed, dim = self.config.imle.pool_batch, self.config.seed, self.config.model.latent_dim
        step = size * max(1, block_size(self.targets.shape[1], self.n) // size)  # several batches: each call of the matcher has a cost
        for first in range(start, stop, step):
            latents = rng.pool_latents(seed, number, first, min(first + step, stop), dim)
            parts = [embed(batch) for batch in latents.split(size)]
            yield first, torch.cat(parts) if len(parts) > 1 else parts[0]


def latent_gap(latents: Tensor, seed: int, number: int, probes: int = 512) -> float:
    """Return how much farther new latents lie from the matched `latents` than from as many new ones; 1 means no gap.

    It is a ratio of two 95% quantiles of the distance to the nearest latent.
    """
    fresh = rng.normal((probes, latents.shape[1]), seed, "latent_gap", number, 0)
    control = rng.normal(tuple(latents.shape), seed, "latent_gap", number, 1)
    to_selected, to_control = (torch.cdist(fresh, z).amin(dim=1).quantile(0.95) for z in (latents, control))
    return (to_selected / to_control).item()
