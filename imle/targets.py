"""Targets: the training images' maps and search features. Maps that exceed loss.cache_gb are computed at every step."""

import torch
from torch import Tensor, nn

from models.pixels import to_float
from models.precision import true_fp32

BATCH = 16  # images embedded at once


class Targets:
    """Hold uint8 images (n, 3, H, W), their maps and their search features."""

    def __init__(self, images: Tensor, embedding: nn.Module, search_features: nn.Module, cache_bytes: float):
        """Embed all images; keep their maps if they fit into `cache_bytes`."""
        self.images, self.embedding = images, embedding
        self.features = embed(search_features, images)  # (n, D)
        one = embedding(to_float(images[:1]))
        self.map_bytes = len(images) * sum(m.numel() * m.element_size() for m in one)
        self.cached: list[Tensor] | None = None
        if self.map_bytes <= cache_bytes:
            parts = [embedding(to_float(batch)) for batch in images.split(BATCH)]
            self.cached = [torch.cat(level) for level in zip(*parts)]

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def maps(self, index: Tensor) -> list[Tensor]:
        """Return the maps [(B, C, H, W), ...] of the images numbered `index` (B,)."""
        if self.cached is None:
            return self.embedding(to_float(self.images[index]))
        return [level[index] for level in self.cached]


@torch.no_grad()
def embed(search_features: nn.Module, images: Tensor) -> Tensor:
    """Return the search features (n, D), in true float32, of uint8 images (n, 3, H, W)."""
    with true_fp32(images.device):
        return torch.cat([search_features(to_float(batch)) for batch in images.split(BATCH)])
