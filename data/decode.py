"""Owns the way from one image file's bytes to an upright 8-bit RGB picture of the wanted size."""

import io
import warnings

import numpy as np
from PIL import Image

FITS = ("crop", "pad", "stretch")
MAX_PIXELS = 100_000_000
# Only these decoders may run, whatever a file calls itself: Pillow would hand a "photo.png" that is PostScript inside
# to Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
RGB = tuple[int, int, int]


class Unusable(Exception):
    """Say why one file gives no image: `kind` is a word or two to count by, `detail` the whole reason."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def decode(content: bytes, background: RGB) -> Image.Image:
    """Decode the first frame: upright by its EXIF, transparency laid on `background`, any mode to 8-bit RGB.

    Raises Unusable, and nothing else, for content that is no image, damaged, oversized or without a defined white.
    """
    if not content:
        raise Unusable("empty", "the file is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of blemishes that cost no pixels
        try:
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            _check_size(image)  # before load(): only the header has been read so far
            image.load()
            return _rgb(_upright(image), background)
        except Unusable:
            raise
        except Image.DecompressionBombError:
            raise Unusable("too large", f"more than {MAX_PIXELS // 10**6} megapixels") from None
        except Image.UnidentifiedImageError:
            formats = f"{', '.join(_FORMATS[:-1])} nor {_FORMATS[-1]}"
            raise Unusable("unrecognised", f"neither {formats}, or cut off within its header") from None
        except Exception as error:  # hostile bytes make Pillow raise anything from KeyError to SystemError
            kind = "truncated" if "truncated" in str(error).lower() else "damaged"
            raise Unusable(kind, f"{error}" or type(error).__name__) from None


def fitted(image: Image.Image, resolution: tuple[int, int], fit: str, background: RGB) -> tuple[Image.Image, bool]:
    """Bring an RGB image to `resolution` (height, width), and say whether that enlarged it.

    `fit` is one of FITS: crop (the largest centred part of the right shape), pad (the whole image centred on
    `background`), stretch. Resizing is Pillow's LANCZOS: its filter widens when shrinking, so nothing aliases, and its
    sums are of integers, so every machine gets the same bytes and the fingerprint survives a move.
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
        canvas = Image.new("RGB", (width, height), background)
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = canvas
    return image, enlarged


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Unusable("too large", f"{width}x{height} is more than {MAX_PIXELS // 10**6} megapixels")
    if width < 1 or height < 1:
        raise Unusable("damaged", f"{width}x{height} holds no pixels")


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation. (ImageOps.exif_transpose also rewrites the EXIF block, and fails on damaged ones.)"""
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    except Exception:  # a damaged EXIF block does not spoil the pixels
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image, background: RGB) -> Image.Image:
    """Convert any mode to RGB, laying what is transparent on `background`."""
    if image.mode == "F":
        raise Unusable("unsupported", "floating-point pixels have no agreed white; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _eight_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    canvas = Image.new("RGBA", image.size, background)
    return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale 16-bit grey (modes I;16, and I where the values fit) to 8 bits; Pillow's own convert would clip at 255."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise Unusable("unsupported", "32-bit grey has no agreed white; save it with 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _centre_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    """Cut the largest centred part with the shape height:width, on whole pixels so that nothing is blurred twice."""
    crop_width = min(image.width, max(1, round(image.height * width / height)))
    crop_height = min(image.height, max(1, round(image.width * height / width)))
    left, top = (image.width - crop_width) // 2, (image.height - crop_height) // 2
    return image.crop((left, top, left + crop_width, top + crop_height))
