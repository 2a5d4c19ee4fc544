"""Find the colour space that a file defines for its pixels, and convert them to sRGB.

Every definition becomes an ICC profile. littlecms converts with it from 8 to 8 bits in integers, so every machine gets the
same bytes. The intent is relative colorimetric with black point compensation: colours inside sRGB keep their values, white
stays white, and the black of paper becomes black instead of grey.
"""

import io
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from data.opening import Unusable, png_chunks

_SRGB = ImageCms.createProfile("sRGB")
# sRGB profiles of different makers differ by at most 1 level (tables or formulas for the curve), or 4 if the matrix is rounded
# to three digits. The most similar other profile, gamma 2.2, differs by 9 levels in dark colours, by 7 in dark grey.
_SAME = 4
_LEVELS = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
_DEVICES = ("mntr", "scnr", "prtr", "spac")  # classes of profiles that describe pixels
_MAX_PROFILE = 16 * 2**20

Curve = Callable[[np.ndarray], np.ndarray]  # stored value to light, both in [0, 1]


def _power(exponent: float) -> Curve:
    return lambda stored: stored**exponent


def _srgb_curve(stored: np.ndarray) -> np.ndarray:
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def _bt709_curve(stored: np.ndarray) -> np.ndarray:
    return np.where(stored < 0.081, stored / 4.5, ((stored + 0.099) / 1.099) ** (1 / 0.45))


_D65, _C = (0.3127, 0.3290), (0.310, 0.316)
_SRGB_PRIMARIES = (0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65
_ADOBE_PRIMARIES = (0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65
_SMPTE170_PRIMARIES = (0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65
# Chromaticities (x, y) of red, green, blue and white, and transfer curves, by their codes in ITU-T H.273; 2 means unspecified.
_PRIMARIES = {
    1: _SRGB_PRIMARIES,
    2: _SRGB_PRIMARIES,
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), _C),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: _SMPTE170_PRIMARIES,
    7: _SMPTE170_PRIMARIES,
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), _C),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.314, 0.351)),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
_CURVES = {
    1: _bt709_curve,
    6: _bt709_curve,
    11: _bt709_curve,
    12: _bt709_curve,
    14: _bt709_curve,
    15: _bt709_curve,
    2: _srgb_curve,
    13: _srgb_curve,
    4: _power(2.2),
    5: _power(2.8),
    8: _power(1),
}
_HDR = {16: "PQ", 18: "HLG"}
# The D50 white of ICC profiles, and Bradford's cone responses for adapting another white to it (ICC.1:2022, E.3).
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def defined_profile(image: Image.Image, content: bytes, *, grey: bool) -> bytes | None:
    """Return the ICC profile of a loaded image, or None if its file defines no colour space.

    `grey` says whether the pixels are grey. Other definitions (PNG chunks, the code points of PNG and AVIF, the Adobe RGB of
    cameras) are converted to a profile. Raises Unusable for colours without an agreed white in 8 bits.
    """
    profile = _png_profile(content, grey) if image.format == "PNG" else image.info.get("icc_profile")
    if profile is None and image.format == "AVIF":
        profile = _avif_profile(content, grey)
    if profile is None and image.format == "BMP":
        profile = _bmp_profile(content)
    if profile is None and _is_adobe_rgb(image):
        profile = _made_profile(_ADOBE_PRIMARIES, _power(563 / 256), grey)
    return profile or None


def to_srgb(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, bool]:
    """Convert an image of mode L, I;16 (all 16 bits used), RGB, CMYK or LAB to RGB; return it and whether `profile` was used.

    Without a profile, or with a profile that is broken, for another mode or equivalent to sRGB, Pillow's plain conversion
    applies, and RGB pixels stay unchanged.
    """
    transform = _transform(profile, "L" if image.mode == "I;16" else image.mode) if profile else None
    if transform is not None and image.mode in ("L", "I;16"):
        table = np.asarray(transform.apply(_LEVELS))[0]
        if image.mode == "I;16":  # littlecms in older Pillows does not know this mode
            between = np.arange(65536) / 257
            table = np.stack([np.interp(between, np.arange(256), channel) for channel in table.T], 1).round().astype(np.uint8)
        return Image.fromarray(table[np.asarray(image)]), True
    if transform is not None:
        return transform.apply(image), True
    if image.mode == "I;16":
        values = np.asarray(image).astype(np.uint32)  # Pillow's convert would clip at 255
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    return image.convert("RGB"), False


@lru_cache(maxsize=64)  # the images of a set share a few profiles
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if it is broken, for another mode, or equivalent to sRGB."""
    if mode not in _SPACES:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space, device = source.profile.xcolor_space.strip(), source.profile.device_class.strip()
        if space != _SPACES[mode] or device not in _DEVICES:
            return None
        if mode != "CMYK" and _is_srgb(source, mode):
            return None
        return _built(source, mode)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _built(source: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
    if mode == "L":
        flags |= ImageCms.Flags.NOOPTIMIZE  # otherwise littlecms approximates the curve, 10 levels off in the dark
    return ImageCms.buildTransform(source, _SRGB, mode, "RGB", ImageCms.Intent.RELATIVE_COLORIMETRIC, flags)


def _is_srgb(source: ImageCms.ImageCmsProfile, mode: str) -> bool:
    """Return whether a profile moves no grey level, or no colour of a grid, by more than rounding."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(-1, len(levels), 3)
    grid = _LEVELS if mode == "L" else Image.fromarray(colours)
    moved = np.asarray(_built(source, mode).apply(grid)).astype(int) - np.asarray(grid.convert("RGB"))
    return np.abs(moved).max() <= _SAME


# ---------------------------------------------------------------- definitions in files


