"""Read a folder, .zip or .npz of generated images exactly as it is: no image is resized, skipped or dropped."""

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.decode import Unusable, decode
from data.folder import Listing, Read, listed, some
from data.progress import ProgressLine
from data.sniff import SUFFIXES
from errors import UserError

WHITE = (255, 255, 255)


class Generated(NamedTuple):
    """The images of a generator, and a report on the other files of their folder."""

    images: Tensor  # uint8 (N, 3, H, W)
    report: str  # "102 files -> 100 images: 2 no images (notes.txt, seeds.json)"


def is_generated(path: Path) -> bool:
    """Return whether `path` holds images, not a run or a checkpoint. Raises UserError if `path` does not exist."""
    if not path.exists():
        raise UserError(f"{path}: no such run, checkpoint, or folder, .zip or .npz of images")
    if path.is_dir():
        return not ((path / "checkpoints").is_dir() or (path / "config.yaml").is_file())
    return path.suffix.lower() in (".zip", ".npz")


def read_generated(path: Path, limit: int | None = None) -> Generated:
    """Return the first `limit` images in the order of their names, and a line on the other files.

    Files are listed and decoded like real images (transparency on white), so a folder has distance 0 to itself; 8-bit RGB is
    decoded as by pytorch-fid. Equal images are all kept, because the generator made them. Sheets and films that sample.py wrote
    beside its samples are left out. Raises UserError if there is no image, one cannot be read, or two differ in size.
    """
    if path.suffix.lower() == ".npz":
        images = _read_array(path)[:limit]
        return Generated(images, f"1 file -> {len(images)} images{_short_of(limit, images)}")
    progress, pixels, first = ProgressLine(), [], None
    with listed(path, "the samples") as found:
        names = list(found.images)
        if not names:
            raise UserError(f"{path}: no images (none of {' '.join(SUFFIXES)}{found.left_out()}); point at the folder that holds them")
        for done, name in enumerate(names[:limit], 1):
            image = _picture(f"{path}/{name}", found.images[name])
            first = first or (name, image.shape)
            if image.shape != first[1]:
                sizes = [f"{shape[1]}x{shape[2]}" for shape in (first[1], image.shape)]
                raise UserError(
                    f"{path}: the images differ in size ({first[0]} is {sizes[0]}, {name} is {sizes[1]} pixels, "
                    "height x width); generated images are not resized, so give them one size"
                )
            pixels.append(image)
            progress(done, len(names[:limit]))
    images = torch.stack(pixels)
    return Generated(images, _report(found, len(images), len(names) - len(images)) + _short_of(limit, images))


def _report(found: Listing, num_images: int, num_beyond: int) -> str:
    """Return the report line on the files of a folder."""
    kinds = (
        (found.sheets, "sheet or film of sample.py", "sheets or films of sample.py"),
        (found.others, "no image", "no images"),
        (found.archives, "archive inside", "archives inside"),
        (found.replaced, "replaced by a later member of its name", "replaced by later members of their names"),
    )
    parts = [f"{len(names)} {one if len(names) == 1 else more} ({some(names)})" for names, one, more in kinds if names]
    if num_beyond:
        parts.append(f"{num_beyond} beyond --num-samples")
    summary = f"{found.total} file{'s' * (found.total != 1)} -> {num_images} image{'s' * (num_images != 1)}"
    return (f"{summary}: {', '.join(parts)}" if parts else summary) + found.left_out()


def _short_of(limit: int | None, images: Tensor) -> str:
    return f"; all are scored, which are fewer than --num-samples {limit}" if limit is not None and len(images) < limit else ""


def _read_array(path: Path) -> Tensor:
    """Read the first array of an .npz, uint8 (N, H, W, 3), the format of diffusion codebases. Raises UserError."""
    try:
        with np.load(path) as arrays:
            pixels = arrays[arrays.files[0]]
    except (OSError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a readable .npz ({error}); write one uint8 array (N, H, W, 3) into it") from None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or 0 in pixels.shape:
        raise UserError(f"{path}: holds {pixels.dtype} {pixels.shape}; images are one uint8 array (N, H, W, 3)")
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _picture(name: str, read: Read) -> Tensor:
    try:
        pixels = np.array(decode(read(), WHITE).image)  # (H, W, 3)
    except Unusable as reason:
        raise UserError(f"{name}: cannot be read as an image ({reason.kind}: {reason.detail}); make it again or remove it") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
