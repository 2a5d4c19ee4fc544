"""Search features phi: what candidates and targets are compared by when rejecting and matching.

The maps of an embedding are flattened into one vector, or folded into a short random sketch without ever forming
that vector: at 256 pixels LPIPS has 8 million coordinates, and a dense 800-column projection of them would take 26 GB.
Coordinate c is multiplied by a random sign and added to bucket c mod k (a count sketch, Charikar et al. 2002, with
fixed, equally filled buckets). Squared distances are unbiased, with a relative standard deviation of about sqrt(2/k).
"""

import torch
from torch import Tensor, nn

from imle import rng


class SearchFeatures(nn.Module):
    """Map float images (B, 3, H, W) to features (B, D), float32."""

    def __init__(self, embedding: nn.Module, *, sketch_dim: int, normalise: bool, seed: int):
        super().__init__()
        self.embedding = embedding
        self.sketch_dim = sketch_dim
        self.normalise = normalise
        self.seed = seed
        self.signs: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        maps = [m.flatten(1).float() for m in self.embedding(images)]
        features = self._sketch(maps) if self.sketch_dim else torch.cat(maps, dim=1)  # (B, D)
        if self.normalise:
            features = features / features.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return features

    def _sketch(self, maps: list[Tensor]) -> Tensor:
        if not self.signs:
            self.signs = [self._draw_signs(level, m.shape[1]).to(m.device) for level, m in enumerate(maps)]
        k = self.sketch_dim
        sketch = maps[0].new_zeros(len(maps[0]), k)
        for vector, signs in zip(maps, self.signs):
            signed = vector * signs
            whole = signed.shape[1] // k * k
            sketch += signed[:, :whole].view(len(signed), -1, k).sum(dim=1)
            sketch[:, : signed.shape[1] - whole] += signed[:, whole:]
        return sketch

    def _draw_signs(self, level: int, length: int) -> Tensor:
        coins = torch.randint(2, (length,), dtype=torch.int8, generator=rng.generator(self.seed, "sketch", level))
        return coins * 2 - 1
