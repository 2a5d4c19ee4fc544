"""Heads for the multi-stage loss: an image at every resolution on the way, each to be like the target made smaller.

After ROMS-IMLE (arXiv 2607.19332). A head is one 1x1 convolution behind the last block of a resolution. They are for
training alone: the generator does not know them, and neither its average nor an export holds them.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from models.generator import Generator


def make_heads(generator: Generator) -> nn.ModuleList:
    """Return a head for every resolution of `generator` below its final one."""
    return nn.ModuleList(nn.Conv2d(width, 3, 1) for width in generator.channels[:-1])


class Staged(nn.Module):
    """A generator with heads, as one network to run and to differentiate."""

    def __init__(self, generator: Generator, heads: nn.ModuleList):
        super().__init__()
        self.generator, self.heads = generator, heads

    def forward(self, z: Tensor) -> list[Tensor]:
        """Return images (B, 3, h, w) of latents `z` (B, latent_dim) at every resolution; the last are the generator's."""
        return [draw(x) for draw, x in zip([*self.heads, self.generator.to_rgb], self.generator.levels(z))]


def stage_maps(stages: list[Tensor]) -> list[Tensor]:
    """Return maps (B, 3, h, w) of images at several resolutions; their squared distance is the sum of mean squared errors."""
    return [images / math.sqrt(images[0].numel()) for images in stages]


def shrunk(images: Tensor, stages: list[Tensor]) -> list[Tensor]:
    """Return `images` (B, 3, H, W) averaged over areas to the resolutions of `stages`."""
    return [F.adaptive_avg_pool2d(images, stage.shape[-2:]) for stage in stages]
