"""A folder or .zip of generated images from any generator, read exactly as it is: nothing resized, skipped or dropped."""

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from errors import UserError

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}


def is_generated(path: Path) -> bool:
    """Tell a folder or .zip of images from a run or a checkpoint. Raises UserError when there is nothing at `path`."""
    if not path.exists():
        raise UserError(f"{path}: no such run, checkpoint, or folder or .zip of images")
    if path.is_dir():
        return not ((path / "checkpoints").is_dir() or (path / "config.yaml").is_file())
    return path.suffix.lower() == ".zip"


def digest(images: Tensor) -> str:
    """Return the sha256 of the pixels, in the order of the images."""
    return hashlib.sha256(images.numpy()).hexdigest()


def read_generated(path: Path, limit: int | None = None) -> Tensor:
    """Return the images uint8 (N, 3, H, W) in the order of their names, the first `limit` of them.

    Two equal images stay two: they are what the generator made. Decoded to RGB as pytorch-fid decodes. Raises
    UserError when there is no image, one cannot be read, or two differ in size.
    """
    images, first = [], None
    for name, content in _contents(path, limit):
        image = _decode(f"{path}/{name}", content)
        first = first or (name, image.shape)
        if image.shape != first[1]:
            sizes = [f"{shape[1]}x{shape[2]}" for shape in (first[1], image.shape)]
            raise UserError(f"{path}: the images differ in size ({first[0]} is {sizes[0]}, {name} is {sizes[1]} pixels, "
                            "height x width); generated images are compared as they are, so bring them to one size")
        images.append(image)
    if not images:
        raise UserError(f"{path}: no images (none of {' '.join(FORMATS)}); point at the folder that holds them")
    if limit is not None and len(images) < limit:
        raise UserError(f"{path}: --num-samples {limit} and only {len(images)} images; leave it out to use them all")
    return torch.stack(images)


def _contents(path: Path, limit: int | None) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every image file, sorted by name."""
    if path.is_dir():
        names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]
        for name in _chosen(names, limit):
            yield name, (path / name).read_bytes()
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for name in _chosen(archive.namelist(), limit):
                yield name, archive.read(name)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # RuntimeError: encrypted
        raise UserError(f"{path}: not a .zip that can be read ({error}); unpack it and give the folder") from None


def _chosen(names: list[str], limit: int | None) -> list[str]:
    """Keep image files, without what file managers hide or leave behind."""
    def visible(name: str) -> bool:
        return not any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)

    return sorted(name for name in names if visible(name) and PurePosixPath(name).suffix.lower() in FORMATS)[:limit]


def _decode(name: str, content: bytes) -> Tensor:
    try:
        with Image.open(io.BytesIO(content), formats=tuple(set(FORMATS.values()))) as image:
            pixels = np.array(image.convert("RGB"))  # (H, W, 3)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{name}: cannot be read as an image ({error}); make it again or remove it") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
