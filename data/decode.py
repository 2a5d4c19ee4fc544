"""Decode one image file to an upright 8-bit picture, and fit it to the resolution."""

import io
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.colour import defined_profile, to_srgb
from data.opening import Unusable, alpha_may_be_unused, bits_per_sample, open_pixels, orientation, white_is_zero

FITS = ("crop", "pad", "stretch")
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MODES = {"rgb": "RGB", "rgba": "RGBa", "grey": "L"}  # Pillow's, by data.channels; RGBa has its colours multiplied by the opacity
RGB = tuple[int, int, int]


class Decoded(NamedTuple):
    """One picture, and what its file holds."""

    image: Image.Image  # a mode of MODES
    converted: bool  # its colours were converted to sRGB
    transparent: bool  # it has pixels that are not opaque


def decode(content: bytes, background: RGB, *, enough: tuple[int, int] | None = None, channels: str = "rgb") -> Decoded:
    """Decode the first frame to 8 bits: upright by its EXIF, colours in sRGB, transparent pixels over `background`.

    `channels` is one of MODES: rgba keeps transparent pixels as they are, grey keeps the brightness alone (Rec. 601).
    `enough` (height, width) is the size to which the caller reduces the image; see open_pixels. Colours are converted first, so
    compositing and resizing both happen in sRGB.

    Raises Unusable, and nothing else, for content that is no image, damaged, too large, without a defined white or fully
    transparent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of defects that do not affect pixels
        try:
            image = open_pixels(content, enough)
            colours, alpha = _parts(image, content)
            picture, converted = to_srgb(colours, defined_profile(image, content, grey=colours.mode in ("L", "I;16")))
            if alpha is not None:
                picture.putalpha(alpha)
            if channels == "rgba":
                picture = picture.convert("RGBA").convert("RGBa")
            elif alpha is not None:
                picture = Image.alpha_composite(Image.new("RGBA", image.size, background), picture).convert("RGB")
            if channels == "grey":
                picture = picture.convert("L")
            turn = _UPRIGHT.get(orientation(image))
            transparent = alpha is not None and alpha.getextrema()[0] < 255
            return Decoded(picture if turn is None else picture.transpose(turn), converted, transparent)
        except Unusable:
            raise
        except Exception as error:  # on hostile bytes Pillow raises anything from KeyError to SystemError
            known = (kind for kind in ("truncated", "unsupported") if kind in str(error).lower())
            raise Unusable(next(known, "damaged"), f"{error}" or type(error).__name__) from None


def fitted(image: Image.Image, resolution: tuple[int, int], fit: str, background: RGB) -> tuple[Image.Image, bool]:
    """Fit an image of one of MODES to `resolution` (height, width); return it and whether it was enlarged.

    `fit` is one of FITS: crop (the largest centred part of the right shape), pad (the whole image centred on `background`, or on
    nothing if it is transparent), stretch. Resizing uses Pillow's LANCZOS: its filter widens when shrinking, so nothing aliases, and
    its sums are integers, so every machine gets the same bytes and the same fingerprint.
    """
    height, width = resolution
    if fit == "crop":
        image = _centre_crop(image, height, width)
    size = width, height
    if fit == "pad":
        scale = min(width / image.width, height / image.height)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    enlarged = size[0] > image.width or size[1] > image.height
    image = image.resize(size, Image.Resampling.LANCZOS)
    if fit == "pad":
        clear = image.mode == MODES["rgba"]
        canvas = Image.new("RGBa", (width, height)) if clear else Image.new("RGB", (width, height), background).convert(image.mode)
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = canvas
    return image, enlarged


def pixels_of(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image of one of MODES, uint8 (C, H, W); premultiplied colours are clipped to the opacity."""
    pixels = np.asarray(image)
    if image.mode == MODES["rgba"]:
        pixels = np.minimum(pixels, pixels[..., 3:])  # resizing can overshoot
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _parts(image: Image.Image, content: bytes) -> tuple[Image.Image, Image.Image | None]:
    """Split a loaded image into its colours (L, I;16, RGB, CMYK or LAB) and its opacity (L), None if it is opaque. Raises Unusable."""
    if image.mode == "F":
        raise Unusable("unsupported", "floating-point pixels have no agreed white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        colours, alpha = _grey16(image)
    elif not image.has_transparency_data:
        kept = {"1": "L", "L": "L", "CMYK": "CMYK", "LAB": "LAB"}
        return image.convert(kept.get(image.mode, "RGB")), None
    else:
        colours, alpha = _with_alpha(image, content)
    if alpha is not None and alpha.getextrema()[1] == 0:
        if not alpha_may_be_unused(image):
            raise Unusable("transparent", "every pixel is fully transparent; give it an opaque part, or remove it")
        alpha = None
    return colours, alpha


def _with_alpha(image: Image.Image, content: bytes) -> tuple[Image.Image, Image.Image]:
    """Split colours and opacity: transparency is a channel, part of a palette, or a key (one transparent colour)."""
    key = image.info.get("transparency")
    if image.format == "PNG" and image.mode in ("1", "L"):  # Pillow scaled the pixels to 8 bits, but not the key
        most = 2 ** content[24] - 1
        del image.info["transparency"]
        levels = image.convert("L")
        clear = 255 * bool(key) if image.mode == "1" else (key & most) * 255 // most
        return levels, _opacity(np.asarray(levels) != clear)
    if image.format == "PNG" and image.mode == "RGB":
        if content[24] == 16:
            return image.convert("RGB"), _keyed16(image, key, content)
        image.info["transparency"] = tuple(level & 255 for level in key)
    grey = image.mode in ("L", "LA", "La") or (image.format == "PNG" and content[25] == 4)
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return rgba.getchannel("R") if grey else rgba.convert("RGB"), rgba.getchannel("A")


def _opacity(visible: np.ndarray) -> Image.Image:
    return Image.fromarray(visible.astype(np.uint8) * 255)


def _keyed16(image: Image.Image, key: tuple[int, int, int], content: bytes) -> Image.Image:
    """Return the opacity of 16-bit colours. Pillow keeps the high bytes; decoding as little-endian gives the low bytes."""
    low = Image.open(io.BytesIO(content), formats=("PNG",))
    low.tile = [(*low.tile[0][:3], "RGB;16L")]
    values = np.asarray(image).astype(np.uint16) * 256 + np.asarray(low)
    return _opacity((values != key).any(-1))


def _grey16(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Scale grey of 12 to 16 bits (mode I;16, or I if the values fit) to all 16 bits, and return the opacity of its key."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unusable("unsupported", "32-bit grey has no agreed white; save it with 8 or 16 bits")
    key, alpha = image.info.get("transparency"), None
    if key is not None:
        alpha = _opacity(values != key)
    most = 2 ** min(bits_per_sample(image), 16) - 1
    values = values.astype(np.uint32) * 65535 // most
    if white_is_zero(image):
        values = 65535 - values
    return Image.fromarray(values.astype(np.uint16)), alpha


def _centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Return the largest centred part with the shape height:width, cut on whole pixels to avoid a second interpolation."""
    crop_width = min(image.width, max(1, round(image.height * width / height)))
    crop_height = min(image.height, max(1, round(image.width * height / width)))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height))
