"""A refresh: draw a pool, reject what lies too near to any image, match every image to its nearest survivor.

RS-IMLE, algorithm 1 (Vashist et al. 2024); with nothing rejected it is IMLE (Li & Malik 2018). One streaming pass:
images are dropped as soon as they are embedded and features as soon as they are compared, so that memory does not
grow with the pool. Several processes share the pool out in runs of whole chunks, the very chunks that one process would
generate; what they tell each other is the pilot's distances, the number of survivors and the match.
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

# Epsilon is measured on the first candidates of a pool, so that it passes only once: draws are independent, and the
# share of the rest that a quantile of 4096 of them rejects has a standard error below 0.8 percentage points. Their
# features must all be held till then, so there is a limit to them too: 1 GiB.
PILOT = 4096
PILOT_ELEMENTS = 2**28
TOP_UP = 4  # if too few candidates survive, draw up to this many pools


@dataclass(frozen=True)
class Matches:
    """What a refresh chose for every image, and what it saw on the way."""

    latents: Tensor  # (n, latent_dim) CPU
    distance: Tensor  # (n,) in feature units, from image to match
    diagnostics: dict[str, float]


class Refresher:
    """Choose a latent for every image, whether all of them take it or not."""

    def __init__(self, config: Config, targets: Tensor):
        """Compare candidates with `targets` (n, D), the images' search features."""
        self.config = config
        self.targets = targets
        self.n = len(targets)
        self.pool_size = max(1, round(config.imle.pool_factor * self.n))
        self.pilot_size = min(self.pool_size, PILOT, max(1, PILOT_ELEMENTS // targets.shape[1]))
        self.between_images = torch.pdist(targets[:512]).mean()

    @torch.no_grad()
    def refresh(self, embed: Callable[[Tensor], Tensor], number: int) -> Matches:
        """Draw pool `number` and match. `embed` maps latents (B, latent_dim) to features of their images (B, D).

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
            },
        )

    def _share(self, start: int, stop: int) -> tuple[int, int]:
        return processes.share(start, stop, self.config.imle.pool_batch)

    def _candidates(self, embed: Callable[[Tensor], Tensor], number: int, start: int, stop: int) -> Iterator[tuple[int, Tensor]]:
        """Yield the first id and the features (B, D) of candidates `start` to `stop`, generated `pool_batch` at a time."""
        size, seed, dim = self.config.imle.pool_batch, self.config.seed, self.config.model.latent_dim
        step = size * max(1, block_size(self.targets.shape[1], self.n) // size)  # gathered, for matching has costs per call
        for first in range(start, stop, step):
            last = min(first + step, stop)
            parts = [embed(rng.pool_latents(seed, number, at, min(at + size, last), dim)) for at in range(first, last, size)]
            yield first, torch.cat(parts) if len(parts) > 1 else parts[0]


def latent_gap(latents: Tensor, seed: int, number: int, probes: int = 512) -> float:
    """Return how much farther fresh latents lie from the selected ones than from as many fresh ones (1: no gap).

    The 95% quantile of the distance to the nearest, over the same for fresh latents.
    """
    fresh = rng.normal((probes, latents.shape[1]), seed, "latent_gap", number, 0)
    control = rng.normal(tuple(latents.shape), seed, "latent_gap", number, 1)
    to_selected, to_control = (torch.cdist(fresh, z).amin(dim=1).quantile(0.95) for z in (latents, control))
    return (to_selected / to_control).item()
