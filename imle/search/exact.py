"""Exact nearest neighbours by streaming over the points: the default search, and the reference for the others.

Matching in IMLE (Li & Malik, arXiv 1809.09087, algorithm 1) is a nearest-neighbour query per image.
"""

import torch
from torch import Tensor

from imle.search.bounds import Bounds, Queries, as_features, blocks, finite_features, not_positive, squared_distances


class Nearest:
    """The k nearest points so far of n queries, by float64 distance, then by lowest id; memory O(n k)."""

    def __init__(self, num: int, k: int, device: torch.device):
        self.squared = torch.full((num, k), torch.inf, dtype=torch.float64, device=device)  # (n, k) ascending
        self.ids = torch.full((num, k), -1, dtype=torch.int64, device=device)  # (n, k) -1 = missing

    def answer(self) -> tuple[Tensor, Tensor]:
        """Return distances float32 (n, k) and ids int64 (n, k)."""
        return self.squared.sqrt().float(), self.ids

    def update(self, bounds: Bounds, first: int, hidden: Tensor | None = None) -> None:
        """Add one block of points, whose ids start at `first`, above all earlier ids.

        The block's points numbered `hidden` (h,) are ignored; their bounds become infinite.
        """
        rows, columns = bounds.settle(lambda bounds: self._contenders(bounds, hidden))
        squared = squared_distances(bounds.queries.points, bounds.points, rows, columns)
        self.merge(rows, columns + first, squared)

    def _contenders(self, bounds: Bounds, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the (row, column) pairs that may be among their row's k nearest."""
        low, k = bounds.low, self.squared.shape[1]  # (n, c)
        if hidden is not None:
            low.index_fill_(1, hidden, torch.inf)  # in place: a copy of the block would take several times as long
        ceiling = self.squared[:, -1].clamp(max=torch.finfo(low.dtype).max).to(low.dtype)  # (n,) finite: only hidden points have inf
        lowest = low.amin(1)  # (n,)
        live = (lowest <= ceiling).nonzero()[:, 0]  # only a few rows after the first blocks
        if len(live) == 0:
            return live, live
        low, ceiling = low.index_select(0, live) if len(live) < len(low) else low, ceiling[live]  # no copy if all rows are live
        if low.shape[1] >= k:
            kth = lowest[live] if k == 1 else low.topk(k, largest=False).values[:, -1]
            ceiling = torch.minimum(ceiling, kth + bounds.width.max())
        rows, columns = not_positive(low - ceiling[:, None])
        return live[rows], columns

    def merge(self, rows: Tensor, ids: Tensor, squared: Tensor) -> None:
        """Add pairs (pairs,) with their float64 squared distances, ordered by row and by id within a row."""
        if len(rows) == 0:
            return
        counts = torch.bincount(rows, minlength=len(self.ids))  # (n,)
        slot = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        shape = (len(counts), int(counts.max()))
        new_squared = self.squared.new_full(shape, torch.inf)
        new_ids = self.ids.new_full(shape, -1)
        new_squared[rows, slot] = squared
        new_ids[rows, slot] = ids
        # A stable sort: at equal distance the left entry, which has the lower id, stays first.
        ordered, order = torch.cat((self.squared, new_squared), 1).sort(dim=1, stable=True)
        k = self.squared.shape[1]
        self.squared = ordered[:, :k].contiguous()
        self.ids = torch.cat((self.ids, new_ids), 1).gather(1, order[:, :k])


@torch.no_grad()
def nearest(queries: Tensor, points: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
    """Return the k nearest of `points` (N, D) for each of `queries` (n, D), exactly.

    Returns distances float32 (n, k), ascending, and row numbers int64 (n, k), on the device of `queries`. Of equal
    distances the lower row number comes first; if k > N, (inf, -1) fills the rest. Extra memory O(block (n + D)). Raises
    UserError if a feature is not finite.
    """
    queries = as_features(queries, "queries")
    points = as_features(points, "points", like=queries)
    answers = [Nearest(0, k, queries.device).answer()]
    for _, rows in blocks(queries, len(points)):
        prepared, found = Queries(rows, "queries"), Nearest(len(rows), k, queries.device)
        for first, columns in blocks(points, len(rows)):
            found.update(Bounds(prepared, columns, "points"), first)
        answers.append(found.answer())
    return joined(answers)


def joined(answers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Concatenate the answers (distances, ids) to consecutive queries."""
    distance, ids = zip(*answers)
    return torch.cat(distance), torch.cat(ids)


def clearance(features: Tensor, targets: Tensor) -> Tensor:
    """Return the exact distance of each candidate (chunk, D) to its nearest target (n, D), float32 (chunk,).

    A quantile of these distances is the epsilon that rejects this share.
    """
    return nearest(features, targets)[0][:, 0]


@torch.no_grad()
def distances(features: Tensor, targets: Tensor) -> Tensor:
    """Return all distances between candidates (chunk, D) and targets (n, D), float32 (chunk, n).

    Computed by a float64 product. Let r be the sum of the two points' norms after centring. The error of a squared distance
    is less than 3e-13 r^2, so a distance above 0.002 r is right to float32 rounding, and a distance of 0 may come out as up
    to 6e-7 r. Use them for quantiles, not to decide rejection. Raises UserError if a feature is not finite.
    """
    targets = as_features(targets, "targets")
    features = as_features(features, "candidate features", like=targets)
    prepared = Queries(targets, "targets")
    parts = [features.new_empty((0, len(targets)))]
    for _, block in blocks(features, len(targets)):
        bounds = Bounds(prepared, block, "candidate features", torch.float64)
        middle = bounds.low + bounds.width / 2  # (n, block)
        parts.append(middle.clamp_(min=0).sqrt_().float().T)
    return torch.cat(parts)


class ExactIndex:
    """A neighbour index that compares every query with every point."""

    def __init__(self) -> None:
        self.points: Tensor | None = None  # (N, d)

    def add(self, points: Tensor) -> None:
        """Append finite float32 points (N, d)."""
        self.points = append(self.points, finite_features(points, "points", like=self.points))

    def query(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances float32 (n, k), ascending, and ids int64 (n, k); a missing neighbour is (inf, -1)."""
        return nearest(queries, queries[:0] if self.points is None else self.points, k)


def append(points: Tensor | None, more: Tensor) -> Tensor:
    """Return `points` (N, d), if any, followed by `more` (M, d)."""
    return more if points is None else torch.cat((points, more))


def measured(queries: Tensor, points: Tensor, ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k nearest of the points that a library found, by true distance; `ids` (n, any) are their ids.

    Ids out of range count as missing. Returns distances float32 (n, k) and ids int64 (n, k); a missing neighbour is (inf, -1).
    """
    found = Nearest(len(queries), k, queries.device)
    ids = ids.sort(1).values
    rows, slots = ((ids >= 0) & (ids < len(points))).nonzero(as_tuple=True)
    ids = ids[rows, slots]
    found.merge(rows, ids, squared_distances(queries, points, rows, ids))
    return found.answer()