def _png_profile(content: bytes, grey: bool) -> bytes | None:
    """Read the colour space of a PNG, in the order of precedence of its specification: cICP, iCCP, sRGB, gAMA with cHRM.

    An empty profile means that the file says sRGB, None that it says nothing.
    """
    said: dict[bytes, bytes] = {}
    for kind, body, _ in png_chunks(content):
        if kind == b"IDAT":
            break
        said.setdefault(kind, body)
    if len(said.get(b"cICP", b"")) == 4:
        primaries, transfer, _, full_range = said[b"cICP"]
        return _coded_profile(primaries, transfer, grey, narrow=not full_range)
    profile = _inflated(said[b"iCCP"]) if b"iCCP" in said else None
    if profile or b"sRGB" in said:
        return profile or b""
    gamma, chromaticities = int.from_bytes(said.get(b"gAMA", b"")[:4], "big"), said.get(b"cHRM", b"")
    if not gamma and not chromaticities:
        return None
    primaries, curve = _SRGB_PRIMARIES, _srgb_curve
    if len(chromaticities) == 32:
        values = [value / 100_000 for value in struct.unpack(">8I", chromaticities)]
        white, *colours = zip(values[::2], values[1::2])
        primaries = *colours, white
    is_srgb = np.allclose(primaries, _SRGB_PRIMARIES, atol=2e-3)
    if 10_000 <= gamma <= 1_000_000:  # other values are damage
        # Software that knows no sRGB chunk writes sRGB as 1/2.2.
        curve = _srgb_curve if is_srgb and abs(gamma / 45_455 - 1) < 0.01 else _power(100_000 / gamma)
    return _made_profile(primaries, curve, grey)


def _inflated(body: bytes) -> bytes | None:
    """Unpack an iCCP chunk of up to 16 MiB; Pillow's bound is too small for some printer and scanner profiles."""
    try:
        return zlib.decompressobj().decompress(body[body.index(b"\0") + 2 :], _MAX_PROFILE)
    except (ValueError, zlib.error):
        return None


def _avif_profile(content: bytes, grey: bool) -> bytes | None:
    """Read the colour code points of an AVIF; Pillow has already applied the range and the matrix."""
    start = content.find(b"colrnclx") + 8
    if start < 8 or start + 4 > len(content):
        return None
    return _coded_profile(*struct.unpack_from(">HH", content, start), grey)


def _bmp_profile(content: bytes) -> bytes | None:
    """Read the profile after the pixels of a BMP with a version 5 header."""
    if len(content) < 138 or content[14] != 124 or content[70:74] != b"DEBM":
        return None
    offset, size = struct.unpack_from("<II", content, 126)
    return content[14 + offset : 14 + offset + size]


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Return whether EXIF says Adobe RGB as cameras write it: "uncalibrated" and the rule R03, or the code 2."""
    try:
        exif = image.getexif()
        space = exif.get_ifd(0x8769).get(0xA001)
        rule = exif.get_ifd(0xA005).get(1, "") if space == 0xFFFF else ""
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return False
    return space == 2 or (rule if isinstance(rule, str) else rule.decode("latin-1")).startswith("R03")


# ---------------------------------------------------------------- profiles from definitions


def _coded_profile(primaries: int, transfer: int, grey: bool, narrow: bool = False) -> bytes | None:
    """Make the profile of code points of ITU-T H.273; `narrow`: levels run from 16 to 235. Raises Unusable."""
    if transfer in _HDR:
        raise Unusable("unsupported", f"HDR ({_HDR[transfer]}) has no agreed white in 8 bits; save it as SDR, in sRGB")
    if primaries not in _PRIMARIES or transfer not in _CURVES:
        raise Unusable("unsupported", f"colours by the code points {primaries} and {transfer}; save it in sRGB")
    if primaries in (1, 2) and transfer in (2, 13) and not narrow:
        return b""  # sRGB
    return _made_profile(_PRIMARIES[primaries], _CURVES[transfer], grey, narrow)


def _made_profile(primaries: tuple, curve: Curve, grey: bool, narrow: bool = False) -> bytes | None:
    """Return an ICC profile (version 2: a table of the curve and, for colours, a matrix); None for impossible primaries."""
    stored = np.linspace(0, 1, 4096)
    if narrow:
        stored = np.clip((stored * 255 - 16) / 219, 0, 1)
    tone = struct.pack(">4s4xI", b"curv", len(stored)) + np.round(curve(stored) * 65535).astype(">u2").tobytes()
    tags = {b"wtpt": _xyz(_D50), b"kTRC": tone} if grey else {b"wtpt": _xyz(_D50), **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone)}
    try:
        if not grey:
            tags |= dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, _to_d50(primaries).T)))
    except (ArithmeticError, ValueError, struct.error, np.linalg.LinAlgError):  # primaries on one line
        return None
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(data), len(body))
        data += body
    header = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x",
        128 + len(table) + len(data),
        0x02400000,
        b"mntr",
        b"GRAY" if grey else b"RGB ",
        b"XYZ ",
        b"acsp",
        _xyz(_D50)[8:],
    )
    return header + table + data


def _to_d50(primaries: tuple) -> np.ndarray:
    """Return the matrix (3, 3) from linear RGB of these chromaticities to XYZ with the white adapted to D50."""
    columns = np.array([(x / y, 1, (1 - x - y) / y) for x, y in primaries])
    colours, white = columns[:3].T, columns[3]
    matrix = colours * np.linalg.solve(colours, white)
    adapted = np.linalg.solve(_BRADFORD, np.diag((_BRADFORD @ _D50) / (_BRADFORD @ white)) @ _BRADFORD)
    return adapted @ matrix


def _xyz(values: np.ndarray) -> bytes:
    return struct.pack(">4s4x3i", b"XYZ ", *(round(value * 65536) for value in values))
