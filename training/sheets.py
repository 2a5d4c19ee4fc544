"""Sheets: image grids and PNG files. Needs only torch, numpy and pillow."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from atomic import written


def grid(images: Tensor, columns: int, gap: int = 2) -> Tensor:
    """Tile uint8 images (N, 3, H, W) row by row into one image (3, height, width), `gap` white pixels apart."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    sheet = torch.full((channels, rows * (height + gap) + gap, columns * (width + gap) + gap), 255, dtype=torch.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def to_pil(image: Tensor) -> Image.Image:
    """Turn a uint8 image (3, H, W) into a PIL image."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def save_png(image: Tensor, path: Path) -> None:
    """Write a uint8 image (3, H, W) as PNG, whole or not at all."""
    with written(path) as part:
        to_pil(image).save(part, format="PNG")
