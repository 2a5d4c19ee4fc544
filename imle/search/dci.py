"""Prioritized Dynamic Continuous Indexing in torch operations (Li & Malik, arXiv 1512.00442 and 1703.00440).

A composite index is m simple indices, each an order of the points along one random direction u. Its priority queue
hands out a point once it was met along all m directions, that is in ascending order of max_j |u_j.(p - q)|: the k0
candidates of a composite index are the k0 points for which this maximum is smallest, ties to the lowest id. Searching
for them by tiles of the pool is what a GPU does well, and needs no trees.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, sqrt

import torch
from torch import Tensor

from imle.search.bounds import BLOCK_POINTS, blocks, finite_features, squared_distances, tile_rows
from imle.search.exact import Nearest, append, joined
from models.precision import true_fp32

TABLE_ELEMENTS = 2**22  # size of a (queries, points) table: 16 MiB of float32
UNDERFLOW = 1e-16  # below this a float32 distance may have lost squares


@dataclass(frozen=True)
class Setting:
    """How much DCI looks at."""

    num_composite: int  # L of the paper: more find what one misses
    num_simple: int  # m of the paper: more make the order along a composite index truer
    k0: Callable[[int], int]  # points indexed -> candidates of a composite index


SETTINGS = {
    "default": Setting(4, 40, lambda num_points: ceil(4 * sqrt(num_points))),
    "paper": Setting(2, 7, lambda num_points: ceil(0.27 * num_points)),
}


class DCI:
    """A neighbour index that measures only the union of its composite indices' candidates.

    The candidates are exactly those of the paper's algorithm with its bound k1 on visited points removed. With
    k0 >= N the answer is exact. Directions come from `generator` (None: a fixed seed) when the first points arrive.
    """

    def __init__(self, setting: Setting = SETTINGS["default"], *, generator: torch.Generator | None = None):
        self.setting = setting
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        self.points: Tensor | None = None  # (N, d)
        self.keys: Tensor | None = None  # (L, N, m)

    @torch.no_grad()
    def add(self, points: Tensor) -> None:
        """Append finite float32 points (N, d)."""
        points = finite_features(points, "points", like=self.points)
        if self.points is None:
            self._draw_directions(points)
        keys = self.project(points)  # (L, M, m)
        self.points = append(self.points, points)
        self.keys = keys if self.keys is None else torch.cat((self.keys, keys), 1)

    def _draw_directions(self, points: Tensor) -> None:
        """Draw unit vectors, and fix the origin of projections near the data: a common offset would cost digits."""
        shape = (points.shape[1], self.setting.num_composite * self.setting.num_simple)
        directions = torch.randn(shape, generator=self.generator, device=self.generator.device)
        self.directions = (directions / directions.norm(dim=0)).to(points.device)  # (d, L m)
        self.origin = points.mean(0) if len(points) else points.new_zeros(shape[0])  # (d,)

    def project(self, points: Tensor) -> Tensor:
        """Return the projections u_jl.p of points (N, d), up to a constant each: (L, N, m)."""
        num_composite, num_simple = self.setting.num_composite, self.setting.num_simple
        keys = points.new_empty((num_composite, len(points), num_simple))
        for first, block in blocks(points, self.directions.shape[1]):
            with true_fp32(points.device):
                projected = (block - self.origin) @ self.directions  # (block, L m)
            keys[:, first : first + len(block)] = projected.view(-1, num_composite, num_simple).transpose(0, 1)
        return keys

    @torch.no_grad()
    def candidates(self, queries: Tensor) -> Tensor:
        """Return the candidates of every composite index for queries (n, d): ascending ids int64 (n, L, min(k0, N))."""
        keys = self.project(queries)  # (L, n, m)
        k0 = min(self.setting.k0(len(self.points)), len(self.points))
        return torch.stack([smallest(mine, points, k0) for mine, points in zip(keys, self.keys)], 1)

    @torch.no_grad()
    def query(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances float32 (n, k), ascending, and ids int64 (n, k); a missing neighbour is (inf, -1)."""
        if self.points is None or len(self.points) == 0:
            return Nearest(len(queries), k, queries.device).answer()
        queries = finite_features(queries, "queries", like=self.points)
        k0 = min(self.setting.k0(len(self.points)), len(self.points))
        step = max(1, TABLE_ELEMENTS // (self.setting.num_composite * max(1, k0)))
        return joined([self._nearest_candidates(part, k) for part in queries.split(step)])

    def _nearest_candidates(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Return the k nearest of the candidates of each query (n, d), by true distance."""
        ids = self.candidates(queries).flatten(1).sort(1).values  # (n, L k0)
        once = torch.ones_like(ids, dtype=torch.bool)
        once[:, 1:] = ids[:, 1:] != ids[:, :-1]
        rows, slots = once.nonzero(as_tuple=True)
        rough = torch.full(ids.shape, torch.inf, device=ids.device)  # (n, L k0) float32 distances
        rough[rows, slots] = rough_distances(queries, self.points, rows, ids[rows, slots])
        # Each is a sum of squares, right to (d + 8) roundoffs of itself: only what may be among the k best is measured.
        band = 1 + 4 * (self.points.shape[1] + 8) * torch.finfo(torch.float32).eps
        worst = rough.topk(min(k, rough.shape[1]), largest=False).values[:, -1:] * band + UNDERFLOW
        rows, slots = ((rough <= worst) & once).nonzero(as_tuple=True)
        found = Nearest(len(queries), k, queries.device)
        found.merge(rows, ids[rows, slots], squared_distances(queries, self.points, rows, ids[rows, slots]))
        return found.answer()


def smallest(queries: Tensor, keys: Tensor, k0: int) -> Tensor:
    """Return the k0 points of one composite index met first from each query, as ascending ids int64 (n, k0).

    `queries` (n, m) and `keys` (N, m) are projections; a running choice over tiles of the points keeps the memory at
    a few tables of TABLE_ELEMENTS.
    """
    parts = [queries.new_empty((0, k0), dtype=torch.int64)]
    step = max(k0, BLOCK_POINTS)
    for part in queries.split(max(1, TABLE_ELEMENTS // (k0 + step))):
        gaps = part.new_empty((len(part), 0))
        ids = part.new_empty((len(part), 0), dtype=torch.int64)
        for first in range(0, len(keys), step):
            tile = keys[first : first + step]
            gaps = torch.cat((gaps, torch.cdist(part, tile, p=torch.inf)), 1)  # (part, kept + tile)
            ids = torch.cat((ids, torch.arange(first, first + len(tile), device=ids.device).expand(len(part), -1)), 1)
            if gaps.shape[1] > k0:
                chosen = first_smallest(gaps, k0)
                gaps, ids = gaps[chosen].view(len(part), k0), ids[chosen].view(len(part), k0)
        parts.append(ids)
    return torch.cat(parts)


def first_smallest(values: Tensor, k: int) -> Tensor:
    """Mark the k smallest of each row of `values` (n, c), the leftmost ones of those equal to the k-th."""
    kth = values.topk(k, largest=False).values[:, -1:]  # (n, 1)
    less, equal = values < kth, values == kth
    return less | (equal & (equal.cumsum(1) <= k - less.sum(1, keepdim=True)))


def rough_distances(queries: Tensor, points: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return |queries[rows] - points[columns]| with float32 sums, (pairs,)."""
    step = tile_rows(points)
    rough = torch.empty(len(rows), device=points.device)
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        difference = points.index_select(0, columns[part]).sub_(queries.index_select(0, rows[part]))  # (tile, d)
        rough[part] = torch.linalg.vector_norm(difference, dim=1)
    return rough
