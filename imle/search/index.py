"""The neighbour searches by name, and what they have in common: `imle.search` in the config."""

from typing import Protocol

import torch
from torch import Tensor

from errors import UserError
from imle.search.adapters import DciknnCudaIndex
from imle.search.dci import DCI
from imle.search.exact import ExactIndex

SEARCHES = ("exact", "dci", "dciknn_cuda")


class NeighbourIndex(Protocol):
    """Points to which the nearest ones of a query are looked up."""

    def add(self, points: Tensor) -> None:
        """Append finite float32 points (N, d); may be called repeatedly, ids count on."""

    def query(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances float32 (n, k), ascending, and ids int64 (n, k); a missing neighbour is (inf, -1)."""


def open_index(search: str, generator: torch.Generator | None = None) -> NeighbourIndex:
    """Create an empty index; `generator` seeds the random directions of `dci`.

    Raises UserError if there is no such search or if it is not installed.
    """
    if search == "exact":
        return ExactIndex()
    if search == "dci":
        return DCI(generator=generator)
    if search == "dciknn_cuda":
        return DciknnCudaIndex()
    raise UserError(f"imle.search: no search is called {search!r}; choose one of {', '.join(SEARCHES)}")
