"""Bounds on squared distances: a float32 matrix product filters, float64 differences decide.

Rejecting and matching (RS-IMLE, arXiv 2409.17439, section 4) only compare distances. The expansion
|p|^2 - 2 p.q + |q|^2 gives a block of squared distances by one matrix product, but its last bits depend on the shape of
the block, on the library and on cancellation. So the product is only a filter with a proven error band. Within the band
`squared_distances` decides; its bits depend on the two points alone.
"""

from collections.abc import Callable, Iterator
from functools import cached_property

import torch
from torch import Tensor

from errors import UserError
from models.precision import true_fp32

BLOCK_POINTS = 8192  # most columns of one matrix product; large blocks, because each block has a fixed cost
BLOCK_PAIRS = 2**20  # at most 4 MiB of float32 bounds, so that they stay in the caches
BLOCK_FEWEST = 1024  # at least this many columns, even beyond BLOCK_PAIRS: with fewer the matrix product is slow
BLOCK_ELEMENTS = 2**23  # at most 32 MiB of float32 features, in any case: beyond that malloc returns new pages every time
LARGEST_NORM = 1e18  # squared distances of larger features could overflow float32
SLICE = 2048  # longest sum that the library computes: its error grows with its length
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def as_features(points: Tensor, name: str, like: Tensor | None = None) -> Tensor:
    """Return `points` as float32 (N, D) without gradient, on the device of `like`.

    Raises ValueError if they are not floating-point (N, D), or not as wide as `like`; the error calls them `name`.
    """
    if points.ndim != 2 or not points.is_floating_point():
        raise ValueError(f"{name} must be a floating-point (N, D) tensor, not {points.dtype} {tuple(points.shape)}")
    if like is not None and points.shape[1] != like.shape[1]:
        raise ValueError(f"{name} have {points.shape[1]} dimensions where {like.shape[1]} were expected")
    return points.detach().to(device=None if like is None else like.device, dtype=torch.float32)


def check_finite(norms: Tensor, name: str) -> None:
    """Raise UserError unless every norm (N,) is finite and small enough to square; one host synchronisation."""
    if not bool((norms < LARGEST_NORM).all()):  # False for NaN too
        raise UserError(
            f"{name} hold NaN, infinity or values beyond {LARGEST_NORM:g}, so their distances "
            "mean nothing; if they come from the generator, its training has diverged"
        )


def finite_features(points: Tensor, name: str, like: Tensor | None = None) -> Tensor:
    """Return `as_features` of `points`. Raises UserError if one is not finite."""
    points = as_features(points, name, like)
    check_finite(torch.linalg.vector_norm(points, dim=1), name)
    return points


