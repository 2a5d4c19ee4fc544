"""Owns reading a folder or .zip of images into one uint8 tensor, and the report of what was left out and why."""

import difflib
import hashlib
import json
import os
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from data.decode import FITS, Unusable, decode, fitted
from errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What telephones write: read or refused by name, because their folders are often half made of it.
FOREIGN_SUFFIXES = (".heic", ".heif", ".avif")
MAX_FILE_BYTES = 256 * 2**20
MAX_REPORT_LINES = 20
_NEVER_REDUCED = 2**16, 2**16  # no JPEG is larger

Files = dict[str, Callable[[], bytes]]  # name -> a function that reads the content or raises Unusable


@dataclass(frozen=True)
class ImageSet:
    """The usable images of one folder or .zip, sorted by name."""

    images: Tensor      # uint8 (N, 3, H, W)
    names: list[str]    # POSIX path relative to the folder, or inside the .zip
    report: list[str]   # the summary, then a line for each file left out (bounded)
    fingerprint: str    # sha256 hex of the pixels, the names and the transform


def load_images(
    path: str | os.PathLike,
    *,
    resolution: tuple[int, int],
    fit: str = "crop",
    background: str = "white",
    minimum: int = 1,
    whole: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read every image in a folder (nested or flat) or .zip at `resolution` (height, width).

    A file that gives no image is skipped and named in the report; of images with the same pixels the first is kept.
    `background` is a colour name or #rrggbb for what is transparent or padded. `whole` decodes large photographs whole, as
    revisions before 2 did. `progress(done, total)` is called after each file.

    Raises UserError when the path, `fit` or `background` is wrong, or fewer than `minimum` images are usable.
    """
    _check_fit(fit)
    colour = _colour(background)
    with _files(path) as files:
        candidates = _candidates(files, path)
        pixels = np.empty((len(candidates), 3, *resolution), dtype=np.uint8)
        notes = _Notes()
        kept: dict[bytes, str] = {}  # digest of the pixels -> name, in the order of `pixels`
        for done, name in enumerate(candidates, 1):
            try:
                picture = decode(files[name](), colour, enough=_NEVER_REDUCED if whole else resolution)
                image, enlarged = fitted(picture.image, resolution, fit, colour)
                pixels[len(kept)] = np.asarray(image).transpose(2, 0, 1)
                digest = hashlib.sha256(pixels[len(kept)]).digest()
                if digest in kept:
                    notes.duplicate(name, kept[digest])
                else:
                    kept[digest] = name
                    notes.num_upscaled += enlarged
                    notes.num_converted += picture.converted
            except Unusable as reason:
                notes.skip(name, reason)
            if progress:
                progress(done, len(candidates))
    names = list(kept.values())
    report = notes.report(len(candidates), len(names), resolution)
    if len(names) < minimum:
        raise UserError(
            f"data.path: {path} gives {_count(len(names), 'usable image')} and at least {minimum} are needed "
            f"({'; '.join(report[:2])}); add or mend images")
    pixels.resize((len(names), 3, *resolution), refcheck=False)  # in place: gives the unused memory back without a copy
    transform = {"resolution": list(resolution), "fit": fit, "background": list(colour)}
    return ImageSet(torch.from_numpy(pixels), names, report, _fingerprint(pixels, names, transform))


def load_originals(path: str | os.PathLike, names: list[str], *, background: str = "white") -> list[Tensor]:
    """Return images of a folder or .zip, uint8 (3, H, W) each, by the names in an ImageSet.

    They have the size they have there, or a fraction of it beyond 100 megapixels.
    """
    with _files(path) as files:
        pictures = [np.asarray(decode(files[name](), _colour(background)).image) for name in names]
    return [torch.from_numpy(picture.transpose(2, 0, 1).copy()) for picture in pictures]


def _candidates(files: Files, path: str | os.PathLike) -> list[str]:
    """Return the names that promise an image, sorted; a folder that cannot be listed, named `so/`, may hold some."""
    candidates = sorted(name for name in files if name.lower().endswith((*SUFFIXES, *FOREIGN_SUFFIXES, "/")))
    if not candidates:
        raise UserError(
            f"data.path: no images in {path} ({_count(len(files), 'file')}, none of {' '.join(SUFFIXES)}); "
            "point it at the folder that holds them")
    return candidates


class _Notes:
    """What happened to the files, and how to tell it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.num_duplicates = 0
        self.num_upscaled = 0
        self.num_converted = 0

    def skip(self, name: str, reason: Unusable) -> None:
        self.kinds[reason.kind] += 1
        self.lines.append(f"skipped {name}: {reason.kind} ({_printable(reason.detail)})")

    def duplicate(self, name: str, twin: str) -> None:
        self.num_duplicates += 1
        self.lines.append(f"dropped {name}: same pixels as {twin}")

    def report(self, num_files: int, num_images: int, resolution: tuple[int, int]) -> list[str]:
        """Write the summary line, then one line per file left out, at most MAX_REPORT_LINES of them."""
        height, width = resolution
        size = f"{height}x{width}" if height == width else f"{height}x{width} (height x width)"
        counts = [f"{number} {kind}" for kind, number in self.kinds.items()]
        if self.num_duplicates:
            counts.append(_count(self.num_duplicates, "duplicate"))
        if self.num_upscaled:
            counts.append(f"{self.num_upscaled} upscaled")
        if self.num_converted:
            counts.append(f"{self.num_converted} converted to sRGB")
        summary = f"{_count(num_files, 'file')} -> {_count(num_images, 'image')} at {size}"
        lines = self.lines[:MAX_REPORT_LINES]
        if len(self.lines) > len(lines):
            lines.append(f"and {len(self.lines) - len(lines)} more")
        return [": ".join([summary, ", ".join(counts)]) if counts else summary, *lines]


@contextmanager
def _files(path: str | os.PathLike) -> Iterator[Files]:
    """Open a folder or .zip as its files by name, hidden ones left out. Raises UserError when it is neither."""
    root = os.path.expanduser(path)  # the shell leaves the ~ of `data.path=~/cats` alone
    if os.path.isdir(root):
        yield _folder_files(root)
        return
    if not os.path.isfile(root):
        raise UserError(f"data.path: no folder or .zip {root!r} (looked from {os.getcwd()}); name one that has images")
    try:
        archive = zipfile.ZipFile(root)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise UserError(
            f"data.path: {root} is neither a folder nor a .zip that opens ({error}); give a folder or .zip of images"
        ) from None
    with archive:
        yield _zip_files(archive, root)


def _folder_files(root: str) -> Files:
    """List a folder, following links to folders but entering each real folder once, so that a loop ends."""
    try:
        os.listdir(root)
    except OSError as error:
        raise UserError(f"data.path: cannot list {root} ({error.strerror}); make it readable") from None
    files: Files = {}
    entered = {os.path.realpath(root)}

    def note_unlistable(error: OSError) -> None:
        files[_name(error.filename, root) + "/"] = partial(_refuse, "unreadable", f"cannot list it: {error.strerror}")

    for folder, subfolders, filenames in os.walk(root, followlinks=True, onerror=note_unlistable):
        for name in sorted(subfolders):
            real = os.path.realpath(os.path.join(folder, name))
            if _hidden(name) or real in entered:
                subfolders.remove(name)
            else:
                entered.add(real)
        subfolders.sort()
        for name in filenames:
            if not _hidden(name):
                path = os.path.join(folder, name)
                files[_name(path, root)] = partial(_read_file, path)
    return files


def _name(path: str, root: str) -> str:
    """Return a file's name in reports, manifests and splits: its POSIX path inside the folder."""
    return _printable(Path(path).relative_to(root).as_posix())


def _read_file(path: str) -> bytes:
    """Read one ordinary file; a pipe or device named like an image is never opened."""
    if not os.path.isfile(path):
        raise Unusable("unreadable", "not an ordinary file, or a link to nothing")
    try:
        _check_bytes(os.path.getsize(path))
        return Path(path).read_bytes()
    except OSError as error:
        raise Unusable("unreadable", error.strerror or str(error)) from None


def _zip_files(archive: zipfile.ZipFile, root: str) -> Files:
    """List a .zip. Members are only ever read into memory, and one whose name points outside is not even read."""
    files: Files = {}
    for info in archive.infolist():
        member = PureWindowsPath(info.filename)  # splits at both slashes and knows drive letters
        if info.is_dir() or any(_hidden(part) for part in member.parts):
            continue
        if info.flag_bits & 1:
            raise UserError(f"data.path: {root} is encrypted; unpack it and point data.path at the folder")
        name = _printable(str(PurePosixPath(member.as_posix())))
        outside = member.anchor or ".." in member.parts
        refuse = partial(_refuse, "unsafe", "its name points outside the archive")
        files[name] = refuse if outside else partial(_read_member, archive, info)
    return files


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Read one member; zipfile stops at the size that the header declares, so the check on it bounds the memory."""
    _check_bytes(info.file_size)
    try:
        return archive.read(info)
    except Exception as error:  # zipfile lets zlib.error, EOFError, NotImplementedError and more through
        raise Unusable("unreadable", str(error) or type(error).__name__) from None


def _refuse(kind: str, detail: str) -> bytes:
    raise Unusable(kind, detail)


def _check_bytes(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise Unusable("too large", f"{num_bytes} bytes, more than {MAX_FILE_BYTES // 2**20} MiB")


def _hidden(part: str) -> bool:
    """Tell whether a file or folder name is one that file managers hide or leave behind."""
    return part == "__MACOSX" or (part.startswith(".") and part != "..")


def _printable(name: str) -> str:
    """Write out line breaks, control characters and bytes that are not UTF-8, which would break reports and hashes."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        close = difflib.get_close_matches(str(fit), FITS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"data.fit: unknown {fit!r}; {hint}use {', '.join(FITS[:-1])} or {FITS[-1]}")


def _colour(background: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(background)[:3]
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"data.background: {background!r} is no colour; use a name such as white, or #rrggbb") from None


def _fingerprint(pixels: np.ndarray, names: list[str], transform: dict) -> str:
    digest = hashlib.sha256(json.dumps([names, transform], sort_keys=True).encode())
    digest.update(pixels)
    return digest.hexdigest()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
