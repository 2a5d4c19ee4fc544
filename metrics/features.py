"""Images to features: the frozen networks of the metrics, each with the input that it expects.

Every network takes uint8 (B, 3, H, W) and gives float32 (B, D). Precision is true float32 on every device: at
reduced precision a set of images has a Frechet distance of 0.25 to itself.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from errors import UserError
from metrics import copying, pytorch_fid_bridge, sharpness
from models import dinov2, efficientnet_lite, weights
from models.precision import true_fp32


class Inception(nn.Module):
    """pytorch-fid's InceptionV3: its own bilinear resize to 299, final average pooling, D = 2048."""

    def __init__(self):
        super().__init__()
        self.network = pytorch_fid_bridge.inception(weights.require("inception")["inception"])

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float() / 255)[0].flatten(1)


class InceptionClean(nn.Module):
    """The same network behind clean-fid's input: Pillow's antialiased bicubic to 299 in floats (Parmar et al. 2022)."""

    def __init__(self):
        super().__init__()
        self.network = pytorch_fid_bridge.inception(weights.require("inception")["inception"])
        self.network.resize_input = self.network.normalize_input = False

    def forward(self, images: Tensor) -> Tensor:
        resized = torch.stack([_clean_resize(image) for image in images.cpu()]).to(images.device)
        return self.network((resized - 128) / 128)[0].flatten(1)  # clean-fid's scaling differs from pytorch-fid's by half a level


class VGG16(nn.Module):
    """VGG16's second fully connected layer at 224 pixels, D = 4096, after its ReLU, or before it if `linear`.

    Kynkaanniemi et al. 2019 use the output after the ReLU, published RS-IMLE numbers the output before it.
    """

    def __init__(self, linear: bool = False):
        super().__init__()
        from torchvision.models import vgg16

        with torch.device("meta"):  # skips 553 MB of random initial weights
            self.network = vgg16(weights=None, init_weights=False)
        state = torch.load(weights.require("vgg16")["vgg16"], map_location="cpu", weights_only=True)
        self.network.load_state_dict(state, assign=True)
        self.head = self.network.classifier[: 4 if linear else 5]  # linear, ReLU, dropout, linear, ReLU

    def forward(self, images: Tensor) -> Tensor:
        pixels = _imagenet_normalised(resize_to_224(images))
        return self.head(self.network.avgpool(self.network.features(pixels)).flatten(1))


class EffNetLite(nn.Module):
    """EfficientNet-Lite's pooled head at its training resolution, D = 1280 (Tan & Le 2019)."""

    def __init__(self, name: str):
        super().__init__()
        self.side = efficientnet_lite.VARIANTS[name].side
        self.network = efficientnet_lite.load(name).to(memory_format=torch.channels_last)  # a quarter faster on CPU

    def forward(self, images: Tensor) -> Tensor:
        return self.network.pooled(resize(images, self.side) / 127.5 - 1)


class DinoV2(nn.Module):
    """DINOv2 ViT-L/14's class token at 224 pixels, D = 1024 (Stein et al. 2023: nearest to human judgement)."""

    def __init__(self):
        super().__init__()
        self.network = dinov2.load(weights.require("dinov2")["dinov2"])

    def forward(self, images: Tensor) -> Tensor:
        return self.network(_imagenet_normalised(resize_to_224(images)))


class Thumbnail(nn.Module):
    """The image at 16 x 16 pixels, in levels, D = 768: no network, and too small to show texture."""

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(images.float(), size=(copying.SIDE, copying.SIDE), mode="bilinear", antialias=True).flatten(1)


class Network(NamedTuple):
    """How to build a network, its key in `models.weights` (None: no network), its features (D) and its input."""

    build: Callable[[], nn.Module]
    weights: str | None
    dimension: int
    input: str
    title: str


NETWORKS = {
    "inception": Network(Inception, "inception", 2048, "pytorch-fid 0.3.0: bilinear resize to 299, not antialiased", "Inception"),
    "inception-clean": Network(InceptionClean, "inception", 2048, "clean-fid: Pillow bicubic to 299 in floats, antialiased", "Inception"),
    "vgg16": Network(VGG16, "vgg16", 4096, "bicubic antialiased resize to 224; fc2 after ReLU", "VGG16"),
    "vgg16-linear": Network(lambda: VGG16(linear=True), "vgg16", 4096, "bicubic antialiased resize to 224; fc2 before ReLU", "VGG16"),
    "dinov2": Network(DinoV2, "dinov2", 1024, "bicubic antialiased resize to 224; class token", "DINOv2"),
    "thumbnail": Network(Thumbnail, None, 768, "bilinear antialiased resize to 16; the pixels themselves", "thumbnails"),
    "spectrum": Network(sharpness.Spectrum, None, sharpness.Spectrum.dimension, "the pixels; power by octave", "power spectra"),
    "patches": Network(sharpness.Patches, None, sharpness.Patches.dimension, "the pixels; patches of a Laplacian pyramid", "patches"),
} | {
    name: Network(
        partial(EffNetLite, name),
        name,
        efficientnet_lite.HEAD,
        f"bicubic antialiased resize to {variant.side}; pooled head",
        f"EfficientNet-{name.removeprefix('effnet-').title()}",
    )
    for name, variant in efficientnet_lite.VARIANTS.items()
}


def resize(images: Tensor, side: int) -> Tensor:
    """Resize uint8 (B, 3, H, W) to float (B, 3, side, side) in [0, 255] by bicubic interpolation, clamped."""
    resized = F.interpolate(images.float(), size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 255)


def resize_to_224(images: Tensor) -> Tensor:
    """Resize to 224 pixels, which most networks were trained on."""
    return resize(images, 224)


def _imagenet_normalised(images: Tensor) -> Tensor:
    """Scale images (B, 3, H, W) in [0, 255] by torchvision's ImageNet means and deviations."""
    mean, deviation = (images.new_tensor(channels).view(3, 1, 1) for channels in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images / 255 - mean) / deviation


def _clean_resize(image: Tensor) -> Tensor:
    """Resize one uint8 image (3, H, W) to float (3, 299, 299) in [0, 255], each channel by Pillow in float32."""
    channels = [Image.fromarray(channel).resize((299, 299), Image.Resampling.BICUBIC) for channel in image.float().numpy()]
    return torch.from_numpy(np.stack([np.asarray(channel) for channel in channels])).clamp(0, 255)


class FeaturePass:
    """Compute the features of one network for images that arrive in batches."""

    def __init__(self, name: str, device: str):
        """Load the network `name` of `NETWORKS`. Raises MissingWeights."""
        self.name, self.device = name, torch.device(device)
        self.network = NETWORKS[name].build().eval().requires_grad_(False).to(self.device)
        self._batches: list[Tensor] = []

    @torch.no_grad()
    def add(self, images: Tensor) -> None:
        """Add the features of uint8 images (B, 3, H, W). Raises UserError if they are not finite."""
        with true_fp32(self.device):
            features = self.network(images.to(self.device)).float().cpu()
        if not features.isfinite().all():
            raise UserError(f"{self.name} gives features that are not finite: its weights do not work for these images")
        self._batches.append(features)

    def result(self) -> dict[str, Tensor]:
        """Return the features (N, D) of all images, float32 on the CPU."""
        return {"features": torch.cat(self._batches)}