def block_size(width: int, rows: int) -> int:
    """Return how many points of `width` dimensions one matrix product with `rows` others should take."""
    fitting = max(BLOCK_FEWEST, BLOCK_PAIRS // max(1, rows))
    return max(1, min(BLOCK_POINTS, fitting, BLOCK_ELEMENTS // max(1, width)))


def blocks(points: Tensor, rows: int) -> Iterator[tuple[int, Tensor]]:
    """Yield (index of its first point, block) for blocks of `points` (N, D) that fit one matrix product with `rows` others."""
    step = block_size(points.shape[1], rows)
    for first in range(0, len(points), step):
        yield first, points[first : first + step]


def tile_rows(points: Tensor) -> int:
    """Return how many rows of `points` (N, D) an elementwise pass should take: as many as fit a CPU's cache, more on a GPU."""
    return max(1, (2**17 if points.device.type == "cpu" else 2**24) // max(1, points.shape[1]))


def squared_distances(queries: Tensor, points: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return |queries[rows] - points[columns]|^2 in float64, (pairs,).

    This is the project's definition of a distance: features in float32; differences, squares and sums in float64. The sum
    adds the upper half of the terms to the lower half until one is left. A library's reduction may change its order with
    the shape; this order is fixed, so the bits are the same in every chunk and on every device.
    """
    step = tile_rows(points)
    squared = torch.empty(len(rows), dtype=torch.float64, device=points.device)
    for first in range(0, len(rows), step):
        part = slice(first, first + step)
        terms = queries.index_select(0, rows[part]).double()  # (tile, D); several times faster than queries[rows]
        terms -= points.index_select(0, columns[part])
        terms.mul_(terms)
        width = terms.shape[1]
        while width > 1:
            half = (width + 1) // 2
            terms[:, : width - half].add_(terms[:, half:width])
            width = half
        squared[part] = terms[:, 0]
    return squared


def slices(dim: int) -> list[slice]:
    """Return the slices of `dim` dimensions that are summed one by one."""
    return [slice(first, first + SLICE) for first in range(0, dim, SLICE)]


def squared_norms(points: Tensor) -> Tensor:
    """Return |p|^2 of each row of `points` (N, D), (N,), summed in slices."""
    return sum(torch.linalg.vector_norm(points[:, part], dim=1).square() for part in slices(points.shape[1]))


class Queries:
    """Points (n, D) to compare with many blocks, and the origin of the arithmetic.

    If the queries' mean is far from zero compared with their spread, queries and blocks are centred on it, because a
    common offset widens the error band. Otherwise the band gains too little to pay for a centred copy of every block.
    Raises UserError, which calls the points `name`, if one is not finite.
    """

    def __init__(self, points: Tensor, name: str):
        check_finite(torch.linalg.vector_norm(points, dim=1), name)
        mean = points.mean(0)  # (D,)
        spread = torch.linalg.vector_norm(points - mean, dim=1).max()
        self.points = points  # (n, D)
        self.origin = mean if bool(mean.norm() > 2 * spread) else None
        self.rows, self.squares = self.prepared(torch.float32)  # (n, D), (n,)
        self.reach = self.squares.max().sqrt()

    def prepared(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the points relative to the origin, (n, D), and their squared norms (n,)."""
        rows = self.relative(self.points, dtype)
        return rows, squared_norms(rows)

    def relative(self, points: Tensor, dtype: torch.dtype) -> Tensor:
        """Return `points` (N, D) minus the origin."""
        return points.to(dtype) if self.origin is None else points.to(dtype) - self.origin


class Bounds:
    """Bounds low <= |q_i - p_j|^2 <= low + width for n queries and one block of c points.

    Let u be the unit roundoff, and q, p relative to the origin. In any order of summation the error of a dot product of
    length D is at most D u |q||p|, and that of a squared norm at most D u |p|^2 (Higham, Accuracy and Stability of
    Numerical Algorithms, section 3.1). Summed in slices of length S, the factor D becomes S + 2 D/S. Centring, the other
    additions, and rounding the number that low is compared with add less than 32 u (|q| + |p|)^2. So the band is
    (S + 2 D/S + 32) u (|q| + |p|)^2, times 1.1 for errors of second order, plus a term for underflow. Outside the band a
    comparison agrees with `squared_distances`.

    Raises UserError, which calls the points `name`, if one is not finite. Attributes: points (c, D); low (n, c); width
    (c,), the same for all queries, so that it costs no pass over low.
    """

    def __init__(self, queries: Queries, points: Tensor, name: str, dtype: torch.dtype = torch.float32):
        self.queries, self.points, self.name = queries, points, name
        with true_fp32(points.device):
            rows, heights = (queries.rows, queries.squares) if dtype == torch.float32 else queries.prepared(dtype)
            columns = queries.relative(points, dtype)  # (c, D)
            squares = squared_norms(columns)  # (c,)
            check_finite(squares.sqrt(), name)
            dim, roundoff = points.shape[1], torch.finfo(dtype).eps / 2
            length = min(dim, SLICE) + 2 * (dim // SLICE) + 32
            band = 1.1 * length * roundoff * (queries.reach + squares.sqrt()) ** 2 + 4 * dim * SMALLEST_NORMAL
            self.low = heights[:, None] + (squares - band)  # (n, c)
            for part in slices(dim):
                self.low.addmm_(rows[:, part], columns[:, part].T, alpha=-2)
        self.width = 2 * band

    def estimates(self, columns: Tensor) -> Tensor:
        """Return approximate squared distances (n, chosen) of the block's points numbered `columns` (chosen,).

        They lie a tenth of the width above the middle of the bounds. Rounding errors are smaller than that in practice, so
        an equal distance does not count as smaller.
        """
        return self.low.index_select(1, columns).add_(self.width[columns], alpha=0.6)

    @cached_property
    def sharper(self) -> "Bounds":
        """Return the same bounds from a float64 product: about twice the work, a band 5e8 times narrower."""
        return Bounds(self.queries, self.points, self.name, torch.float64)

    def settle(self, doubtful: Callable[["Bounds"], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return `doubtful` of these bounds, or of the sharper bounds if it returns many pairs.

        `doubtful` returns the rows and columns of undecided pairs first. If the generator has collapsed, a whole pool lies
        within the float32 band; one float64 product is then much faster than computing the pairs one by one.
        """
        found = doubtful(self)
        crowd = self.low.numel() // 32 + len(self.low)
        return found if len(found[0]) <= crowd else doubtful(self.sharper)


def not_positive(margins: Tensor) -> tuple[Tensor, Tensor]:
    """Return the (row, column) pairs of `margins` (n, c) that are 0 or less, in row order; fast if they lie in few columns."""
    columns = (margins.amin(0) <= 0).nonzero()[:, 0]
    rows, slots = (margins.index_select(1, columns) <= 0).nonzero(as_tuple=True)
    return rows, columns[slots]
