"""A folder, .zip or .npz of images from any generator, read exactly as it is: nothing resized, skipped or dropped."""

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
    """Tell a folder, .zip or .npz of images from a run or a checkpoint. Raises UserError when nothing is at `path`."""
    if not path.exists():
        raise UserError(f"{path}: no such run, checkpoint, or folder, .zip or .npz of images")
    if path.is_dir():
        return not ((path / "checkpoints").is_dir() or (path / "config.yaml").is_file())
    return path.suffix.lower() in (".zip", ".npz")


def read_generated(path: Path, limit: int | None = None) -> Tensor:
    """Return the images uint8 (N, 3, H, W) in the order of their names, the first `limit` of them.

    Two equal images stay two: they are what the generator made. Decoded to RGB as pytorch-fid decodes. Raises
    UserError when there is no image, one cannot be read, or two differ in size.
    """
    if path.suffix.lower() == ".npz":
        images = _read_array(path)
        return _enough(images[:limit], path, limit)
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
    return _enough(torch.stack(images), path, limit)


def _enough(images: Tensor, path: Path, limit: int | None) -> Tensor:
    if limit is not None and len(images) < limit:
        raise UserError(f"{path}: --num-samples {limit} and only {len(images)} images; leave it out to use them all")
    return images


def _read_array(path: Path) -> Tensor:
    """Read the first array of a .npz, uint8 (N, H, W, 3), as diffusion codebases write their samples."""
    try:
        with np.load(path) as arrays:
            pixels = arrays[arrays.files[0]]
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not an .npz that can be read ({error}); write one uint8 array (N, H, W, 3) into it") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        raise UserError(f"{path}: holds {pixels.dtype} {pixels.shape}; images are one uint8 array (N, H, W, 3)")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


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
