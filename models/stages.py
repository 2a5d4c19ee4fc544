"""Heads for the multi-stage loss: an image at every lower resolution, compared with the target shrunk to it.

After ROMS-IMLE (arXiv 2607.19332). A head is one 1x1 convolution after the last block of a resolution. Heads are only for
training: they are not part of the generator, its EMA or an export.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.generator import Generator, Mix


def make_heads(generator: Generator) -> nn.ModuleList:
    """Return a head for every resolution of `generator` below its final one."""
    outputs = generator.to_rgb.weight.shape[0]
    return nn.ModuleList(Mix(width, outputs) for width in generator.channels[:-1])


class Staged(nn.Module):
    """A generator and its heads as one network."""

    def __init__(self, generator: Generator, heads: nn.ModuleList):
        super().__init__()
        self.generator, self.heads = generator, heads

    def forward(self, z: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """Return images (B, C, h, w) of latents `z` (B, latent_dim) at every resolution; the last is the generator's output."""
        *levels, images = self.generator.levels(z, dtype)
        return [*(head(x.to(head.weight.dtype)).permute(0, 3, 1, 2) for head, x in zip(self.heads, levels)), images]


def stage_maps(stages: list[Tensor]) -> list[Tensor]:
    """Scale images (B, C, h, w) of several resolutions so that their squared distance is the sum of mean squared errors."""
    return [images / math.sqrt(images[0].numel()) for images in stages]


def shrunk(images: Tensor, stages: list[Tensor]) -> list[Tensor]:
    """Return `images` (B, C, H, W) shrunk by area averaging to the resolution of each of `stages`."""
    return [F.adaptive_avg_pool2d(images, stage.shape[-2:]) for stage in stages]
