"""Targets: the training images' maps and search features.

Maps are computed at every step if they exceed loss.cache_gb, and if the images are transparent: then every step has another background.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models.memory import memory_for
from models.pixels import CHANNELS, to_float
from models.precision import true_fp32

BATCH = 16  # images embedded at once
CPU_BYTES = 4e9  # the largest cache on a CPU with loss.cache_gb=auto


class Targets:
    """Hold uint8 images (n, C, H, W), their maps and their search features."""

    def __init__(self, images: Tensor, embedding: nn.Module, search_features: nn.Module, cache_gb: float | Literal["auto"]):
        """Embed all images in true float32; keep their maps if they fit into `cache_gb`, a setting of the loss. Raises UserError."""
        self.images, self.embedding = images, embedding
        with memory_for("the targets", f"set a smaller loss.cache_gb (now {cache_gb}; 0 keeps no maps)"), true_fp32(images.device):
            self.features = embed(search_features, images)  # (n, D)
            self.map_bytes = len(images) * sum(m.numel() * m.element_size() for m in embedding(to_float(images[:1])))
            self.most_bytes = _free_bytes(images.device) if cache_gb == "auto" else cache_gb * 1e9
            self.transparent = images.shape[1] == CHANNELS["rgba"]
            self.cached = _stacked(embedding, images) if self.map_bytes <= self.most_bytes and not self.transparent else None

    def __len__(self) -> int:
        return len(self.images)

    @torch.no_grad()
    def maps(self, index: Tensor, *background: Tensor) -> list[Tensor]:
        """Return the maps [(B, D, H, W), ...] of the images numbered `index` (B,), transparent ones over colours (B, 3) in [-1, 1]."""
        if self.cached is None:
            return self.embedding(to_float(self.images[index]), *background)
        return [level[index] for level in self.cached]


def embed(search_features: nn.Module, images: Tensor) -> Tensor:
    """Return the search features (n, D), in true float32, of uint8 images (n, C, H, W)."""
    with true_fp32(images.device):
        (features,) = _stacked(lambda batch: [search_features(batch)], images)
    return features


@torch.no_grad()
def _stacked(network: Callable[[Tensor], list[Tensor]], images: Tensor) -> list[Tensor]:
    """Return the maps of all images. They are allocated once: to join batches by torch.cat would hold all maps twice."""
    levels: list[Tensor] = []
    for first in range(0, len(images), BATCH):
        maps = network(to_float(images[first : first + BATCH]))
        levels = levels or [_room(len(images), m) for m in maps]
        for level, m in zip(levels, maps):
            level[first : first + BATCH] = m
    return levels


def _room(rows: int, like: Tensor) -> Tensor:
    """Return an empty tensor with so many rows, laid out in memory like the batch `like`."""
    last = not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty((rows, *like.shape[1:]), dtype=like.dtype, device=like.device, memory_format=layout)


def _free_bytes(device: torch.device) -> float:
    """Return half of the GPU's memory that is free now, or `CPU_BYTES` on a CPU."""
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else CPU_BYTES
