"""Reject and match one pool: the inner problem of RS-IMLE (arXiv 2409.17439, section 4, algorithm 1).

A candidate nearer than epsilon to any target is rejected. Each target is matched to its nearest surviving candidate.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from imle.search.bounds import Bounds, Queries, as_features, blocks, check_finite, not_positive, squared_distances
from imle.search.exact import Nearest, nearest
from imle.search.index import NeighbourIndex, open_index

SAMPLE_SIZE = 2048  # candidates kept to count `Match.nearer`


@dataclass(frozen=True)
class Match:
    """The result of a pool. Pool ids count the candidates in the order in which they were offered.

    One pass with bounded memory cannot count `nearer` exactly, because it depends on the final match. So every s-th of the
    candidates that can be nearer is kept, and counts s times; s is the smallest power of two that keeps at most SAMPLE_SIZE.
    With `exact` only rejected candidates can be nearer: the count is exact up to SAMPLE_SIZE rejections. Other searches may
    miss survivors: the count is exact up to SAMPLE_SIZE candidates. Beyond that it is an unbiased estimate; a share u of the
    pool has a standard error below sqrt(2 u / SAMPLE_SIZE). It is a diagnostic and uses float32 distances.
    """

    index: Tensor  # int64 (n,) pool id of each target's nearest (or `ranks`-th) survivor; -1 if none survived
    distance: Tensor  # float32 (n,) Euclidean distance to it, rounded from float64; inf if none survived
    taken: Tensor  # int64 (n,) `index`, or the nearest rejected candidate if none survived; -1 only for an empty pool
    taken_distance: Tensor  # float32 (n,)
    seen: int  # number of candidates
    rejected: int  # number of rejected candidates
    nearer: Tensor  # int64 (n,) number of candidates strictly nearer than the match (with `ranks`, before it); `seen` if none survived


def alone(values: Tensor) -> Tensor:
    """Return `values` as (1, *shape): the all_gather of a single matcher."""
    return values[None]


class PoolMatcher:
    """Match targets to a pool that is offered chunk by chunk; the result does not depend on the chunks.

    A pool may be divided among several matchers that merge their results. With `exact` this does not change the result. With
    other searches each matcher searches its own survivors, and the nearest of their finds, by true distance, is the match.

    `exact` compares candidates and drops them: memory is O(n block + block D) for any pool. Other searches reject just as
    exactly, but keep the survivors' features, and search these in `result`; memory grows with them. With epsilon 0 nothing
    is rejected, not even copies of a target, and other searches compare nothing before `result`.
    """

    def __init__(
        self,
        targets: Tensor,
        epsilon: float | Tensor,
        search: str = "exact",
        *,
        ranks: Tensor | None = None,
        generator: torch.Generator | None = None,
    ):
        """Prepare for `targets` (n, D) with radius `epsilon`, one number or one per target (n,), in feature units.

        With `ranks`, int64 (n,) from 1, target i is matched to its ranks[i]-th nearest survivor; only `exact` can do this,
        and memory grows with the largest rank. `generator` seeds `dci` and is not advanced. Raises UserError if a target is
        not finite, or if `search` is unknown or not installed; ValueError for a wrong shape or a radius that is negative or
        NaN.
        """
        targets = as_features(targets, "targets")
        if len(targets) == 0:
            raise ValueError("there are no targets to match")
        self._queries = Queries(targets, "targets")
        self._epsilon = as_radii(epsilon, targets)  # float64 (n, 1) or (1, 1)
        self._rejects = bool((self._epsilon > 0).any())
        self._search, self._generator = search, generator
        self._open_index()  # raises for a missing library before a pool is generated
        assert ranks is None or self._exact
        self._ranks = torch.ones(len(targets), dtype=torch.int64) if ranks is None else ranks
        self._ranks = self._ranks.to(targets.device)
        self._match = Nearest(len(targets), int(self._ranks.max()), targets.device)  # among survivors
        self._any = Nearest(len(targets), 1, targets.device)  # among all candidates, until one survives
        self._some_survived = not self._rejects
        self._survivors, self._survivor_ids = [targets[:0]], [self._match.ids[:0, 0]]  # stay empty with `exact`
        self._sample = Sample(targets)
        self._seen = self._skipped = 0  # candidates offered to this matcher, and earlier ones offered to others
        self._rejected = torch.zeros((), dtype=torch.int64, device=targets.device)

    @property
    def _exact(self) -> bool:
        return self._search == "exact"

    def _open_index(self) -> NeighbourIndex:
        return open_index(self._search, None if self._generator is None else self._generator.clone_state())

    @torch.no_grad()
    def offer(self, features: Tensor, first: int | None = None) -> Tensor:
        """Add the next candidates (chunk, D); return which are rejected, bool (chunk,).

        Their pool ids start at `first`, which must be above all earlier ids (None: after the last chunk). Raises UserError
        if one is not finite.
        """
        features = as_features(features, "candidate features", like=self._queries.points)
        flags = [torch.zeros(0, dtype=torch.bool, device=features.device)]
        self._skipped = self._skipped if first is None else first - self._seen
        return torch.cat(flags + [self._offer_block(block) for _, block in blocks(features, len(self._queries.points))])

    def _offer_block(self, features: Tensor) -> Tensor:
        first, rejected = self._seen + self._skipped, torch.zeros(len(features), dtype=torch.bool, device=features.device)
        if self._exact or self._rejects:
            bounds = Bounds(self._queries, features, "candidate features")
            if self._rejects:
                rejected = self._reject(bounds)
                self._some_survived = self._some_survived or not bool(rejected.all())
                if not self._some_survived:
                    self._any.update(bounds, first)
            self._keep_sample(bounds.estimates, rejected if self._exact else ~torch.zeros_like(rejected))
            if self._exact:
                self._match.update(bounds, first, rejected.nonzero()[:, 0] if self._rejects else None)
        else:
            check_finite(torch.linalg.vector_norm(features, dim=1), "candidate features")
            self._keep_sample(lambda chosen: self._estimates(features[chosen]), ~rejected)
        if not self._exact:
            ids = torch.arange(first, first + len(features), device=features.device)
            self._survivors.append(features[~rejected])
            self._survivor_ids.append(ids[~rejected])
        self._seen += len(features)
        self._rejected += rejected.sum()
        return rejected

    def _keep_sample(self, squared: Callable[[Tensor], Tensor], eligible: Tensor) -> None:
        """Offer a block's `eligible` (c,) candidates to the sample; `squared` maps chosen ones to squared distances (n, chosen)."""
        if self._rejects or not self._exact:
            ids = torch.arange(self._seen, self._seen + len(eligible), device=eligible.device)
            self._sample.add(ids, eligible, squared)

    def _estimates(self, features: Tensor) -> Tensor:
        return Bounds(self._queries, features, "candidate features").estimates(torch.arange(len(features), device=features.device))

    def _reject(self, bounds: Bounds) -> Tensor:
        """Return which candidates of a block are nearer than epsilon to any target, bool (c,)."""
        rows, columns, rejected = bounds.settle(self._verdicts)
        squared = squared_distances(self._queries.points, bounds.points, rows, columns)
        near = squared.sqrt() < self._epsilon.expand(len(self._queries.points), 1)[rows, 0]
        rejected[columns[near]] = True
        return rejected

    def _verdicts(self, bounds: Bounds) -> tuple[Tensor, Tensor, Tensor]:
        """Return the (row, column) pairs that the bounds cannot decide, and the candidates that are surely rejected, bool (c,).

        Pairs of a surely rejected candidate are left out. Subtraction keeps the order of its operands, so a radius
        too large or small to square in float32 does no harm.
        """
        square = self._epsilon.square().to(bounds.low.dtype)  # (n, 1) or (1, 1)
        lowest = bounds.low.amin(0) - square[0] if len(square) == 1 else (bounds.low - square).amin(0)  # (c,)
        certain = lowest + bounds.width < 0
        doubtful = ((lowest <= 0) & ~certain).nonzero()[:, 0]
        rows, columns = not_positive(bounds.low.index_select(1, doubtful) - square)
        return rows, doubtful[columns], certain

    @torch.no_grad()
    def result(self, all_gather: Callable[[Tensor], Tensor] = alone) -> Match:
        """Return the match of all candidates so far; more may be offered afterwards.

        `all_gather` returns the values of all matchers that share the pool, (matchers, *shape); all of them must call `result`.
        """
        ids, squared = (self._match.ids, self._match.squared) if self._exact else self._look_up()
        index, squared = merge(all_gather(ids), all_gather(squared), self._ranks)
        taken, taken_squared = merge(all_gather(self._any.ids), all_gather(self._any.squared), torch.ones_like(self._ranks))
        taken, taken_squared = index.where(index >= 0, taken), squared.where(index >= 0, taken_squared)
        nearer = all_gather(self._sample.count_nearer(squared)).sum(0) + self._ranks - 1
        seen, rejected = all_gather(torch.stack((self._rejected.new_tensor(self._seen), self._rejected))).sum(0).tolist()
        return Match(index, squared.sqrt().float(), taken, taken_squared.sqrt().float(), seen, rejected, nearer.where(index >= 0, seen))

    def _look_up(self) -> tuple[Tensor, Tensor]:
        """Return the pool ids (n, 1) and float64 squared distances (n, 1) of the targets' nearest survivors in the index."""
        targets = self._queries.points
        points, ids = torch.cat(self._survivors), torch.cat(self._survivor_ids)
        self._survivors, self._survivor_ids = [points], [ids]
        if len(points) == 0:
            return self._match.ids, self._match.squared
        index = self._open_index()
        index.add(points)
        found = index.query(targets)[1][:, 0]  # (n,) rows of points
        lost = (found < 0).nonzero()[:, 0]  # an approximate index may find nothing
        if len(lost):
            found[lost] = nearest(targets[lost], points)[1][:, 0]
        rows = torch.arange(len(targets), device=targets.device)
        return ids[found, None], squared_distances(targets, points, rows, found)[:, None]


