"""The generator: a mapping network, a learned constant, and residual bottleneck blocks with AdaIN.

It is the decoder of a very deep VAE (Child 2021) without its stochastic parts, as in RS-IMLE (Vashist et al. 2024,
supplement), with two faults corrected. It starts from a learned 4x4 constant: instance norm erases a constant 1x1 map, so
that nothing before the norm gets a gradient. Convolutions before an instance norm have no bias, because the norm erases
it too.

Inside, maps are (B, H, W, C). A 1x1 convolution then is one matrix product. Nearest upsampling commutes with everything that
treats pixels alike, so blocks upsample as late as they can; it changes no mean and no variance, so this includes AdaIN.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

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


class Mix(nn.Conv2d):
    """A 1x1 convolution of maps (B, H, W, C)."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__(inputs, outputs, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1).to(x.dtype), self.bias if self.bias is None else self.bias.to(x.dtype))


class Conv3(nn.Conv2d):
    """A 3x3 convolution of maps (B, H, W, C)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        return self._conv_forward(x.permute(0, 3, 1, 2), self.weight.to(x.dtype), self.bias.to(x.dtype)).permute(0, 2, 3, 1)


class Normalised(torch.autograd.Function):
    """Normalise every channel of every image in maps (B, H, W, C), then multiply by `scale` (B, C) and add `shift` (B, C).

    Statistics are in float32 at least, whatever the type of the maps. The backward pass needs the centred maps alone.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        pixels, wide = x.flatten(1, 2), torch.promote_types(x.dtype, torch.float32)
        mean = pixels.mean(1, keepdim=True, dtype=wide)
        centred = (pixels - mean).to(x.dtype)  # the first rounding to the type of the maps
        if x.dtype == wide:
            variance = centred.square().mean(1)
        else:  # in fp16 a square overflows beyond 256, and the norm squares in float32
            variance = torch.linalg.vector_norm(centred, dim=1, dtype=wide).square() / pixels.shape[1]
        inverse = torch.rsqrt(variance + NORM_EPSILON)  # of the standard deviation, (B, C)
        ctx.save_for_backward(centred, inverse, scale)
        factor, shift = ((scale * inverse)[:, None].to(x.dtype), shift[:, None].to(x.dtype))
        return torch.addcmul(shift, centred, factor).view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        centred, inverse, scale = ctx.saved_tensors
        gradient, wide, pixels = gradients[0].reshape(centred.shape), inverse.dtype, centred.shape[1]
        factor = scale * inverse
        if centred.dtype != wide:  # normalised at once, because factors and products below would leave the range of fp16
            centred, inverse = centred * inverse[:, None].to(centred.dtype), torch.ones_like(inverse)
        of_shift = gradient.sum(1, dtype=wide)
        of_scale = (gradient * centred).sum(1, dtype=wide) * inverse
        # scale / deviation * (gradient - its mean - normalised x * mean of (gradient * normalised x))
        terms = (-factor * of_shift / pixels, -factor * inverse * of_scale / pixels, factor)
        constant, of_centred, of_gradient = (term[:, None].to(centred.dtype) for term in terms)
        of_x = torch.addcmul(constant, centred, of_centred).addcmul_(gradient, of_gradient)
        return of_x.view_as(gradients[0]), of_scale.to(scale.dtype), of_shift.to(scale.dtype)


