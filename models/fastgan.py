"""FastGAN's networks for 32 to 512 pixels (Liu et al., ICLR 2021, arXiv 2101.04775, section 3 and appendix).

Written from the paper. All widths derive from one number, the width of the generator at 128 pixels. Every convolution has spectral
norm.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

GENERATOR = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 1 / 2, 512: 1 / 4}  # width of the maps of a side, in units of `width`
DISCRIMINATOR = {8: 8, 16: 4, 32: 2, 64: 1, 128: 1 / 2, 256: 1 / 4}
EXCITATION = 16  # a skip-layer excitation of the generator acts on maps this many times as large as those it looks at
LOOK_BACK = 8  # the same in the discriminator, from large maps to small ones
LARGEST_SECOND = 128  # side of the second, smaller image that the discriminator sees, at most
DECODED = 8  # side of the maps that are decoded
SLOPE = 0.2


def second_side(side: int) -> int:
    """Return the side of the second image beside one of `side`: half of it, and at most 128."""
    return min(LARGEST_SECOND, side // 2)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Module:
    """Return a convolution without a bias, with spectral norm."""
    return spectral_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False))


class Noise(nn.Module):
    """Add noise, the same to all channels, at a learned strength; in evaluation its mean, 0, so that a latent is one image."""

    def __init__(self):
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.strength * torch.randn_like(x[:, :1]) if self.training else x


class Gated(nn.Sequential):
    """3x3 convolution, noise if `noisy`, batch norm, and a gated linear unit, which halves the channels."""

    def __init__(self, inputs: int, outputs: int, noisy: bool = False):
        super().__init__(
            conv(inputs, 2 * outputs, 3, padding=1),
            Noise() if noisy else nn.Identity(),
            nn.BatchNorm2d(2 * outputs),
            nn.GLU(dim=1),
        )


class Up(nn.Sequential):
    """Double the sides of maps by nearest upsampling; `noisy`: then two gated convolutions with noise, otherwise one without."""

    def __init__(self, inputs: int, outputs: int, noisy: bool = False):
        gated = [Gated(inputs, outputs, noisy), *([Gated(outputs, outputs, noisy)] if noisy else [])]
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), *gated)


class Excitation(nn.Module):
    """Skip-layer excitation: scale the channels of large maps by gates that follow from other maps (equation 1)."""

    def __init__(self, looks_at: int, scales: int):
        super().__init__()
        self.gates = nn.Sequential(nn.AdaptiveAvgPool2d(4), conv(looks_at, scales, 4), nn.SiLU(), conv(scales, scales, 1), nn.Sigmoid())

    def forward(self, looked_at: Tensor, x: Tensor) -> Tensor:
        return x * self.gates(looked_at)


class Generator(nn.Module):
    """Map latents (B, latent_dim) to images (B, 3, side, side) in [-1, 1]. `width` is that of the maps of 128 pixels."""

    def __init__(self, side: int, width: int, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.sides = [4 * 2**level for level in range((side // 4).bit_length())]
        self.widths = {each: scaled(GENERATOR[each], width) for each in self.sides}
        self.start = nn.Sequential(
            spectral_norm(nn.ConvTranspose2d(latent_dim, 2 * self.widths[4], 4, bias=False)),
            nn.BatchNorm2d(2 * self.widths[4]),
            nn.GLU(dim=1),
        )
        ups = [Up(self.widths[a], self.widths[b], noisy=level % 2 == 0) for level, (a, b) in enumerate(pairwise(self.sides))]
        self.ups = nn.ModuleList(ups)
        excited = [each for each in self.sides if each // EXCITATION in self.widths]
        self.excitations = nn.ModuleDict({str(each): Excitation(self.widths[each // EXCITATION], self.widths[each]) for each in excited})
        self.to_rgb = conv(self.widths[side], 3, 3, padding=1)

    def parts(self) -> dict[tuple, dict[str, Tensor]]:
        """Return the weights and statistics by their place, which is the same in a generator of another resolution."""
        levels = dict(zip(self.sides[1:], self.ups))
        return {
            ("start",): self.start.state_dict(),
            **{(f"level {side}", "up"): up.state_dict() for side, up in levels.items()},
            **{(f"level {side}", "excitation"): gates.state_dict() for side, gates in self.excitations.items()},
            ("to_rgb", self.sides[-1]): self.to_rgb.state_dict(),
        }

    def maps(self, z: Tensor) -> Iterator[Tensor]:
        """Yield the maps (B, width, side, side) of every side, the smallest first."""
        x = self.start(z[:, :, None, None])
        seen = {self.sides[0]: x}
        yield x
        for each, up in zip(self.sides[1:], self.ups):
            x = up(x)
            if str(each) in self.excitations:
                x = self.excitations[str(each)](seen[each // EXCITATION], x)
            seen[each] = x
            yield x

    def forward(self, z: Tensor) -> Tensor:
        *_, last = self.maps(z)
        return torch.tanh(self.to_rgb(last))


class Pair(nn.Module):
    """A generator that also returns the second, smaller image, for training only."""

    def __init__(self, generator: Generator):
        super().__init__()
        self.generator = generator
        self.side = second_side(generator.sides[-1])
        self.to_rgb = conv(generator.widths[self.side], 3, 1)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images (B, 3, side, side) and the second ones, in [-1, 1]."""
        maps = dict(zip(self.generator.sides, self.generator.maps(z)))
        return torch.tanh(self.generator.to_rgb(maps[self.generator.sides[-1]])), torch.tanh(self.to_rgb(maps[self.side]))


