"""Recognise what a file is by its first bytes and its suffix, without decoding it."""

import re

HEAD = 4096  # bytes to read
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Rarer suffixes of the same formats, and those of phones, which Pillow may not read.
_ALSO = (".jfif", ".jpe", ".jif", ".jfi", ".jpg_large", ".mpo", ".apng", ".dib", ".heic", ".heif", ".hif", ".avif")
_READ = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|GIF8[79]a|RIFF....WEBP"
    rb"|BM.{4}\0\0\0\0....[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"  # the size of the header that follows
    rb"|II\x2a\0|MM\0\x2a|II\0\x2a|MM\x2a\0|II\x2b\0|MM\0\x2b"  # the last two are BigTIFF
    rb"|....ftyp(hei[cxms]|hev[cxms]|mi[fa]1|msf1|avi[fs])",
    re.DOTALL,
)
_RAW = "a camera's raw file"  # most raw files are TIFFs; a decoder would return their thumbnail
_GAP = rb"(?:\s|#[^\n]*\n)+"
# Unsupported format -> how its files begin, and its suffixes.
_FOREIGN = {
    _RAW: (
        rb"....ftypcrx |FUJIFILMCCD-RAW|II[RU][OS\0]|MMOR|FOVb|\0MRM|II\x2a\0....CR",
        (
            ".dng",
            ".cr2",
            ".cr3",
            ".crw",
            ".nef",
            ".nrw",
            ".arw",
            ".sr2",
            ".srf",
            ".orf",
            ".rw2",
            ".raf",
            ".pef",
            ".srw",
            ".3fr",
            ".fff",
            ".iiq",
            ".kdc",
            ".dcr",
            ".erf",
            ".mef",
            ".mos",
            ".mrw",
            ".rwl",
            ".x3f",
        ),
    ),
    "JPEG 2000": (rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", (".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jpc", ".jpm")),
    "JPEG XL": (rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", (".jxl",)),
    "JPEG XR": (rb"II\xbc", (".jxr", ".wdp", ".hdp")),
    "PPM": (
        rb"P[1-6]" + _GAP + rb"\d+" + _GAP + rb"\d+\s|P7\s(?:\s|#[^\n]*\n)*(?:WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE)\s",
        (".ppm", ".pgm", ".pbm", ".pnm", ".pam"),
    ),
    "PFM": (rb"P[Ff]\s+\d+\s+\d+\s+[-+\d.]", (".pfm",)),
    "Photoshop": (rb"8BPS", (".psd", ".psb")),
    "GIMP": (rb"gimp xcf", (".xcf",)),
    "SVG": (
        rb"(?:\xef\xbb\xbf)?\s*(?>(?:<\?.*?\?>\s*|<!--.*?-->\s*|<!DOCTYPE\s+svg[^\[>]*(?:\[.*?\]\s*)?>\s*)*)<(?:\w+:)?svg[\s/>]",
        (".svg", ".svgz"),
    ),
    "EPS": (rb"%!PS-Adobe-\S+ EPSF|\xc5\xd0\xd3\xc6", (".eps", ".epsf")),
    "WMF or EMF": (rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF", (".wmf", ".emf")),
    "an icon": (rb"\0\0[\x01\x02]\0[^\0]\0...\0|icns", (".ico", ".cur", ".icns")),
    "TGA": (
        rb".(?:\0[\x02\x03\x0a\x0b]\0{5}|\x01[\x01\x09]..(?!\0\0)..[\x0f\x10\x18\x20])"  # without or with a palette
        rb"....(?!\0\0)..(?!\0\0)..[\x08\x0f\x10\x18\x20][\0-\x3f]",
        (".tga", ".icb", ".vda", ".vst"),
    ),  # width, height, bits
    "OpenEXR": (rb"\x76\x2f\x31\x01", (".exr",)),
    "Radiance HDR": (rb"#\?(?:RADIANCE|RGBE)", ()),
    "DDS": (rb"DDS \x7c", (".dds",)),
    "QOI": (rb"qoif", (".qoi",)),
    "MNG or JNG": (rb"[\x8a\x8b][MJ]NG\r\n\x1a\n", (".mng", ".jng")),
    "SGI": (rb"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]", (".sgi",)),
    "PCX": (rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]", (".pcx",)),
    "XPM": (rb"/\* XPM \*/", (".xpm",)),
    "XBM": (rb"#define\s+\w+_width\s+\d+\s+#define\s+\w+_height\s", (".xbm",)),
    "DjVu": (rb"AT&TFORM", (".djvu", ".djv")),
    "FITS": (rb"SIMPLE  =", (".fits",)),
    "DICOM": (rb".{128}DICM", (".dcm",)),
    "Sun raster": (rb"\x59\xa6\x6a\x95", ()),
    "JBIG2": (rb"\x97JB2\r\n\x1a\n", (".jb2",)),
    "BPG or FLIF": (rb"BPG\xfb|FLIF", (".bpg", ".flif")),
}
_BEGINNINGS = {label: re.compile(beginning, re.DOTALL) for label, (beginning, _) in _FOREIGN.items()}
_ARCHIVE = re.compile(
    rb"PK\x03\x04|PK\x05\x06|PK00PK|\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07"
    rb"|.{257}ustar",
    re.DOTALL,
)
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar")
# Documents, programs and arrays that are zip files.
_NO_ARCHIVES = (".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".odg", ".epub", ".jar", ".apk", ".whl", ".npz", ".pt", ".pth", ".ckpt")


def foreign_format(name: str, head: bytes) -> str | None:
    """Return the name of a file's unsupported image format; None for any other file."""
    for label, (_, suffixes) in _FOREIGN.items():
        if _BEGINNINGS[label].match(head) or (name.lower().endswith(suffixes) and (label == _RAW or not _READ.match(head))):
            return label
    return None


def is_picture(name: str, head: bytes) -> bool:
    """Return whether a file begins like a supported format or has its suffix."""
    return bool(_READ.match(head)) or name.lower().endswith((*SUFFIXES, *_ALSO))


def is_archive(name: str, head: bytes) -> bool:
    """Return whether a file is an archive, which may contain images; documents that are zip files do not count."""
    return name.lower().endswith(_ARCHIVES) or (bool(_ARCHIVE.match(head)) and not name.lower().endswith(_NO_ARCHIVES))
