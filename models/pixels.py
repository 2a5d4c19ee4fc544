"""The two forms of an image: bytes at rest, floats in [-1, 1] inside."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Round float images in [-1, 1], any shape, to uint8; what lies outside is clipped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Turn uint8 images into float in [-1, 1], of torch's default precision."""
    return images / 127.5 - 1
