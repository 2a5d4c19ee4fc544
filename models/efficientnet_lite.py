"""EfficientNet-Lite0 and -Lite2: ImageNet features with weights from the package registry (Tan & Le 2019; Lite, 2020).

The module names equal those in the published weights files, so that the files load without renaming.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models import weights

# (expansion, channels, blocks, kernel, first stride) of the seven stages of MBConv blocks, before scaling.
STAGES = ((1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1), (6, 192, 4, 5, 2), (6, 320, 1, 3, 1))
STEM, HEAD = 32, 1280  # channels before and after the stages, in every variant
DIVISOR = 8  # a scaled stage's channels are a multiple of this
BATCH_NORM_EPSILON = 1e-3


class Variant(NamedTuple):
    """A network's width and depth relative to Lite0, and the side in pixels of its training images."""

    width: float
    depth: float
    side: int


VARIANTS = {"effnet-lite0": Variant(1.0, 1.0, 224), "effnet-lite2": Variant(1.1, 1.2, 260)}  # keys as in models.weights


def scaled_channels(channels: int, width: float) -> int:
    """Return the channels of a stage scaled by `width`: the nearest multiple of 8 that is at least 90% of channels * width."""
    asked = channels * width
    rounded = max(DIVISOR, int(asked + DIVISOR / 2) // DIVISOR * DIVISOR)
    return rounded if rounded >= 0.9 * asked else rounded + DIVISOR


def scaled_blocks(stage: int, depth: float) -> int:
    """Return the number of blocks of a stage scaled by `depth`; the first and the last stage are not scaled."""
    blocks = STAGES[stage][2]
    return blocks if stage in (0, len(STAGES) - 1) else math.ceil(blocks * depth)


class SamePadConv(nn.Conv2d):
    """Convolve with TensorFlow's "same" padding, which is asymmetric if the stride is 2."""

    def forward(self, x: Tensor) -> Tensor:
        pads, skips = [], []
        for size, kernel, stride in zip(x.shape[2:], self.kernel_size, self.stride):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            skips.append(total % 2)
            pads.append(total // 2 + stride * skips[-1])  # one more output at the front, which costs less than a padded copy of x
        y = F.conv2d(x, self.weight, self.bias, self.stride, tuple(pads), 1, self.groups)
        return y[:, :, skips[0] :, skips[1] :]


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Return a batch norm with the epsilon of the original TensorFlow network."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPSILON)


class MBConv(nn.Module):
    """Inverted residual block: expand, depthwise convolution, project."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int):
        super().__init__()
        inner = inputs * expansion
        self.expands = expansion > 1
        self.residual = stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv = SamePadConv(inputs, inner, 1, bias=False)
            self._bn0 = batch_norm(inner)
        self._depthwise_conv = SamePadConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = batch_norm(inner)
        self._project_conv = SamePadConv(inner, outputs, 1, bias=False)
        self._bn2 = batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self.residual else h


class EfficientNetLite(nn.Module):
    """ImageNet classifier that also returns maps and pooled features. Images: float (B, 3, H, W) in [-1, 1]."""

    def __init__(self, variant: Variant):
        super().__init__()
        self._conv_stem = SamePadConv(3, STEM, 3, 2, bias=False)
        self._bn0 = batch_norm(STEM)
        blocks, inputs, self.ends = [], STEM, []  # ends: the index of each stage's last block
        for stage, (expansion, channels, _, kernel, stride) in enumerate(STAGES):
            outputs = scaled_channels(channels, variant.width)
            for i in range(scaled_blocks(stage, variant.depth)):
                blocks.append(MBConv(inputs, outputs, expansion, kernel, stride if i == 0 else 1))
                inputs = outputs
            self.ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SamePadConv(inputs, HEAD, 1, bias=False)
        self._bn1 = batch_norm(HEAD)
        self._fc = nn.Linear(HEAD, 1000)

    def stages(self, images: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
        """Return the maps (B, C, H', W') after the blocks with indices `taps`; later blocks are not computed."""
        x = F.relu6(self._bn0(self._conv_stem(self._network_input(images))))
        maps = []
        for number, block in enumerate(self._blocks[: max(taps) + 1]):
            x = block(x)
            if number in taps:
                maps.append(x)
        return maps

    def pooled(self, images: Tensor) -> Tensor:
        """Return the average-pooled head features (B, 1280), the input of the classification layer."""
        (x,) = self.stages(images, (len(self._blocks) - 1,))
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Return ImageNet logits (B, 1000)."""
        return self._fc(self.pooled(images))

    @staticmethod
    def _network_input(images: Tensor) -> Tensor:
        return (images * 127.5 + 0.5) / 128  # (byte - 127) / 128, as in the networks' training


def fold_batch_norms(network: EfficientNetLite) -> EfficientNetLite:
    """Fold every batch norm of a frozen network into the convolution before it: the same function, faster."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_expand_conv", "_bn0")] if block.expands else []
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for module, conv, norm in pairs:
        setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm)))
        setattr(module, norm, nn.Identity())
    return network


def load(name: str = "effnet-lite0", pretrained: bool = True) -> EfficientNetLite:
    """Return the frozen network `name` of `VARIANTS` with its ImageNet weights; `pretrained=False` is for timing only.

    Raises MissingWeights if the weights file is not available.
    """
    network = EfficientNetLite(VARIANTS[name])
    if pretrained:
        path = weights.require(name)[name]
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return fold_batch_norms(network.eval()).requires_grad_(False)