class AdaIN(nn.Module):
    """Normalise every channel of every image, then scale and shift it by the style (Huang & Belongie 2017)."""

    def __init__(self, channels: int, style_dim: int):
        super().__init__()
        self.affine = nn.Linear(style_dim, 2 * channels)
        nn.init.normal_(self.affine.weight, std=1 / math.sqrt(style_dim))
        with torch.no_grad():
            self.affine.bias.copy_(torch.cat([torch.ones(channels), torch.zeros(channels)]))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return maps (B, H, W, C) for maps `x` of that shape and styles `w` (B, style_dim)."""
        return Normalised.apply(x, *self.affine(w).chunk(2, dim=1))


class Block(nn.Module):
    """[change width, upsample] -> AdaIN -> x + bottleneck(x), with a GELU before each convolution of the bottleneck."""

    def __init__(self, inputs: int, outputs: int, style_dim: int, *, upsample: bool, last: bool, noise: Tensor | None = None):
        """`noise` (H, W, 1) is added to the maps of the bottleneck at learned strengths."""
        super().__init__()
        inner = max(1, round(outputs * BOTTLENECK))
        self.upsample = upsample
        self.resize = Mix(inputs, outputs, bias=False) if inputs != outputs else nn.Identity()
        self.norm = AdaIN(outputs, style_dim)
        self.convs = nn.ModuleList([Mix(outputs, inner), Conv3(inner, inner), Conv3(inner, inner), Mix(inner, outputs, bias=last)])
        for conv in self.convs:
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        self.register_buffer("noise", noise, persistent=False)
        self.strengths = None if noise is None else nn.Parameter(torch.zeros(inner))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return maps (B, H, W, outputs) for maps `x` and styles `w` (B, style_dim)."""
        x, h = self.halves(x, w)
        return self.grown(x) + self.convs[-1](h)

    def grown(self, x: Tensor) -> Tensor:
        """Double the height and width of maps (B, H, W, C), if the block upsamples: every pixel becomes four."""
        return F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest").permute(0, 2, 3, 1) if self.upsample else x

    def halves(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised maps, before the upsampling, and the input of the last convolution, after it."""
        x = self.norm(self.resize(x), w)
        first, second, third, _ = self.convs
        h = second(self.grown(F.gelu(first(F.gelu(x)))))
        if self.strengths is not None:
            h = h + (self.noise * self.strengths).to(h.dtype)
        return x, F.gelu(third(F.gelu(h)))

    def colours(self, x: Tensor, w: Tensor, to_rgb: Mix) -> Tensor:
        """Return `to_rgb(self(x, w))`, images (B, H, W, C): both ways through the block are mixed to colours before their sum."""
        matrix, last = to_rgb.weight.flatten(1), self.convs[-1]  # (C, outputs)
        x, h = (maps.to(matrix.dtype) for maps in self.halves(x, w))
        bias = to_rgb.bias if last.bias is None else to_rgb.bias + matrix @ last.bias
        return self.grown(F.linear(x, matrix)) + F.linear(h, matrix @ last.weight.flatten(1), bias)


def noise_map(block: int, height: int, width: int) -> Tensor:
    """Return the noise (height, width, 1) of a block, the same in every generator."""
    return torch.randn(height, width, 1, generator=torch.Generator().manual_seed(block))


class Generator(nn.Module):
    """Map latents (B, latent_dim) to images (B, C, H, W); `outputs` is C, of models.pixels.CHANNELS.

    `channels[k]` and `blocks[k]` are the width and the number of blocks at resolution `start * 2**k`, where `start` is
    the (height, width) of the learned constant: (4, 4) for square images, (4, 6) for 2:3 rectangles. With `noise` every
    block has noise, as in StyleGAN (Karras et al. 2019, section 2), but the same for all latents: a source of texture that has no period.
    """

    def __init__(
        self,
        *,
        latent_dim: int,
        style_dim: int,
        mapping_layers: int,
        channels: list[int],
        blocks: list[int],
        noise: bool = False,
        start: tuple[int, int] = (4, 4),
        outputs: int = 3,
    ):
        super().__init__()
        assert len(channels) == len(blocks) > 0 and min(blocks) > 0
        self.latent_dim, self.channels = latent_dim, list(channels)
        self.resolution = tuple(side * 2 ** (len(channels) - 1) for side in start)
        self.mapping: nn.Module = MappingNetwork(latent_dim, style_dim, mapping_layers)
        self.constant = nn.Parameter(torch.randn(1, channels[0], *start))
        stack, inputs, total = [], channels[0], sum(blocks)
        for level, (width, count) in enumerate(zip(channels, blocks)):
            for i in range(count):
                texture = noise_map(len(stack), *(side * 2**level for side in start)) if noise else None
                last = len(stack) == total - 1
                block = Block(inputs, width, style_dim, upsample=level > 0 and i == 0, last=last, noise=texture)
                with torch.no_grad():
                    block.convs[-1].weight.mul_(math.sqrt(1 / total))
                stack.append(block)
                inputs = width
        self.blocks = nn.ModuleList(stack)
        self.to_rgb = Mix(inputs, outputs)  # or to other channels; the name is that of StyleGAN, and of older checkpoints

    def parts(self) -> dict[tuple, dict[str, Tensor]]:
        """Return the weights by their place, which is the same in a generator of another resolution or depth.

        A place names its level by the shorter side. The last block's further bias belongs to the colours: no other block has one.
        """
        levels, noise, colours = {}, {}, self.to_rgb.state_dict()
        side, number = min(self.constant.shape[2:]), 0
        for block in self.blocks:
            side, number = (2 * side, 0) if block.upsample else (side, number)
            weights = block.state_dict()
            if "strengths" in weights:
                noise["noise", side, number] = {"": weights.pop("strengths")}
            if "convs.3.bias" in weights:
                colours["last"] = weights.pop("convs.3.bias")
            levels[f"level {side}", number], number = weights, number + 1
        first = {("mapping",): self.mapping.state_dict(), ("constant",): {"": self.constant.detach()}}
        return first | levels | noise | {("to_rgb", side): colours}

    def forward(self, z: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Return images (B, C, H, W), float, about [-1, 1] and not clipped, for latents `z` (B, latent_dim).

        `dtype` is the type of the maps; styles, statistics and images always have the type of the weights.
        """
        *_, images = self.levels(z, dtype)
        return images

    def synthesise(self, w: Tensor) -> Tensor:
        """Return images (B, C, H, W), as `forward` does, for styles `w` (B, style_dim), or one per block (B, blocks, style_dim)."""
        *_, images = self._levels(w)
        return images

    def levels(self, z: Tensor, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
        """Yield the last maps (B, h, w, C) of each resolution below the final one, smallest first, then the images."""
        yield from self._levels(self.mapping(z), dtype)

    def _levels(self, w: Tensor, dtype: torch.dtype | None = None) -> Iterator[Tensor]:
        x = self.constant.to(dtype or self.constant.dtype).permute(0, 2, 3, 1).expand(w.shape[0], -1, -1, -1)
        *styles, last_style = w.unbind(1) if w.ndim == 3 else [w] * len(self.blocks)
        *blocks, last = self.blocks
        for block, style in zip(blocks, styles):
            if block.upsample:
                yield x
            x = block(x, style)
        if last.upsample:
            yield x
        yield last.colours(x, last_style, self.to_rgb).permute(0, 3, 1, 2)