class Down(nn.Module):
    """Halve the sides of maps: the mean of a way with two convolutions and a direct one. Without `direct`, a first convolution alone."""

    def __init__(self, inputs: int, outputs: int, direct: bool = True):
        super().__init__()
        first = [conv(inputs, outputs, 4, 2, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE)]
        second = [conv(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE)]
        self.main = nn.Sequential(*first, *(second if direct else []))
        ways = [nn.AvgPool2d(2), conv(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.LeakyReLU(SLOPE)]
        self.direct = nn.Sequential(*ways) if direct else None

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x) if self.direct is None else (self.main(x) + self.direct(x)) / 2


class Decoder(nn.Sequential):
    """Reconstruct an image of `side` pixels, in [-1, 1], from maps of 8 x 8."""

    def __init__(self, inputs: int, side: int, width: int):
        levels = (side // DECODED).bit_length() - 1
        widths = [inputs, *(scaled(multiple, width) for multiple in (4, 2, 2, 1)[:levels])]
        ups = [Up(a, b) for a, b in pairwise(widths)]
        super().__init__(*ups, conv(widths[-1], 3, 3, padding=1), nn.Tanh())


class Discriminator(nn.Module):
    """Judge images of `side` pixels and their second images: high logits for real ones. `width` is as in the generator."""

    def __init__(self, side: int, width: int):
        super().__init__()
        first = min(side, 256)  # the side of the first maps; a larger image is halved at once
        self.sides = [first // 2**level for level in range((first // DECODED).bit_length())]
        widths = {each: scaled(DISCRIMINATOR[each], width) for each in self.sides}
        begin = conv(3, widths[first], 3, 1, 1) if side == first else conv(3, widths[first], 4, 2, 1)
        self.begin = nn.Sequential(begin, nn.LeakyReLU(SLOPE))
        self.downs = nn.ModuleList(Down(widths[a], widths[b]) for a, b in pairwise(self.sides))
        looked = [each for each in self.sides if each * LOOK_BACK in widths]
        self.excitations = nn.ModuleDict({str(each): Excitation(widths[each * LOOK_BACK], widths[each]) for each in looked})
        head = scaled(16, width)
        self.logits = nn.Sequential(conv(widths[DECODED], head, 1), nn.BatchNorm2d(head), nn.LeakyReLU(SLOPE), conv(head, 1, 4))  # 5 x 5
        second = second_side(side)
        narrow = [
            scaled(DISCRIMINATOR[each] / 2, width) for each in (second // 2**level for level in range(1, (second // DECODED).bit_length()))
        ]
        begin = nn.Sequential(conv(3, narrow[0], 4, 2, 1), nn.LeakyReLU(SLOPE))
        self.second = nn.Sequential(begin, *(Down(a, b, direct=False) for a, b in pairwise(narrow)))
        self.second_logits = conv(narrow[-1], 1, 4)
        self.whole = Decoder(widths[DECODED], second, width // 2)
        self.part = Decoder(widths[2 * DECODED], second, width // 2)
        self.small = Decoder(narrow[-1], second, width // 2)

    def forward(self, images: Tensor, seconds: Tensor) -> tuple[Tensor, dict[int, Tensor], Tensor]:
        """Return the logits (B, 50) of both branches, the maps of the first by their side, and the last maps of the second."""
        x = self.begin(images)
        maps = {self.sides[0]: x}
        for each, down in zip(self.sides[1:], self.downs):
            x = down(x)
            if str(each) in self.excitations:
                x = self.excitations[str(each)](maps[each * LOOK_BACK], x)
            maps[each] = x
        small = self.second(seconds)
        return torch.cat([self.logits(x).flatten(1), self.second_logits(small).flatten(1)], dim=1), maps, small

    def reconstructed(self, maps: dict[int, Tensor], small: Tensor, quadrant: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoded whole images, quadrants and second images, (B, 3, second side, second side) each.

        `quadrant` is its row and its column, int64 () in {0, 1}. The first two are decoded from `maps`, the last from `small`.
        """
        return self.whole(maps[DECODED]), self.part(cut(maps[2 * DECODED], quadrant)), self.small(small)


def cut(maps: Tensor, quadrant: tuple[Tensor, Tensor]) -> Tensor:
    """Return one quadrant (B, C, H / 2, W / 2) of maps (B, C, H, W): `quadrant` is its row and its column, int64 () in {0, 1}."""
    for dim, which in zip((2, 3), quadrant):
        half = maps.shape[dim] // 2
        maps = maps.index_select(dim, torch.arange(half, device=maps.device) + which * half)
    return maps


def shrunk(images: Tensor, side: int) -> Tensor:
    """Return images (B, 3, H, W) shrunk to `side` by area averaging."""
    return F.adaptive_avg_pool2d(images, side)


def scaled(multiple: float, width: int) -> int:
    """Return `multiple` times `width`, at least 4."""
    return max(4, round(multiple * width))
