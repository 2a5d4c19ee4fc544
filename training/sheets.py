"""Sheets: image grids and PNG files. Needs only torch, numpy and pillow."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from atomic import written
from models.pixels import CHANNELS, over

CELL = 8  # pixels of a square of the checkerboard
LIGHT, DARK = 255, 204  # the levels of its two greys


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Tile uint8 images (N, C, H, W) row by row into one RGB image (3, height, width), `gap` white pixels apart."""
    n, _, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.full((3, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for i, image in enumerate(shown(images)):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def shown(images: Tensor) -> Tensor:
    """Return uint8 images (N, C, H, W) as RGB (N, 3, H, W): transparent ones over a checkerboard, grey ones in all channels."""
    height, width = images.shape[2:]
    dark = (torch.arange(height)[:, None] // CELL + torch.arange(width) // CELL) % 2 == 1  # (H, W)
    on_dark, on_light = (over(images, (level, level, level)) for level in (DARK, LIGHT))
    return torch.where(dark.to(images.device), on_dark, on_light)


def to_pil(image: Tensor) -> Image.Image:
    """Turn a uint8 image (C, H, W) into a PIL image: RGB, L, or RGBA with the colours divided by the opacity, as PNGs have them."""
    pixels = image.permute(1, 2, 0).contiguous().cpu().numpy()
    if len(image) == CHANNELS["grey"]:
        return Image.fromarray(pixels[..., 0])
    if len(image) == CHANNELS["rgba"]:
        opacity = pixels[..., 3:].astype(np.uint32)
        colours = (255 * pixels[..., :3].astype(np.uint32) + opacity // 2) // np.maximum(opacity, 1)
        return Image.fromarray(np.concatenate([colours, opacity], axis=2).astype(np.uint8))
    return Image.fromarray(pixels)


def save_png(image: Tensor, path: Path) -> None:
    """Write a uint8 image (C, H, W) as PNG, whole or not at all."""
    with written(path) as part:
        to_pil(image).save(part, format="PNG")
