"""Read a folder or .zip of images into one uint8 tensor, and report which files were left out and why."""

import difflib
import hashlib
import json
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PureWindowsPath

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from data import names as spelling
from data.decode import FITS, MODES, Decoded, Unusable, decode, fitted, pixels_of
from data.progress import ProgressLine
from data.sniff import HEAD, SUFFIXES, foreign_format, is_archive, is_picture
from errors import UserError

READER = 2  # version of the reader, which runs record; 1 converted no colours and decoded large photographs at full size
MAX_FILE_BYTES = 256 * 2**20
MAX_REPORT_LINES = 20
_NEVER_REDUCED = 2**16, 2**16  # no JPEG is larger

Read = Callable[..., bytes]  # () returns the content, (n) its first n bytes; raises Unusable
ARCHIVE = Unusable("archive", "an archive inside; unpack it")
SHEET = Unusable("of sample.py", "a sheet or film beside its samples")
REPLACED = Unusable("replaced", "a later member of the .zip has the same name")


@dataclass(frozen=True)
class ImageSet:
    """The usable images of one folder or .zip, sorted by name."""

    images: Tensor  # uint8 (N, C, H, W); see models.pixels
    names: list[str]  # POSIX paths in the folder or .zip, without a folder that contains all files of the .zip
    report: list[str]  # the summary, then one line per file left out (bounded)
    fingerprint: str  # sha256 hex of the pixels, the names and the transform
    files: list[str]  # names for `load_originals`
    duplicates: dict[str, str]  # a file left out -> the image with the same pixels
    transform: dict
    reader: int  # version of the reader: READER, or that of an older run

    def respelled(self, names: list[str]) -> "ImageSet":
        """Return these images under the `names` of a run if both differ only in spelling; else return self.

        Spelling means the Unicode normal form and folders that contain all images. Order and fingerprint become those of
        `names` too, so a run continues with a copy of its images on another file system or in an archive.
        """
        names = sorted(names)
        order = spelling.matched(names, self.names, self.duplicates)
        if order is None or names == self.names:
            return self
        images = self.images[order]
        return replace(
            self,
            images=images,
            names=names,
            files=[self.files[i] for i in order],
            fingerprint=_fingerprint(images.numpy(), names, self.transform),
        )


@dataclass(frozen=True)
class Listing:
    """The files of a folder or .zip, without hidden ones. A folder that cannot be listed counts as an image, with a name `x/`."""

    images: dict[str, Read]  # files with the content or the suffix of an image, by name
    others: list[str]  # files that are no images
    archives: list[str]  # archives inside, which may hold images
    sheets: list[str]  # images that sample.py wrote beside its samples
    replaced: list[str]  # members of a .zip that a later one of the same name replaces
    system: list[str]  # files and folders that operating systems create, by their own name; not opened

    @property
    def total(self) -> int:
        """Return the number of files, without system files."""
        return len(self.images) + len(self.others) + len(self.archives) + len(self.sheets) + len(self.replaced)

    def left_out(self) -> str:
        """Return the system files, as the end of a summary."""
        return f"; left out system files: {some(self.system)}" if self.system else ""


