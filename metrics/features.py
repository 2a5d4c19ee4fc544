"""Images to features: the three frozen networks that metrics are computed in, each with the input that it was made for.

Every network takes uint8 (B, 3, H, W) and gives float32 (B, D). Precision is true float32 on every device: reduced
precision alone gives a set of images a Frechet distance of 0.25 to itself.
"""

import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from metrics import pytorch_fid_bridge
from models import efficientnet_lite, weights
from models.precision import true_fp32

# A network's last bits depend on the shape of the batch it is given, so the shape is the same in every run, whatever
# the user's batch size is.
MICRO_BATCH = 16


class Inception(nn.Module):
    """pytorch-fid's InceptionV3: its own bilinear resize to 299, final average pooling, D = 2048."""

    def __init__(self):
        super().__init__()
        self.network = pytorch_fid_bridge.inception(weights.require("inception")["inception"])

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float() / 255)[0].flatten(1)


class VGG16(nn.Module):
    """VGG16's second fully connected layer after its ReLU, at 224 pixels, D = 4096 (Kynkaanniemi et al. 2019)."""

    def __init__(self):
        super().__init__()
        from torchvision.models import vgg16

        with torch.device("meta"):  # 553 MB of random numbers would be made only to be thrown away
            self.network = vgg16(weights=None, init_weights=False)
        state = torch.load(weights.require("vgg16")["vgg16"], map_location="cpu", weights_only=True)
        self.network.load_state_dict(state, assign=True)
        # ImageNet's mean and standard deviation, which torchvision's weights were trained with.
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        pixels = (resize_to_224(images) / 255 - self.mean) / self.deviation
        maps = self.network.avgpool(self.network.features(pixels))
        return self.network.classifier[:5](maps.flatten(1))  # linear, ReLU, dropout, linear, ReLU


class EffNetLite0(nn.Module):
    """EfficientNet-Lite0's pooled head at 224 pixels, D = 1280 (Tan & Le 2019)."""

    def __init__(self):
        super().__init__()
        self.network = efficientnet_lite.load()

    def forward(self, images: Tensor) -> Tensor:
        return self.network.pooled(resize_to_224(images) / 127.5 - 1)


class Network(NamedTuple):
    """A network, the dimension of its features, and its input in words for the report."""

    build: type[nn.Module]
    dimension: int
    input: str


NETWORKS = {  # the names are also the keys of the weights
    "inception": Network(Inception, 2048, "pytorch-fid 0.3.0: bilinear resize to 299, not antialiased"),
    "vgg16": Network(VGG16, 4096, "bicubic antialiased resize to 224; fc2 after ReLU"),
    "effnet-lite0": Network(EffNetLite0, 1280, "bicubic antialiased resize to 224; pooled head"),
}


def resize_to_224(images: Tensor) -> Tensor:
    """Resize uint8 (B, 3, H, W) to float (B, 3, 224, 224) in [0, 255]; the cubic's overshoot is cut off."""
    resized = F.interpolate(images.float(), size=(224, 224), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp(0, 255)


class Extractor:
    """Some networks, loaded, that turn any number of images into features."""

    def __init__(self, names: list[str], device: str):
        """Load the networks called `names` in `NETWORKS`; raises MissingWeights."""
        self.device = torch.device(device)
        self.networks = {name: NETWORKS[name].build().eval().requires_grad_(False).to(self.device) for name in names}

    def __call__(self, blocks: Iterable[Tensor], total: int, what: str) -> dict[str, Tensor]:
        """Return each network's features (total, D), float32 on the CPU, of blocks of images uint8 (B, 3, H, W).

        How the images are divided into blocks changes nothing. `what` names them on the progress bar on stderr.
        """
        features = {name: [] for name in self.networks}
        with tqdm(total=total, desc=f"features of {what}", unit="image", file=sys.stderr) as progress:
            for batch in _micro_batches(blocks):
                assert batch.dtype == torch.uint8, "features are taken of images as they would be written to a file"
                for name, network in self.networks.items():
                    features[name].append(self._run(network, batch))
                progress.update(len(batch))
        return {name: torch.cat(batches) for name, batches in features.items()}

    @torch.no_grad()
    def _run(self, network: nn.Module, batch: Tensor) -> Tensor:
        with true_fp32(self.device):
            return network(batch.to(self.device)).float().cpu()


def _micro_batches(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield the images of all blocks in batches of MICRO_BATCH, the last one shorter."""
    rest = None
    for block in blocks:
        rest = block if rest is None else torch.cat([rest, block])
        full = len(rest) // MICRO_BATCH * MICRO_BATCH
        yield from rest[:full].split(MICRO_BATCH) if full else ()
        rest = rest[full:]
    if rest is not None and len(rest):
        yield rest
