"""The two forms of an image: uint8 in files and memory, float in [-1, 1] in networks."""

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Round float images in [-1, 1], any shape, to uint8; values outside are clipped."""
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images to float in [-1, 1], in torch's default dtype."""
    return images / 127.5 - 1
