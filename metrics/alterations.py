"""Real images changed in known ways: inexact copies, spoilt images that do not look real, and softer images.

The verdict is tested on them: if a test does not recognise these, it cannot clear a generator.
"""

import io
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SEED = 0  # of the noise and of the pairs
QUALITY = 40  # of JPEG
NOISE = 8  # levels, at most
BLUR = 1 / 64  # standard deviation of the blur, as a share of the shorter side
SHIFT = 3 / 64  # as a share of the width


def jpeg(images: Tensor) -> Tensor:
    """Return uint8 images (N, 3, H, W) after JPEG compression at quality 40."""
    changed = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
        changed.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(changed)


def noise(images: Tensor) -> Tensor:
    """Return uint8 images (N, 3, H, W) with uniform noise of up to 8 levels."""
    generator = torch.Generator().manual_seed(SEED)
    change = torch.randint(-NOISE, NOISE + 1, images.shape, generator=generator, dtype=torch.int16)
    return (images.short() + change).clamp(0, 255).to(torch.uint8)


def blur(images: Tensor) -> Tensor:
    """Return uint8 images (N, 3, H, W) after a Gaussian blur; its deviation is 1/64 of their shorter side."""
    deviation = BLUR * min(images.shape[2:])
    reach = max(1, round(3 * deviation))
    kernel = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, -1)
    padded = F.pad(images.float(), [reach] * 4, mode="replicate")
    return _bytes(F.conv2d(F.conv2d(padded, kernel[..., None], groups=3), kernel[:, :, None], groups=3))


def shift(images: Tensor) -> Tensor:
    """Return uint8 images (N, 3, H, W) moved right by 3/64 of their width (the edge repeated), then JPEG-compressed."""
    pixels = max(1, round(SHIFT * images.shape[3]))
    return jpeg(torch.cat([images[..., :1].expand(-1, -1, -1, pixels), images[..., :-pixels]], dim=3))


def quarter(images: Tensor) -> Tensor:
    """Return uint8 images (N, 3, H, W) resized to a quarter of their side and back."""
    small = F.interpolate(images.float(), scale_factor=1 / 4, mode="bicubic", antialias=True)
    return _bytes(F.interpolate(small, size=images.shape[2:], mode="bicubic"))


def resized(images: Tensor, size: Fraction) -> Tensor:
    """Return uint8 images (N, 3, H, W) resized to a share of their side, at least one pixel, and back."""
    sides = [max(1, round(side * size)) for side in images.shape[2:]]
    small = F.interpolate(images.float(), size=sides, mode="bicubic", antialias=True)
    return _bytes(F.interpolate(small, size=images.shape[2:], mode="bicubic"))


def pairs(images: Tensor) -> Tensor:
    """Return the average of each image, uint8 (N, 3, H, W), and another one."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    return _bytes((images[order].float() + images[order.roll(1)].float()) / 2)


# The keys are the words of the report.
COPIES: dict[str, Callable[[Tensor], Tensor]] = {"JPEG": jpeg, "noise": noise, "blur": blur, "shift and JPEG": shift}
SPOILT: dict[str, Callable[[Tensor], Tensor]] = {"blurred": blur, "reduced to a quarter": quarter, "averaged in pairs": pairs}
RESIZED: dict[str, Callable[[Tensor], Tensor]] = {
    size: partial(resized, size=Fraction(size)) for size in ("1", "7/8", "3/4", "5/8", "1/2", "3/8")
}


def changed_copies(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return images uint8 (N, 3, H, W), each changed by one of COPIES, and the number of that change (N,)."""
    ways = torch.arange(len(images)) % len(COPIES)
    changed = images.clone()
    for number, change in enumerate(COPIES.values()):
        if (ways == number).any():
            changed[ways == number] = change(images[ways == number])
    return changed, ways


def _bytes(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
