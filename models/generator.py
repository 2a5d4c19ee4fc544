"""The generator: a mapping network, a learned constant, and residual bottleneck blocks with AdaIN.

It is the decoder of a very deep VAE (Child 2021) without its stochastic parts, as in RS-IMLE (Vashist et al. 2024,
supplement), with two faults corrected. It starts from a learned 4x4 constant: instance norm erases a constant 1x1 map, so
that nothing before the norm gets a gradient. Convolutions before an instance norm have no bias, because the norm erases
it too.
"""

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-2
BOTTLENECK = 0.25  # inner width of a block as a share of its width


class MappingNetwork(nn.Module):
    """Map latents z (B, latent_dim) to styles w (B, style_dim)."""

    def __init__(self, latent_dim: int, style_dim: int, layers: int):
        super().__init__()
        sizes = [latent_dim] + [style_dim] * layers
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for layer in self.layers:  # nn.Linear's own initialisation shrinks w a thousandfold over eight layers
            nn.init.kaiming_normal_(layer.weight, a=0.2)
            nn.init.zeros_(layer.bias)

    def forward(self, z: Tensor) -> Tensor:
        w = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self.layers:
            w = F.leaky_relu(layer(w), 0.2)
        return w


class AdaIN(nn.Module):
    """Normalise every channel of every image, then scale and shift it by the style (Huang & Belongie 2017)."""

    def __init__(self, channels: int, style_dim: int):
        super().__init__()
        self.affine = nn.Linear(style_dim, 2 * channels)
        nn.init.normal_(self.affine.weight, std=1 / math.sqrt(style_dim))
        with torch.no_grad():
            self.affine.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        scale, shift = self.affine(w)[:, :, None, None].chunk(2, dim=1)  # (B, C, 1, 1) each
        # Group norm with one channel per group is instance norm; its kernel is much faster than torch.var_mean's.
        return torch.addcmul(shift, F.group_norm(x, x.shape[1], eps=NORM_EPSILON), scale)


class Block(nn.Module):
    """[change width, upsample] -> AdaIN -> x + bottleneck(x), with a GELU before each convolution of the bottleneck."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, upsample: bool, last: bool):
        super().__init__()
        inner = max(1, round(outputs * BOTTLENECK))
        self.upsample = upsample
        self.resize = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()
        self.norm = AdaIN(outputs, style_dim)
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(outputs, inner, 1),
                nn.Conv2d(inner, inner, 3, padding=1),
                nn.Conv2d(inner, inner, 3, padding=1),
                nn.Conv2d(inner, outputs, 1, bias=last),
            ]
        )
        for conv in self.convs:
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.resize(x)  # before the upsampling, where it costs a quarter as much
        if self.upsample:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        x = h = self.norm(x, w)
        for conv in self.convs:
            h = conv(F.gelu(h))
        return x + h


class Generator(nn.Module):
    """Map latents (B, latent_dim) to images (B, 3, H, W).

    `channels[k]` and `blocks[k]` are the width and the number of blocks at resolution `start * 2**k`, where `start` is
    the (height, width) of the learned constant: (4, 4) for square images, (4, 6) for 2:3 rectangles.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        style_dim: int,
        mapping_layers: int,
        channels: list[int],
        blocks: list[int],
        start: tuple[int, int] = (4, 4),
    ):
        super().__init__()
        assert len(channels) == len(blocks) > 0 and min(blocks) > 0
        self.latent_dim, self.channels = latent_dim, list(channels)
        self.resolution = tuple(side * 2 ** (len(channels) - 1) for side in start)
        self.mapping = MappingNetwork(latent_dim, style_dim, mapping_layers)
        self.constant = nn.Parameter(torch.randn(1, channels[0], *start))
        stack, inputs, total = [], channels[0], sum(blocks)
        for level, (width, count) in enumerate(zip(channels, blocks)):
            for i in range(count):
                block = Block(inputs, width, style_dim, upsample=level > 0 and i == 0, last=len(stack) == total - 1)
                with torch.no_grad():
                    block.convs[-1].weight.mul_(math.sqrt(1 / total))
                stack.append(block)
                inputs = width
        self.blocks = nn.ModuleList(stack)
        self.to_rgb = nn.Conv2d(inputs, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Return images (B, 3, H, W), float, about [-1, 1] and not clipped, for latents `z` (B, latent_dim)."""
        for x in self.levels(z):  # noqa: B007  # keeps only the last level
            pass
        return self.to_rgb(x)

    def levels(self, z: Tensor) -> Iterator[Tensor]:
        """Yield the output (B, C, h, w) of the last block of each resolution, smallest first."""
        w = self.mapping(z)
        x = self.constant.expand(len(z), -1, -1, -1)
        for block in self.blocks:
            if block.upsample:
                yield x
            x = block(x, w)
        yield x
