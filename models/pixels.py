"""The forms of an image: uint8 in files and memory, float in [-1, 1] in networks; its channels, and its colours over a background.

The colours of a transparent image are premultiplied: multiplied by the opacity (Porter & Duff 1984). So the colour that a file
stores where nothing is seen plays no part, and resizing mixes no hidden colour into an edge.
"""

import torch
from torch import Tensor

CHANNELS = {"rgb": 3, "rgba": 4, "grey": 1}  # data.channels; rgba: premultiplied red, green, blue, then opacity


def to_uint8(images: Tensor) -> Tensor:
    """Round float images (..., C, H, W) in [-1, 1] to uint8; values outside are clipped, and colours to the opacity if C is 4."""
    rounded = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    if images.ndim > 2 and images.shape[-3] == CHANNELS["rgba"]:
        return torch.minimum(rounded, rounded[..., 3:, :, :])
    return rounded


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 images to float in [-1, 1], in torch's default dtype."""
    return images / 127.5 - 1


def coloured(images: Tensor, background: Tensor) -> Tensor:
    """Return float RGB images (B, 3, H, W) of float images (B, C, H, W): what transparent images look like over a `background`.

    `background` holds colours in [-1, 1], (B, 3) or one for all (3,). RGB images stay the same tensor.
    """
    if images.shape[1] == CHANNELS["grey"]:
        return images.expand(-1, 3, -1, -1)
    if images.shape[1] == CHANNELS["rgba"]:
        colours, opacity = images.split([3, 1], dim=1)
        return colours + (1 - opacity) / 2 * (background[..., :, None, None] + 1)
    return images


def over(images: Tensor, background: tuple[int, int, int]) -> Tensor:
    """Return uint8 RGB images (N, 3, H, W) of uint8 images (N, C, H, W), transparent ones over a colour (levels)."""
    if images.shape[1] == CHANNELS["rgba"]:
        colour = to_float(torch.tensor(background, device=images.device))
        return to_uint8(coloured(to_float(images), colour))
    return images.expand(-1, 3, -1, -1)
