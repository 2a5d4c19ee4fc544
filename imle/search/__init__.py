"""Nearest-neighbour search: reject the candidates too near to any target, match each target to its nearest survivor.

`PoolMatcher` solves RS-IMLE's inner problem (arXiv 2409.17439, algorithm 1). `nearest` and the indexes answer plain
nearest-neighbour queries. Needs only torch, except for the optional index in `adapters`.
"""

from imle.search.dci import DCI
from imle.search.exact import ExactIndex, clearance, distances, nearest
from imle.search.index import SEARCHES, NeighbourIndex, open_index
from imle.search.matcher import Match, PoolMatcher

__all__ = [
    "DCI",
    "SEARCHES",
    "ExactIndex",
    "Match",
    "NeighbourIndex",
    "PoolMatcher",
    "clearance",
    "distances",
    "nearest",
    "open_index",
]
