"""Perceptual distances as embeddings: the squared Euclidean distance between two images' maps is the training distance.

LPIPS (Zhang et al. 2018) is a weighted squared difference of unit-normalised VGG maps, averaged over space. Each map is
multiplied by sqrt(weight) / sqrt(H W), so that LPIPS becomes a plain squared distance. One embedding then serves the loss
and the matching, and every target can be embedded once per run.
"""

import math

import torch
from torch import Tensor, nn

from models import efficientnet_lite, weights
from models.pixels import coloured, to_float
from models.precision import true_fp32

# The epsilon must stand inside the root: the lpips package's `x / (norm + eps)` has a NaN gradient if a feature vector is
# exactly zero, as on a black image.
NORM_EPSILON = 1e-12
MEANS_BATCH = 64  # images at once
WHITE = (255, 255, 255)


def unit_normalise(maps: Tensor, epsilon: float = NORM_EPSILON) -> Tensor:
    """Scale the feature vector at every position of `maps` (B, C, H, W) to length 1; return float32 at least."""
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return maps * torch.rsqrt(maps.square().sum(dim=1, keepdim=True) + epsilon)


class Pixels(nn.Module):
    """The image as the only map: the squared distance is the mean squared error."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images / math.sqrt(images[0].numel())]


class LpipsVgg(nn.Module):
    """LPIPS v0.1 with the VGG16 trunk: the maps after relu1_2, 2_2, 3_3, 4_3 and 5_3."""

    TAPS = (3, 8, 15, 22, 29)

    def __init__(self, trunk: nn.Sequential, channel_weights: list[Tensor]):
        super().__init__()
        self.trunk = trunk
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        for number, weight in enumerate(channel_weights):
            self.register_buffer(f"root_weight{number}", weight.clamp(min=0).sqrt().view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = (images - self.shift) / self.scale, []
        for number, layer in enumerate(self.trunk[: self.TAPS[-1] + 1]):
            x = layer(x)
            if number in self.TAPS:
                root = getattr(self, f"root_weight{len(maps)}") / math.sqrt(x.shape[2] * x.shape[3])
                maps.append(unit_normalise(x) * root)
        return maps


class EffNetLite(nn.Module):
    """EfficientNet-Lite maps after the last blocks of four stages, unit-normalised as in LPIPS but not weighted."""

    STAGES = (0, 1, 2, 4)  # maps of 1/2, 1/4, 1/8 and 1/16 of the images' side

    def __init__(self, network: efficientnet_lite.EfficientNetLite):
        super().__init__()
        self.network = network
        self.taps = tuple(network.ends[stage] for stage in self.STAGES)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.network.stages(images, self.taps)
        return [unit_normalise(m, 1e-8) / math.sqrt(m.shape[2] * m.shape[3]) for m in maps]


class Embedding(nn.Module):
    """A perceptual embedding with the image itself as a further map:

    |e(a) - e(b)|^2 = perceptual distance(a, b) + pixel_weight * mean squared error(a, b).

    The perceptual distance is that of RGB images: transparent ones are laid over a background. The error is that of all channels.
    """

    background: Tensor

    def __init__(self, perceptual: nn.Module | None, pixel_weight: float, background: tuple[int, int, int] = WHITE):
        """`background` (levels) lies under transparent images, unless a call says otherwise."""
        super().__init__()
        self.register_buffer("background", to_float(torch.tensor(background)), persistent=False)
        self.perceptual = perceptual
        self.pixels = Pixels()
        self.pixel_weight = pixel_weight

    def forward(self, images: Tensor, background: Tensor | None = None) -> list[Tensor]:
        """Return the maps [(B, D, H, W), ...] of float images (B, C, H, W) in [-1, 1], over colours `background` (B, 3) in [-1, 1]."""
        under = self.background if background is None else background
        maps = self.perceptual(coloured(images, under)) if self.perceptual is not None else []
        if self.pixel_weight:
            maps = maps + [m * math.sqrt(self.pixel_weight) for m in self.pixels(images)]
        return maps


def squared_distance(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Return the squared distance (B,) between two lists of maps."""
    return torch.stack([(x - y).square().sum(dim=(1, 2, 3)) for x, y in zip(a, b)]).sum(dim=0)


def pairwise_distances(a: list[Tensor], b: list[Tensor]) -> Tensor:
    """Return the squared distance (A, B) of each of A images' maps to each of B images' maps."""
    return sum(torch.cdist(x.flatten(1), y.flatten(1)).square() for x, y in zip(a, b))


@torch.no_grad()
def spatial_means(embed: Embedding, images: Tensor, device: torch.device) -> Tensor:
    """Return the mean of every map over its positions (N, D) for uint8 images (N, 3, H, W), in true float32."""
    found = []
    with true_fp32(device):
        for batch in images.split(MEANS_BATCH):
            maps = embed(to_float(batch.to(device)))
            found.append(torch.cat([each.float().sum(dim=(2, 3)) / maps[0][0, 0].numel() ** 0.5 for each in maps], dim=1))
    return torch.cat(found)


def vgg16_trunk() -> nn.Sequential:
    """Return VGG16's convolutions with random weights, named as in the published file without the prefix `features.`."""
    from torchvision.models.vgg import cfgs, make_layers

    trunk = make_layers(cfgs["D"], batch_norm=False)
    for layer in trunk:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # the maps are used after the next layer has run
    return trunk


def lpips_channel_weights() -> list[Tensor]:
    """Return LPIPS v0.1's channel weights for VGG16's five maps, from the lpips package's file."""
    state = torch.load(weights.require("lpips-vgg")["lpips-vgg"], map_location="cpu", weights_only=True)
    return [state[f"lin{i}.model.1.weight"].flatten() for i in range(5)]


def _load_lpips_vgg(pretrained: bool) -> LpipsVgg:
    trunk = vgg16_trunk()
    if pretrained:
        state = torch.load(weights.require("vgg16")["vgg16"], map_location="cpu", weights_only=True)
        prefix = "features."
        trunk.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return LpipsVgg(trunk, lpips_channel_weights())


WEIGHTS_OF = {"lpips-vgg": ("vgg16", "lpips-vgg"), "pixels": ()} | {name: (name,) for name in efficientnet_lite.VARIANTS}
TEACHERS = tuple(name for name in WEIGHTS_OF if name != "effnet-lite2")  # for training; effnet-lite2 is kept for evaluation


def load_embedding(name: str, pixel_weight: float = 0.0, pretrained: bool = True, background: tuple[int, int, int] = WHITE) -> Embedding:
    """Return the frozen embedding `name` of `WEIGHTS_OF`; `pixels` weighs the mean squared error by 1 + `pixel_weight`.

    `background` (levels) lies under transparent images.
    `pretrained=False` is for timing only. Raises MissingWeights if the weights are not available.
    """
    if name == "lpips-vgg":
        perceptual = _load_lpips_vgg(pretrained)
    elif name in efficientnet_lite.VARIANTS:
        perceptual = EffNetLite(efficientnet_lite.load(name, pretrained))
    else:
        assert name == "pixels", name
        perceptual = Pixels()
    return Embedding(perceptual, pixel_weight, background).eval().requires_grad_(False)
