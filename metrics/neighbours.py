"""Perceptual distances of samples to images, and the variety of the samples around each training image.

Both come from one pass over the samples. Perceptual distances, such as LPIPS, are squared distances of embeddings, so the
pass keeps sums and no samples.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from metrics.images import digest
from metrics.interface import Context, Value, mean
from models.perceptual import Embedding
from models.pixels import to_float
from models.precision import true_fp32

QUERY_BATCH = 16  # queries embedded at once, at most
MAP_BYTES = 256e6  # the most that the maps of the images take that are embedded at once: 8 images at 256 pixels with LPIPS
MOST_CLUSTERS = 500  # training images; with more, intra-LPIPS (a few-shot measure) takes too much memory


class Recall(NamedTuple):
    """Perceptual distances of samples to n training images, then to h held-out images."""

    distances: Tensor  # (M, n + h)


def work(context: Context) -> int:
    """Return the work in passes of one image through one network."""
    return context.samples.count if len(context.reals.images) <= MOST_CLUSTERS else 0


def measure(context: Context) -> list[Value]:
    """Return intra-LPIPS; leave a `Recall` in the material."""
    reals, n = context.reals, len(context.reals.images)
    if n > MOST_CLUSTERS:
        return [Value(None, f"a few-shot measure, for at most {MOST_CLUSTERS} training images")]
    queries = torch.cat([reals.images, reals.heldout[reals.queries]])
    found = context.sweep("neighbours", lambda embed: NeighbourPass(embed, context.device, queries, n), queries=digest(queries), clusters=n)
    context.material.append(Recall(found["distances"]))
    return [intra_distance(found["spread"], found["members"])]


def intra_distance(spread: Tensor, members: Tensor) -> Value:
    """Return intra-LPIPS: the mean distance of two samples with the same nearest training image (Ojha et al. 2021).

    `spread` and `members` (n,) come from `NeighbourPass`. The mean leaves out clusters of fewer than two samples; the note
    counts them.
    """
    kept = spread[members >= 2]
    if not len(kept):
        return Value(None, "no training image has two samples nearest to it")
    left_out = len(spread) - len(kept)
    return mean(kept)._replace(note=f"{left_out} of {len(spread)} training images have fewer than two samples nearest to them")


class NeighbourPass:
    """Measure distances of samples to some images, and among the samples nearest to each training image."""

    def __init__(self, embed: Embedding, device: str, queries: Tensor, num_clusters: int):
        """`queries` are uint8 (Q, 3, H, W); the first `num_clusters` are the training images, the centres of clusters."""
        self.embed, self.device, self.num_clusters = embed.to(device), torch.device(device), num_clusters
        one = self._maps(queries[:1])
        self.batch = max(1, int(MAP_BYTES / sum(maps.nbytes for maps in one)))  # images embedded at once
        self.queries = [maps.new_empty(len(queries), maps.shape[1]) for maps in one]  # [(Q, D), ...]
        self.lengths = torch.zeros(len(queries), device=device)
        size = min(self.batch, QUERY_BATCH)
        for first in range(0, len(queries), size):
            rows = slice(first, first + size)
            maps = self._maps(queries[rows])
            self.lengths[rows] = squared_lengths(maps)
            for level, found in zip(self.queries, maps):
                level[rows] = found
        self.sums = [torch.zeros_like(maps[:num_clusters]) for maps in self.queries]
        self.squares = torch.zeros(num_clusters, device=device)
        self.members = torch.zeros(num_clusters, dtype=torch.int64, device=device)
        self.distances: list[Tensor] = []

    def add(self, images: Tensor) -> None:
        """Add uint8 samples (B, 3, H, W), each to the cluster of its nearest training image."""
        for part in images.split(self.batch):
            self._add(part)

    @torch.no_grad()
    def _add(self, images: Tensor) -> None:
        maps = self._maps(images)
        with true_fp32(self.device):
            products = sum(a @ b.T for a, b in zip(maps, self.queries))  # (B, Q)
        distances = (squared_lengths(maps)[:, None] + self.lengths - 2 * products).clamp(min=0)
        self.distances.append(distances.cpu())
        nearest = distances[:, : self.num_clusters].argmin(dim=1)
        # Relative to the training image: distances between samples stay the same and lose no digits.
        for sums, offsets, centres in zip(self.sums, maps, self.queries):
            offsets -= centres[nearest]  # in place: the maps are not used again
            sums.index_add_(0, nearest, offsets)
        self.squares.index_add_(0, nearest, squared_lengths(maps))
        self.members.index_add_(0, nearest, torch.ones_like(nearest))

    def result(self) -> dict[str, Tensor]:
        """Return `distances` (M, Q), and per training image its cluster's `members` and `spread` (n,).

        The spread is the mean distance of two samples of the cluster; NaN if it has fewer than two.
        """
        count = self.members.float()
        gap = torch.cat([squared_lengths(part) for part in zip(*(sums.split(QUERY_BATCH) for sums in self.sums))])
        # The squared distances of all n (n - 1) / 2 pairs sum to n sum |a|^2 - |sum a|^2.
        spread = 2 * (self.squares - gap / count) / (count - 1)
        spread = torch.where(count >= 2, spread.clamp(min=0), torch.nan)
        return {"distances": torch.cat(self.distances), "members": self.members.cpu(), "spread": spread.cpu()}

    @torch.no_grad()
    def _maps(self, images: Tensor) -> list[Tensor]:
        with true_fp32(self.device):
            maps = self.embed(to_float(images.to(self.device)))
            return [maps.pop(0).flatten(1) for _ in range(len(maps))]  # flattening copies; this keeps one level twice, and not all


def squared_lengths(maps: Iterable[Tensor]) -> Tensor:
    """Return the squared length (B,) of vectors that lie in parts [(B, D), ...]."""
    return torch.stack([part.square().sum(dim=1) for part in maps]).sum(dim=0)
