"""Prioritized Dynamic Continuous Indexing in torch operations (Li & Malik, arXiv 1512.00442 and 1703.00440).

A composite index consists of m simple indices. A simple index orders the points along one random direction u. The
composite index's priority queue returns a point once it was visited along all m directions, that is in ascending order
of max_j |u_j.(p - q)|. So its k0 candidates are the k0 points with the smallest such maximum (of equal ones the lowest
ids). They are found here without trees, over tiles of the pool, which is fast on a GPU.
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
    """The sizes of a DCI index."""

    num_composite: int  # L in the paper: one composite index finds neighbours that another misses
    num_simple: int  # m in the paper: with more, the order along a composite index is nearer to the true one
    k0: Callable[[int], int]  # number of points -> candidates per composite index


SETTINGS = {
    "default": Setting(4, 40, lambda num_points: ceil(4 * sqrt(num_points))),
    "paper": Setting(2, 7, lambda num_points: ceil(0.27 * num_points)),
}


class DCI:
    """A neighbour index that computes distances only to its composite indices' candidates.

    The candidates are exactly those of the paper's algorithm without its bound k1 on visited points. If k0 >= N the result
    is exact. The first `add` draws the directions from `generator` (None: a fixed seed).
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
        """Draw unit vectors, and set the origin to the points' mean, because a common offset would cost digits."""
        shape = (points.shape[1], self.setting.num_composite * self.setting.num_simple)
        directions = torch.randn(shape, generator=self.generator, device=self.generator.device)
        self.directions = (directions / directions.norm(dim=0)).to(points.device)  # (d, L m)
        self.origin = points.mean(0) if len(points) else points.new_zeros(shape[0])  # (d,)

    def project(self, points: Tensor) -> Tensor:
        """Return the projections u_jl.p of `points` (N, d), each up to a constant: (L, N, m)."""
        num_composite, num_simple = self.setting.num_composite, self.setting.num_simple
        keys = points.new_empty((num_composite, len(points), num_simple))
        for first, block in blocks(points, self.directions.shape[1]):
            with true_fp32(points.device):
                projected = (block - self.origin) @ self.directions  # (block, L m)
            keys[:, first : first + len(block)] = projected.view(-1, num_composite, num_simple).transpose(0, 1)
        return keys

    @torch.no_grad()
    def candidates(self, queries: Tensor) -> Tensor:
        """Return the candidates of every composite index for `queries` (n, d): ascending ids int64 (n, L, min(k0, N))."""
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
        """Return distances (n, k) and ids (n, k) of each query's k nearest candidates, by true distance."""
        ids = self.candidates(queries).flatten(1).sort(1).values  # (n, L k0)
        once = torch.ones_like(ids, dtype=torch.bool)
        once[:, 1:] = ids[:, 1:] != ids[:, :-1]
        rows, slots = once.nonzero(as_tuple=True)
        rough = torch.full(ids.shape, torch.inf, device=ids.device)  # (n, L k0) float32 distances
        rough[rows, slots] = rough_distances(queries, self.points, rows, ids[rows, slots])
        # The relative error of a rough distance is at most d + 8 roundoffs: true distances are computed only within this band.
        band = 1 + 4 * (self.points.shape[1] + 8) * torch.finfo(torch.float32).eps
        worst = rough.topk(min(k, rough.shape[1]), largest=False).values[:, -1:] * band + UNDERFLOW
        rows, slots = ((rough <= worst) & once).nonzero(as_tuple=True)
        found = Nearest(len(queries), k, queries.device)
        found.merge(rows, ids[rows, slots], squared_distances(queries, self.points, rows, ids[rows, slots]))
        return found.answer()


def smallest(queries: Tensor, keys: Tensor, k0: int) -> Tensor:
    """Return each query's k0 candidates in one composite index, as ascending ids int64 (n, k0).

    `queries` (n, m) and `keys` (N, m) are projections. The points are processed in tiles, so that memory stays at a few
    tables of TABLE_ELEMENTS.
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
    """Return a mask (n, c) of the k smallest of each row of `values` (n, c); of equal values the leftmost count."""
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
