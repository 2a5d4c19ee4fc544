"""Open a file's bytes with Pillow: which formats, up to which size, and which damage is repaired."""

import io
import random
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageChops, ImagePalette, JpegImagePlugin, TiffImagePlugin, features

MAX_PIXELS = 100_000_000  # of a decoded image
_MAX_OPENED = 10 * MAX_PIXELS  # of a JPEG that is decoded at reduced size
_MAX_BUFFERED = 2 * MAX_PIXELS  # of a JPEG in several scans: the decoder keeps all coefficients at any size
_REDUCED_FROM = 4_000_000  # pixels; smaller JPEGs are decoded at full size, which costs little
# Only these decoders may run, whatever the suffix: Pillow would pass PostScript named "photo.png" to Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1"}
_AVIF_BRANDS = {b"avif", b"avis"}
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
ORIENTATION = 0x0112
_BITS, _PHOTOMETRIC, _PLANES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _PALETTE = 258, 262, 284, 338, 339, 320  # TIFF tags
_MISSING_SHARE = 1 / 32  # of a JPEG's area may be missing at its end
_COARSE_SHARE = 1 / 8  # of a progressive JPEG's height may lack the last bit of its coefficients
_END = b"\xff\xd9"
_NOISE = bytes(random.Random(0).choices(range(1, 255), k=1024))  # no 0xff, so no marker


class Unusable(Exception):
    """One file is no usable image: `kind` is a word or two for the summary, `detail` the whole reason."""

    def __init__(self, kind: str, detail: str):
        super().__init__(detail)
        self.kind = kind
        self.detail = detail


def open_pixels(content: bytes, enough: tuple[int, int] | None) -> Image.Image:
    """Open and load the first frame, in the mode that Pillow gives it.

    `enough` (height, width) is the upright size to which the caller reduces the image. A JPEG of more than 4 megapixels is then
    decoded at 1/2, 1/4 or 1/8 of its size, but at least at twice `enough` in both directions. Without `enough` it is decoded at
    the largest size within MAX_PIXELS. Raises Unusable, and any exception that Pillow raises.
    """
    if not content:
        raise Unusable("empty", "the file is empty")
    if content.startswith(b"\xff\xd8\xff"):
        return _jpeg(content, enough)
    if content[4:8] == b"ftyp":
        return _loaded(content, (_bmff_format(content),))
    if not content.startswith(b"\x89PNG"):
        return _loaded(content, _FORMATS)
    try:
        return _loaded(content, ("PNG",))
    except Exception as error:
        lean = _without_text(content)
        if lean == content:
            raise
        try:
            return _loaded(lean, ("PNG",))
        except Exception:
            raise error from None


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield (kind, body, all bytes) of every complete chunk of a PNG."""
    position = 8
    while position + 12 <= len(content):
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        if end > len(content):
            return
        yield content[position + 4 : position + 8], content[position + 8 : end - 4], content[position:end]
        position = end


def orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation. (ImageOps.exif_transpose also rewrites the EXIF block, and fails on damaged ones.)"""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a damaged EXIF block does not affect the pixels
        return None


def _loaded(content: bytes, formats: tuple[str, ...]) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content), formats=formats)
    except Image.DecompressionBombError:
        raise Unusable("too large", f"more than {MAX_PIXELS // 10**6} megapixels") from None
    except Image.UnidentifiedImageError:
        _refuse_unknown_tiff(content)
        names = f"{', '.join(_FORMATS[:-1])} nor {_FORMATS[-1]}"
        raise Unusable("unrecognised", f"neither {names}, or truncated within its header") from None
    _check_size(image.size, MAX_PIXELS)  # before load(): only the header has been read so far
    if image.format == "TIFF":
        _check_tiff(image)
    image.load()
    return image


def _check_size(size: tuple[int, int], most: int) -> None:
    width, height = size
    if width * height > most:
        raise Unusable("too large", f"{width}x{height} is more than {most // 10**6} megapixels")
    if width < 1 or height < 1:
        raise Unusable("damaged", f"{width}x{height} has no pixels")


# ---------------------------------------------------------------- HEIC, AVIF, PNG, TIFF


