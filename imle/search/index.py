"""The neighbour searches by name (setting `imle.search`), and their common interface."""

from typing import Protocol

import torch
from torch import Tensor

from errors import UserError
from imle.search.adapters import DciknnCudaIndex
from imle.search.dci import DCI
from imle.search.exact import ExactIndex

SEARCHES = ("exact", "dci", "dciknn_cuda")


class NeighbourIndex(Protocol):
    """An index of points that finds the nearest points of a query."""

    def add(self, points: Tensor) -> None:
        """Append finite float32 points (N, d); ids count all points in the order of addition."""

    def query(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances float32 (n, k), ascending, and ids int64 (n, k); a missing neighbour is (inf, -1)."""


def open_index(search: str, generator: torch.Generator | None = None) -> NeighbourIndex:
    """Return an empty index; `generator` draws the random directions of `dci`.

    Raises UserError if `search` is unknown or not installed.
    """
    if search == "exact":
        return ExactIndex()
    if search == "dci":
        return DCI(generator=generator)
    if search == "dciknn_cuda":
        return DciknnCudaIndex()
    raise UserError(f"imle.search: no search is called {search!r}; choose one of {', '.join(SEARCHES)}")
