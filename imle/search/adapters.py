"""The neighbour index of another library, which is imported only if a setting names it.

Points are centred first, because the library computes in float32. Its neighbours' distances are computed again in float64.
"""

import torch
from torch import Tensor

from errors import UserError
from imle.search.bounds import finite_features
from imle.search.exact import Nearest, append, measured


class DciknnCudaIndex:
    """The DCI authors' CUDA code (dciknn_cuda 0.1.11), called in a way that avoids its faults.

    It runs one thread per block (ts=1), because with more threads the blocks overwrite each other's results. It never asks
    for more neighbours than points. The library returns ids as float32, so there may be 2^24 points at most. The library
    accepts points only once, so they are passed at the first query after `add`.
    """

    MOST_POINTS = 2**24

    def __init__(self) -> None:
        try:
            import dciknn_cuda
        except ImportError as error:
            raise UserError(
                f"imle.search=dciknn_cuda: {error}; requirements.txt says how to build it (CUDA only), "
                "or choose imle.search=dci, which runs everywhere"
            ) from error
        if not torch.cuda.is_available():
            raise UserError("imle.search=dciknn_cuda: needs a CUDA GPU; choose imle.search=dci, which runs everywhere")
        self.library = dciknn_cuda
        self.points: Tensor | None = None  # (N, d)
        self.index = None

    def add(self, points: Tensor) -> None:
        """Append finite float32 points (N, d)."""
        self.points = append(self.points, finite_features(points, "points", like=self.points))
        self.index = None
        if len(self.points) > self.MOST_POINTS:
            raise UserError(f"imle.search=dciknn_cuda: takes {self.MOST_POINTS} points at most; choose imle.search=dci")

    def query(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances float32 (n, k), ascending, and ids int64 (n, k); a missing neighbour is (inf, -1)."""
        if self.points is None or len(self.points) == 0:
            return Nearest(len(queries), k, queries.device).answer()
        queries = finite_features(queries, "queries", like=self.points)
        if self.index is None:
            self.origin = self.points.mean(0)  # (d,)
            self.index = self.library.DCI(
                self.points.shape[1], num_comp_indices=2, num_simp_indices=7, ts=1, device=queries.device.index or 0
            )
            self.index.add((self.points - self.origin).contiguous())
        ids, _ = self.index.query((queries - self.origin).contiguous(), num_neighbours=min(k, len(self.points)))
        return measured(queries, self.points, ids.reshape(len(queries), -1).round().long(), k)