def _bmff_format(content: bytes) -> str:
    """Return "AVIF" for an AVIF file, by the brands in its first box. Raises Unusable for HEIC and other files of boxes."""
    box = content[8 : int.from_bytes(content[:4], "big")]
    brands = {box[start : start + 4] for start in (0, *range(8, len(box), 4))}
    if brands & _AVIF_BRANDS:
        if features.check("avif"):
            return "AVIF"
        raise Unusable("AVIF", "this Pillow cannot read AVIF; install pillow>=11.3, or convert it to JPEG or PNG")
    if brands & _HEIC_BRANDS:
        raise Unusable("HEIC", "HEIC and HEIF cannot be read; convert it to JPEG or PNG")
    raise Unusable("unrecognised", "a video or another file of boxes, not an AVIF")


def _without_text(content: bytes) -> bytes:
    """Remove the chunks of a PNG that no pixel needs: Pillow refuses large texts and profiles, as a guard against bombs.

    Chunks for transparency and animation stay, and texts that may contain an orientation if they are short.
    """

    def kept(kind: bytes, body: bytes) -> bool:
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            return body.startswith((b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")) and len(body) < 1000
        return kind[:1].isupper() or kind in (b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT")

    return content[:8] + b"".join(whole for kind, body, whole in png_chunks(content) if kept(kind, body))


def _refuse_unknown_tiff(content: bytes) -> None:
    try:
        TiffImagePlugin.TiffImageFile(io.BytesIO(content))
    except Exception as error:
        if str(error).startswith("unknown "):  # the header was complete
            raise Unusable(
                "unsupported", f"a kind of TIFF that Pillow does not read ({error}); save it as PNG, or as TIFF with 8 bits"
            ) from None


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise Unusable for a TIFF that Pillow would misread; repair a palette of 8 instead of 16 bits, which would be black."""
    tags = image.tag_v2
    if image.mode == "P" and max(tags[_PALETTE]) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_PALETTE]))
    if 2 in tags.get(_SAMPLE_FORMAT, ()) and max(tags.get(_BITS, (1,))) <= 16:  # for 32 bits the values decide later
        raise Unusable("unsupported", "signed pixels have no agreed white; save it with 8 or 16 bits, unsigned")
    if tags.get(_PLANES) == 2 and len(tags.get(_BITS, ())) > 1:
        in_order = image.mode in ("RGB", "RGBX", "CMYK") or (image.mode == "RGBA" and _EXTRA_SAMPLES in tags)
        if not in_order or (max(tags[_BITS]) > 8 and image.info["compression"] == "raw"):
            raise Unusable(
                "unsupported", "Pillow misreads these separate colour planes; save it as PNG, or as TIFF with its colours interleaved"
            )


def bits_per_sample(image: Image.Image) -> int:
    """Return the bits per sample in the file of a 16-bit image; a TIFF may have fewer than 16."""
    return image.tag_v2.get(_BITS, (16,))[0] if image.format == "TIFF" else 16


def white_is_zero(image: Image.Image) -> bool:
    """Return whether a TIFF says that 0 is white."""
    return image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0


def alpha_may_be_unused(image: Image.Image) -> bool:
    """Return whether a fourth channel may be unused in this format; then 0 everywhere means opaque.

    Windows shows such a BMP opaque. A TIFF defines its extra channels in ExtraSamples.
    """
    return image.format == "BMP" or (image.format == "TIFF" and _EXTRA_SAMPLES not in image.tag_v2)


# ---------------------------------------------------------------- JPEG


def _jpeg(content: bytes, enough: tuple[int, int] | None) -> Image.Image:
    image = _reduced_jpeg(content, enough)
    try:
        image.load()
    except OSError as error:
        if "truncated" not in str(error):
            raise
        return _completed(content.rstrip(b"\0"), enough)  # an interrupted download may leave zeros
    corner = np.asarray(image.crop((image.width - 1, image.height - 1, image.width, image.height)))
    if np.isin(corner, (127, 128)).all() and not image.info.get("progressive"):
        # Perhaps the grey of missing blocks: some software appends an end marker to a truncated file.
        end = next((place for marker, _, place in _jpeg_segments(content) if marker == _END[1]), len(content))
        return _completed(content[:end], enough)
    return image


def _reduced_jpeg(content: bytes, enough: tuple[int, int] | None) -> Image.Image:
    """Read the header of a JPEG, and set the reduced size for decoding from `enough`. Raises Unusable."""
    try:
        # Image.open would refuse large pictures before they can be reduced.
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(content))
    except SyntaxError:
        raise Unusable("unrecognised", "begins like a JPEG, but is none or is truncated within its header") from None
    _check_size(image.size, _MAX_OPENED)
    width, height = image.size
    if enough is None:
        divisor = next((d for d in (1, 2, 4) if width * height <= d * d * MAX_PIXELS), 8)
        wanted = max(1, width // divisor), max(1, height // divisor)
    elif width * height > _REDUCED_FROM:
        wanted = 2 * enough[1], 2 * enough[0]
        if orientation(image) in _SIDEWAYS:
            wanted = wanted[::-1]
    else:
        return image
    image.draft(None, wanted)
    _check_size(image.size, MAX_PIXELS)
    if width * height > _MAX_BUFFERED and not _is_one_scan(content):
        raise Unusable("too large", f"{width}x{height} in several scans is more than {_MAX_BUFFERED // 10**6} megapixels")
    return image


def _completed(content: bytes, enough: tuple[int, int] | None) -> Image.Image:
    """Load a truncated JPEG. Raises Unusable if more than a small part of the last row of blocks is missing.

    libjpeg fills missing blocks with grey and reports nothing. So we decode the file with two different continuations; it ends
    where both pictures first differ. From there on, the last complete line of pixels is repeated. Pixels that lack only the last
    bit of their coefficients stay as they are.
    """
    every_scan, refining = _scans(content)
    if not every_scan:
        raise Unusable("truncated", "the file ends before its last scan")
    restarts = re.findall(rb"\xff([\xd0-\xd7])", content)
    restart = bytes([0xFF, 0xD0 + (restarts[-1][0] - 0xD0 + 1) % 8 if restarts else 0xD0])
    image, other = (_reduced_jpeg(content + tail, enough) for tail in (_END, _NOISE + restart + _NOISE + _END))
    row = 8 * max(layer[2] for layer in image.layer) // (*image.decoderconfig, 1)[0]  # height of a block over all components
    for picture in (image, other):
        picture.load()
    missing = ImageChops.difference(image, other).getbbox()
    if missing is None:
        return image
    left, top, (width, height) = missing[0], missing[1], image.size
    if refining and height - top <= height * _COARSE_SHARE:
        return image
    # Chroma upsampling reaches one line beyond the blocks.
    small = height - top <= row + 1 and (width - left) * (height - top) <= width * height * _MISSING_SHARE
    if refining or not small or top == 0:
        raise Unusable("truncated", "the file ends before its last pixels")
    line = image.crop((left, top - 1, width, top))
    image.paste(line.resize((width - left, height - top), Image.Resampling.NEAREST), (left, top))
    return image


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield (marker, body, position) of every segment of a JPEG up to its end; coefficients are skipped."""
    marker = re.compile(rb"\xff[\x01-\xcf\xd9-\xfe]")  # 0xff00 is data; 0xffd0 to 0xffd7 are restart markers
    position = 2
    while found := marker.search(content, position):
        start = found.end()
        length = 0 if found.group() == _END else int.from_bytes(content[start : start + 2], "big")
        if start + length > len(content):
            return
        yield found.group()[1], content[start + 2 : start + length], found.start()
        if length < 2:
            return
        position = start + length


def _is_one_scan(content: bytes) -> bool:
    """Return whether the first scan of a JPEG contains all components; the decoder then works row by row."""
    num_components = 0
    for marker, body, _ in _jpeg_segments(content):
        if marker in (0xC0, 0xC1, 0xC9):  # frames that are not progressive
            num_components = body[5]
        elif marker == 0xDA:
            return body[0] == num_components
    return False


def _scans(content: bytes) -> tuple[bool, bool]:
    """Return whether the last scan has begun (all bits of all coefficients were sent), and whether it only refines."""
    low_bits: dict[int, list[int]] = {}  # component -> lowest bit sent of each coefficient
    refining = False
    for marker, body, _ in _jpeg_segments(content):
        if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):  # a frame, not a table
            low_bits = {body[start]: [99] * 64 for start in range(6, len(body), 3)}
        elif marker == 0xDA:
            count = body[0]
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            refining = bits >> 4 > 0
            for component in body[1 : 1 + 2 * count : 2]:
                low_bits[component][first : last + 1] = [bits & 15] * (last + 1 - first)
    return bool(low_bits) and not any(bit for bits in low_bits.values() for bit in bits), refining