def load_images(
    path: str | os.PathLike,
    *,
    resolution: tuple[int, int],
    fit: str = "crop",
    background: str = "white",
    channels: str = "rgb",
    minimum: int = 1,
    reader: int = READER,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Read every image in a folder (nested or flat) or .zip at `resolution` (height, width).

    A file that is no usable image is skipped and named in the report; of images with the same pixels only the first is kept.
    The summary counts every file except hidden ones (a name or folder that begins with a dot) and system files, which it names
    at its end. `background`, a colour name or #rrggbb, fills transparent and padded areas. `channels` is a key of MODES; rgba keeps
    transparency, and pads with it. `reader` is the version of the
    reader that a run began with; version 1 decodes large photographs at full size. `progress(done, total)` is called after each
    file; by default it prints a line on stderr.

    Raises UserError if the path, `fit` or `background` is wrong, or fewer than `minimum` images are usable.
    """
    _check_fit(fit)
    colour = colour_of(background)
    progress = progress or ProgressLine()
    with listed(path) as found:
        _check_any(found, path)
        pixels = np.empty((len(found.images), len(MODES[channels]), *resolution), dtype=np.uint8)
        notes = _Notes()
        enough = resolution if reader > 1 else _NEVER_REDUCED
        decoded = partial(decode, background=colour, enough=enough, channels=channels)
        kept = _read_into(pixels, found, notes, decoded, (resolution, fit, colour), progress)
    names = list(kept.values())
    report = [*notes.report(found, len(names), resolution), *notes.advice(channels, background)]
    _check_enough(path, len(names), minimum, report)
    pixels.resize((len(names), *pixels.shape[1:]), refcheck=False)  # in place: frees the unused memory without a copy
    transform = {"resolution": list(resolution), "fit": fit, "background": list(colour)}
    transform |= {"channels": channels} if channels != "rgb" else {}  # fingerprints of earlier revisions had none
    return ImageSet(
        torch.from_numpy(pixels),
        names,
        report,
        _fingerprint(pixels, names, transform),
        files=names,
        duplicates=notes.duplicates,
        transform=transform,
        reader=reader,
    )


def _read_into(
    pixels: np.ndarray,
    found: Listing,
    notes: "_Notes",
    decoded: Callable[[bytes], Decoded],
    shape: tuple,
    progress: Callable[[int, int], None],
) -> dict[bytes, str]:
    """Write every distinct image into `pixels`; return {digest of its pixels: name} in the same order."""
    kept: dict[bytes, str] = {}
    for done, (name, read) in enumerate(found.images.items(), 1):
        try:
            picture = decoded(read())
            image, enlarged = fitted(picture.image, *shape)
            pixels[len(kept)] = pixels_of(image)
            digest = hashlib.sha256(pixels[len(kept)]).digest()
            if digest in kept:
                notes.duplicate(name, kept[digest])
            else:
                kept[digest] = name
                notes.num_upscaled += enlarged
                notes.num_converted += picture.converted
                notes.num_transparent += picture.transparent
        except Unusable as reason:
            notes.skip(name, reason)
        progress(done, len(found.images))
    return kept


def _check_enough(path: str | os.PathLike, num: int, minimum: int, report: list[str]) -> None:
    if num < minimum:
        raise UserError(
            f"data.path: {path} gives {_count(num, 'usable image')} and at least {minimum} are needed "
            f"({'; '.join(report[:2])}); add or repair images"
        )


def load_originals(path: str | os.PathLike, names: list[str], *, background: str = "white") -> list[Tensor]:
    """Return images of a folder or .zip, uint8 (3, H, W) each, named by the `files` of an ImageSet.

    Images keep their original size; above 100 megapixels they are reduced.
    """
    with listed(path) as found:
        pictures = [np.asarray(decode(found.images[name](), colour_of(background)).image) for name in names]
    return [torch.from_numpy(picture.transpose(2, 0, 1).copy()) for picture in pictures]


def load_picture(
    path: str | os.PathLike, *, resolution: tuple[int, int], fit: str = "crop", background: str = "white", channels: str = "rgb"
) -> Tensor:
    """Read one file as `load_images` reads each file of a folder: uint8 (C, H, W). Raises UserError if it is no usable image."""
    _check_fit(fit)
    colour = colour_of(background)
    try:
        picture = decode(_read_file(os.fspath(path)), colour, enough=resolution, channels=channels).image
    except Unusable as reason:
        detail = spelling.printable(reason.detail)
        raise UserError(f"{path}: cannot be read as an image ({reason.kind}: {detail}); give an image, or a folder of images") from None
    return torch.from_numpy(pixels_of(fitted(picture, resolution, fit, colour)[0]).copy())


def _check_any(found: Listing, path: str | os.PathLike) -> None:
    if not found.images:
        archives = f"; {some(found.archives)}: an archive inside, unpack it" if found.archives else ""
        raise UserError(
            f"data.path: no images in {path} ({_count(found.total, 'file')}, none of {' '.join(SUFFIXES)}{archives}{found.left_out()}); "
            "point it at the folder that holds them"
        )


class _Notes:
    """What happened to the files, and the report of it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.kinds: Counter[str] = Counter()
        self.duplicates: dict[str, str] = {}
        self.num_upscaled = 0
        self.num_converted = 0
        self.num_transparent = 0

    def skip(self, name: str, reason: Unusable) -> None:
        self.kinds[reason.kind] += 1
        self.lines.append(f"skipped {name}: {reason.kind} ({spelling.printable(reason.detail)})")

    def duplicate(self, name: str, twin: str) -> None:
        self.duplicates[name] = twin
        self.lines.append(f"dropped {name}: same pixels as {twin}")

    def report(self, found: Listing, num_images: int, resolution: tuple[int, int]) -> list[str]:
        """Return the summary, up to MAX_REPORT_LINES lines on files left out, and one line on files that are no images."""
        for names, reason in ((found.archives, ARCHIVE), (found.sheets, SHEET), (found.replaced, REPLACED)):
            for name in names:
                self.skip(name, reason)
        height, width = resolution
        size = f"{height}x{width}" if height == width else f"{height}x{width} (height x width)"
        counts = [f"{number} {kind}" for kind, number in self.kinds.items()]
        if self.duplicates:
            counts.append(_count(len(self.duplicates), "duplicate"))
        if found.others:
            counts.append(_count(len(found.others), "no image"))
        if self.num_upscaled:
            counts.append(f"{self.num_upscaled} upscaled")
        if self.num_converted:
            counts.append(f"{self.num_converted} converted to sRGB")
        summary = f"{_count(found.total, 'file')} -> {_count(num_images, 'image')} at {size}"
        lines = self.lines[:MAX_REPORT_LINES]
        if len(self.lines) > len(lines):
            lines.append(f"and {len(self.lines) - len(lines)} more")
        if found.others:
            lines.append(f"no image: {some(found.others)}")
        return [(": ".join([summary, ", ".join(counts)]) if counts else summary) + found.left_out(), *lines]

    def advice(self, channels: str, background: str) -> list[str]:
        """Return what to say about transparent pixels."""
        if channels == "rgba" and not self.num_transparent:
            return ["no image has transparent pixels: data.channels=rgb gives the same, faster"]
        if channels != "rgba" and self.num_transparent:
            images = _count(self.num_transparent, "image")
            lost = f"{images} with transparent pixels, which are now {background} (data.background)"
            return [f"{lost}; method: imle keeps them with data.channels=rgba"]
        return []


@contextmanager
def listed(path: str | os.PathLike, what: str = "data.path") -> Iterator[Listing]:
    """Open a folder or .zip and list its files. Raises UserError, with `what` first in its message, if it is neither."""
    root = os.path.expanduser(path)  # the shell does not expand the ~ of `data.path=~/cats`
    if os.path.isdir(root):
        yield _sorted_out(*_folder_files(root, what))
        return
    if not os.path.isfile(root):
        raise UserError(f"{what}: no folder or .zip {root!r} (looked from {os.getcwd()}); name one that has images")
    try:
        archive = zipfile.ZipFile(root)
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise UserError(f"{what}: {root} is neither a folder nor a readable .zip ({error}); give a folder or .zip of images") from None
    with archive:
        yield _sorted_out(*_zip_files(archive, f"{what}: {root}"))


def some(names: list[str]) -> str:
    """Return the first MAX_REPORT_LINES names, and the number of the others."""
    more = len(names) - MAX_REPORT_LINES
    return ", ".join(names[:MAX_REPORT_LINES]) + (f" and {more} more" if more > 0 else "")


def _sorted_out(files: list[tuple[str, Read]], system: dict[str, None]) -> Listing:
    """Sort files by kind. Of equal names the last file counts, as when an archive is unpacked."""
    found = Listing({}, [], [], [], [], list(map(spelling.printable, system)))
    last: dict[str, Read] = {}
    for name, (_, read) in zip(spelling.spelled([name for name, _ in files]), files):
        if name in last:
            found.replaced.append(name)
        last[name] = read
    for name in sorted(last):
        _place(found, name, last[name])
    found.sheets.extend(spelling.sheets(found.images))
    for name in found.sheets:
        del found.images[name]
    return found


def _place(found: Listing, name: str, read: Read) -> None:
    """Add a file to the images, the archives or the others, by its name and its first bytes."""
    if name.lower().endswith((*SUFFIXES, "/")):
        found.images[name] = read  # whatever its content; decoding reports errors
        return
    try:
        head = read(HEAD)
    except Unusable:
        found.images[name] = read  # unreadable; reading it again reports why
        return
    foreign = foreign_format(name, head) if head else None
    if foreign:
        found.images[name] = partial(_refuse, "unsupported", f"{foreign}, which is not supported; save it as PNG or JPEG")
    elif is_picture(name, head):
        found.images[name] = read
    else:
        (found.archives if is_archive(name, head) else found.others).append(name)


def _folder_files(root: str, what: str) -> tuple[list[tuple[str, Read]], dict[str, None]]:
    """List a folder; links to folders are followed, but each real folder is entered once, so loops end.

    Returns (POSIX path in the folder, its reader) for each file, and the names of system files. Raises UserError.
    """
    try:
        os.listdir(root)
    except OSError as error:
        raise UserError(f"{what}: cannot list {root} ({error.strerror}); make it readable") from None
    files: list[tuple[str, Read]] = []
    system: dict[str, None] = {}
    entered = {os.path.realpath(root)}

    def inside(path: str) -> str:
        return Path(path).relative_to(root).as_posix()

    def note_unlistable(error: OSError) -> None:
        files.append((inside(error.filename) + "/", partial(_refuse, "unreadable", f"cannot list it: {error.strerror}")))

    for folder, subfolders, filenames in os.walk(root, followlinks=True, onerror=note_unlistable):
        visible = [name for name in sorted([*subfolders, *filenames]) if not spelling.hidden(name)]
        system |= dict.fromkeys(filter(spelling.made_by_system, visible))
        visible = {name for name in visible if name not in system}
        for name in sorted(subfolders):
            real = os.path.realpath(os.path.join(folder, name))
            if name not in visible or real in entered:
                subfolders.remove(name)
            else:
                entered.add(real)
        subfolders.sort()
        paths = [os.path.join(folder, name) for name in filenames if name in visible]
        files += [(inside(path), partial(_read_file, path)) for path in paths]
    return files, system


def _read_file(path: str, first: int | None = None) -> bytes:
    """Read one ordinary file, or its first bytes. Raises Unusable, also for a pipe or device, which is never opened."""
    if not os.path.isfile(path):
        raise Unusable("unreadable", "not an ordinary file, or a link to nothing")
    try:
        if first is None:
            _check_bytes(os.path.getsize(path))
        with open(path, "rb") as file:
            return file.read(first)
    except OSError as error:
        raise Unusable("unreadable", error.strerror or str(error)) from None


def _zip_files(archive: zipfile.ZipFile, named: str) -> tuple[list[tuple[str, Read]], dict[str, None]]:
    """List a .zip, as `_folder_files` does, without a folder that contains everything.

    Members are read into memory, never unpacked. A member with a name that points outside the archive is not read.
    """
    files: list[tuple[str, Read]] = []
    system: dict[str, None] = {}
    for info in archive.infolist():
        marked = info.flag_bits & 0x800  # as UTF-8; macOS writes UTF-8 without this mark
        name = info.filename if marked else spelling.utf8(info.filename)
        member = PureWindowsPath(name)  # splits at both slashes and knows drive letters
        if info.filename.endswith(("/", "\\")) or any(map(spelling.hidden, member.parts)):
            continue
        made = [part for part in member.parts if spelling.made_by_system(part)]
        if made:
            system[made[0]] = None
            continue
        if info.flag_bits & 1:
            raise UserError(f"{named} is encrypted; unpack it and give the folder")
        outside = member.anchor or ".." in member.parts
        refuse = partial(_refuse, "unsafe", "its name points outside the archive")
        files.append((member.as_posix(), refuse if outside else partial(_read_member, archive, info)))
    top = spelling.top_folder([name for name, _ in files])
    return [(name.removeprefix(top), read) for name, read in files], system


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, first: int | None = None) -> bytes:
    """Read one member, or its first bytes. zipfile stops at the size in the header, which bounds the memory. Raises Unusable."""
    try:
        if first is None:
            _check_bytes(info.file_size)
        with archive.open(info) as file:
            return file.read(first)
    except Unusable:
        raise
    except Exception as error:  # zipfile raises zlib.error, EOFError, NotImplementedError and others
        raise Unusable("unreadable", str(error) or type(error).__name__) from None


def _refuse(kind: str, detail: str, first: int | None = None) -> bytes:
    raise Unusable(kind, detail)


def _check_bytes(num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise Unusable("too large", f"{num_bytes} bytes, more than {MAX_FILE_BYTES // 2**20} MiB")


def _check_fit(fit: str) -> None:
    if fit not in FITS:
        close = difflib.get_close_matches(str(fit), FITS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UserError(f"data.fit: unknown {fit!r}; {hint}use {', '.join(FITS[:-1])} or {FITS[-1]}")


def colour_of(background: str) -> tuple[int, int, int]:
    """Return the levels of a colour name or #rrggbb. Raises UserError."""
    try:
        return ImageColor.getrgb(background)[:3]
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"data.background: {background!r} is not a colour; use a name such as white, or #rrggbb") from None


def _fingerprint(pixels: np.ndarray, names: list[str], transform: dict) -> str:
    digest = hashlib.sha256(json.dumps([names, transform], sort_keys=True).encode())
    digest.update(pixels)
    return digest.hexdigest()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