def merge(ids: Tensor, squared: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Return the id (n,) and squared distance (n,) of each target's ranks[i]-th nearest candidate.

    `ids` and `squared` (matchers, n, k) are the finds of all matchers. The order is by distance, then by lowest id, as
    in each matcher. A missing candidate, (-1, inf), comes last.
    """
    ids, squared = ids.movedim(0, 1).flatten(1), squared.movedim(0, 1).flatten(1)  # (n, matchers * k)
    ids, order = ids.sort(dim=1)
    squared, order = squared.gather(1, order).sort(dim=1, stable=True)
    at = ranks[:, None] - 1
    return ids.gather(1, order).gather(1, at)[:, 0], squared.gather(1, at)[:, 0]


class Sample:
    """The squared distances of every `stride`-th candidate by id, at most SAMPLE_SIZE of them.

    The final stride is the smallest power of two that suffices; it does not depend on the chunks.
    """

    def __init__(self, targets: Tensor):
        self.stride = 1
        self.ids = torch.zeros(0, dtype=torch.int64, device=targets.device)  # (s,)
        self.squared = [targets.new_zeros((len(targets), 0))]  # (n, s) in parts

    def add(self, ids: Tensor, eligible: Tensor, squared: Callable[[Tensor], Tensor]) -> None:
        """Add candidates `ids` (c,), if `eligible` (c,); `squared` maps chosen positions to squared distances (n, chosen)."""
        chosen = (eligible & (ids % self.stride == 0)).nonzero()[:, 0]
        while len(self.ids) + len(chosen) > SAMPLE_SIZE:
            self.stride *= 2
            chosen = chosen[ids[chosen] % self.stride == 0]
            kept = self.ids % self.stride == 0
            self.ids, self.squared = self.ids[kept], [torch.cat(self.squared, dim=1)[:, kept]]
        if len(chosen):
            self.ids = torch.cat((self.ids, ids[chosen]))
            self.squared.append(squared(chosen))

    def count_nearer(self, squared: Tensor) -> Tensor:
        """Estimate for each target the number of nearer candidates, int64 (n,); `squared` (n,) are its match's squared distances."""
        return (torch.cat(self.squared, dim=1) < squared[:, None]).sum(dim=1) * self.stride


def as_radii(epsilon: float | Tensor, targets: Tensor) -> Tensor:
    """Return epsilon as float64: (1, 1) for one number, (n, 1) for one per target; `targets` are (n, D)."""
    radii = torch.as_tensor(epsilon, dtype=torch.float64, device=targets.device)
    if radii.ndim > 1 or (radii.ndim == 1 and len(radii) != len(targets)):
        raise ValueError(f"epsilon must be one number or one per target ({len(targets)}), not {tuple(radii.shape)}")
    if not bool((radii >= 0).all()):  # False for NaN too
        raise ValueError("epsilon must not be negative or NaN")
    return radii.reshape(-1, 1)
