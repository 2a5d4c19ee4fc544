"""Pictures in known colour spaces, encoded by formulas of their own, against the sRGB that they must become."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from data import load_images
from data.decode import decode
from data.opening import Unusable

WHITE = (255, 255, 255)
# Published matrices (columns: red, green, blue) from linear RGB to XYZ with the white adapted to D50.
SRGB = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])
P3 = np.array([[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]])
ADOBE = np.array([[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]])
BT2020 = np.array([[0.67348, 0.16566, 0.12505], [0.27904, 0.67534, 0.04562], [-0.00193, 0.02999, 0.79677]])


def encode_srgb(linear):
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decode_srgb(value):
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def encode_709(linear):
    return np.where(linear < 0.018, 4.5 * linear, 1.099 * linear**0.45 - 0.099)


def power(exponent):
    return lambda linear: linear ** (1 / exponent)


def colours(height=8, width=8) -> np.ndarray:
    """Colours that every space here holds, uint8 (height, width, 3)."""
    return np.random.default_rng(0).integers(60, 200, (height, width, 3)).astype(np.uint8)


def encoded(srgb: np.ndarray, matrix: np.ndarray, curve, most: int = 255) -> np.ndarray:
    """Write sRGB colours in the space of `matrix` and `curve` (linear to stored), in levels up to `most`."""
    linear = decode_srgb(srgb / 255) @ SRGB.T @ np.linalg.inv(matrix).T
    return np.round(curve(np.clip(linear, 0, 1)) * most).astype(np.uint8 if most == 255 else np.uint16)


def icc(space: bytes, tags: dict[bytes, bytes], *, version=2, device=b"mntr", pcs=b"XYZ ") -> bytes:
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += struct.pack(">4sII", name, offset + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x3i48x", offset + len(body), version << 24, device, space, pcs, b"acsp", 63190, 65536, 54061)
    return head + struct.pack(">I", len(tags)) + table + body


def xyz(values) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def gamma_curve(exponent: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(exponent * 256))


def table_curve(function, size: int) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(f">I{size}H", size, *np.round(function(np.linspace(0, 1, size)) * 65535).astype(int))


SRGB_PARA = b"para\0\0\0\0" + struct.pack(
    ">HH5i", 3, 0, *(round(value * 65536) for value in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
)


def rgb_profile(matrix, curve: bytes, **options) -> bytes:
    columns = {name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), matrix.T)}
    return icc(b"RGB ", {b"wtpt": xyz((0.9642, 1, 0.8249)), **columns, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)}, **options)


def grey_profile(curve: bytes) -> bytes:
    return icc(b"GRAY", {b"wtpt": xyz((0.9642, 1, 0.8249)), b"kTRC": curve})


DISPLAY_P3 = rgb_profile(P3, SRGB_PARA, version=4)
SPACES = {  # profile, matrix, curve
    "Display P3": (DISPLAY_P3, P3, encode_srgb),
    "Display P3, version 2": (rgb_profile(P3, table_curve(decode_srgb, 1024)), P3, encode_srgb),
    "Adobe RGB": (rgb_profile(ADOBE, gamma_curve(563 / 256)), ADOBE, power(563 / 256)),
    "gamma 1.8": (rgb_profile(SRGB, gamma_curve(1.8)), SRGB, power(1.8)),
    "gamma 2.2": (rgb_profile(SRGB, gamma_curve(2.2)), SRGB, power(2.2)),
    "linear": (rgb_profile(SRGB, gamma_curve(1)), SRGB, power(1)),
    "wide": (rgb_profile(BT2020, gamma_curve(2.4), device=b"scnr"), BT2020, power(2.4)),
}


def saved(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(content: bytes, background=WHITE) -> np.ndarray:
    return np.asarray(decode(content, background).image).astype(int)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with these chunks after its header."""
    content = saved(image if isinstance(image, Image.Image) else Image.fromarray(image), "PNG")
    return content[:33] + b"".join(chunk(*each) for each in chunks) + content[33:]


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"x\0\0" + zlib.compress(profile)


def gama(exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 / exponent))


def chrm(*values: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values))


# ---------------------------------------------------------------- embedded profiles


@pytest.mark.parametrize("form, options", [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})])
@pytest.mark.parametrize("space", SPACES)
def test_colours_of_a_known_space_become_the_srgb_they_were(space, form, options):
    profile, matrix, curve = SPACES[space]
    stored = encoded(colours(), matrix, curve)
    content = saved(Image.fromarray(stored), form, icc_profile=profile, **options)
    assert decode(content, WHITE).converted
    assert np.abs(pixels(content) - colours()).max() <= 2
    assert np.abs(stored.astype(int) - colours()).max() > 3 or space == "gamma 2.2"  # what the plain way gives


@pytest.mark.parametrize("space", SPACES)
def test_jpeg_in_a_known_space(space):
    profile, matrix, curve = SPACES[space]
    flat = colours(4, 4).repeat(16, 0).repeat(16, 1)
    content = saved(Image.fromarray(encoded(flat, matrix, curve)), "JPEG", quality=100, subsampling=0, icc_profile=profile)
    assert np.abs(pixels(content) - flat).max() <= 5 and np.abs(pixels(content) - flat).mean() <= 1


def test_the_whole_range_of_levels_is_converted_exactly():
    """Dark linear levels, where one stored level is many of sRGB: the truth is what the stored level means."""
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    content = saved(Image.fromarray(stored), "PNG", icc_profile=SPACES["linear"][0])
    assert np.abs(pixels(content) - encode_srgb(stored / 255) * 255).max() <= 1


def test_alpha_is_kept_aside():
    stored = encoded(colours(), P3, encode_srgb)
    for opacity in (255, 128):
        image = Image.fromarray(np.dstack([stored, np.full((8, 8), opacity, dtype=np.uint8)]))
        expected = colours() * (opacity / 255) + np.array([0, 0, 255]) * (1 - opacity / 255)
        for form in ("PNG", "WEBP", "TIFF"):
            content = saved(image, form, icc_profile=DISPLAY_P3, lossless=True)
            assert np.abs(pixels(content, (0, 0, 255)) - expected).max() <= 2  # the background stays sRGB


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_palette_is_converted(form):
    truth = colours(1, 2)
    image = Image.fromarray(np.array([[0, 1] * 4] * 8, dtype=np.uint8), "P")
    image.putpalette(encoded(truth, P3, encode_srgb).tobytes())
    assert np.abs(pixels(saved(image, form, icc_profile=DISPLAY_P3))[0, :2] - truth[0]).max() <= 2
    if form == "PNG":
        clear = pixels(saved(image, form, icc_profile=DISPLAY_P3, transparency=0), (9, 8, 7))
        assert tuple(clear[0, 0]) == (9, 8, 7) and np.abs(clear[0, 1] - truth[0, 1]).max() <= 2


@pytest.mark.parametrize("exponent", [1.0, 1.8, 3.0])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "JPEG"])
def test_grey_with_a_profile(form, exponent):
    stored = np.arange(256, dtype=np.uint8).reshape(16, 16)
    if form == "JPEG":
        stored = (stored[::4, ::4] // 16 * 16).repeat(8, 0).repeat(8, 1)
    content = saved(Image.fromarray(stored), form, icc_profile=grey_profile(gamma_curve(exponent)), quality=100)
    if form == "JPEG":
        stored = np.asarray(Image.open(io.BytesIO(content)))
    assert np.abs(pixels(content) - encode_srgb((stored / 255) ** exponent)[..., None] * 255).max() <= 1
    if form == "PNG":
        half = Image.merge("LA", [Image.fromarray(stored), Image.new("L", (16, 16), 128)])
        expected = encode_srgb((stored / 255) ** exponent)[..., None] * 128 + np.array([127, 0, 0])
        content = saved(half, "PNG", icc_profile=grey_profile(gamma_curve(exponent)))
        assert np.abs(pixels(content, (255, 0, 0)) - expected).max() <= 2


def test_16_bit_grey_with_a_profile_keeps_its_depth():
    """Linear grey: in 8 bits its darks would be 13 levels apart."""
    truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stored = np.round(decode_srgb(truth / 255) * 65535).astype(np.uint16)
    profile = grey_profile(gamma_curve(1))
    big_endian = Image.frombytes("I;16B", (16, 16), stored.astype(">u2").tobytes())
    for content in (
        saved(Image.fromarray(stored), "PNG", icc_profile=profile),
        saved(Image.fromarray(stored), "TIFF", icc_profile=profile),
        saved(big_endian, "TIFF", icc_profile=profile),
    ):
        assert decode(content, WHITE).converted and np.abs(pixels(content) - truth[..., None]).max() <= 1


INKS = np.array([[0.35, 0.75, 0.9], [0.9, 0.4, 0.6], [0.95, 0.9, 0.3], [0.0, 0.0, 0.0]])  # what each lets through, sRGB


def press_profile() -> bytes:
    """A table of the 16 mixtures of full inks in Lab, 8 bits."""
    lab = b""
    for corner in range(16):
        inks = [corner >> 3 & 1, corner >> 2 & 1, corner >> 1 & 1, corner & 1]
        values = SRGB @ decode_srgb(mixture(np.array(inks))) / np.array([0.9642, 1, 0.8249])
        f = np.where(values > 216 / 24389, np.cbrt(values), (24389 / 27 * values + 16) / 116)
        level, a, b = 116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])
        lab += bytes(round(value) for value in (level * 2.55, a + 128, b + 128))
    ramp = bytes(range(256))
    identity = b"".join(struct.pack(">i", value * 65536) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + lab + ramp * 3
    return icc(b"CMYK", {b"wtpt": xyz((0.9642, 1, 0.8249)), b"A2B0": table}, device=b"prtr", pcs=b"Lab ")


def mixture(inks: np.ndarray) -> np.ndarray:
    return np.prod(np.where(inks[..., None] > 0, INKS, 1.0), axis=-2)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_cmyk_with_the_profile_of_a_press(form):
    corners = np.array([[(n >> 3 & 1, n >> 2 & 1, n >> 1 & 1, n & 1) for n in range(16)]])
    image = Image.fromarray((corners * 255).astype(np.uint8).repeat(16, 0).repeat(16, 1), "CMYK")
    content = saved(image, form, quality=100, subsampling=0, icc_profile=press_profile())
    expected = mixture(corners).repeat(16, 0).repeat(16, 1) * 255
    assert decode(content, WHITE).converted
    assert np.abs(pixels(content) - expected).max() <= 6 and np.abs(pixels(content) - expected).mean() <= 1.5  # Lab of 8 bits
    plain = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(plain - expected).max() > 60


NOISE = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
UNFIT = {
    "rubbish": b"rubbish",
    "empty": b"",
    "cut": DISPLAY_P3[:150],
    "for grey": grey_profile(gamma_curve(1)),
    "for inks": press_profile(),
    "a link between devices": rgb_profile(P3, SRGB_PARA, device=b"link"),
    "abstract": rgb_profile(P3, SRGB_PARA, device=b"abst"),
    "without curves": icc(b"RGB ", {b"wtpt": xyz((0.9642, 1, 0.8249))}),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_profile_that_is_broken_or_for_other_pixels_changes_nothing(case):
    contents = [saved(Image.fromarray(NOISE), form, icc_profile=UNFIT[case]) for form in ("PNG", "TIFF")]
    contents.append(png(NOISE, (b"iCCP", b"x\0\0" + UNFIT[case])))  # not compressed, as it should be
    for content in contents:
        assert not decode(content, WHITE).converted and np.array_equal(pixels(content), NOISE)


def test_a_profile_for_colours_on_grey_changes_nothing():
    content = saved(Image.fromarray(NOISE[..., 0]), "PNG", icc_profile=SPACES["gamma 1.8"][0])
    assert np.array_equal(pixels(content), NOISE[..., :1].repeat(3, 2))


SAME = {
    "Pillow": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    "formula": rgb_profile(SRGB, SRGB_PARA, version=4),
    "table of 1024": rgb_profile(SRGB, table_curve(decode_srgb, 1024)),
    "table of 4096, scanner": rgb_profile(SRGB, table_curve(decode_srgb, 4096), device=b"scnr"),
    "short table": rgb_profile(SRGB, table_curve(decode_srgb, 256)),
    "rounded matrix": rgb_profile(SRGB.round(3), SRGB_PARA, version=4),
}


@pytest.mark.parametrize("case", SAME)
def test_srgb_by_any_name_is_left_to_the_bit(case):
    for form in ("PNG", "TIFF", "WEBP"):
        content = saved(Image.fromarray(NOISE), form, icc_profile=SAME[case], lossless=True)
        assert not decode(content, WHITE).converted and np.array_equal(pixels(content), NOISE)


def test_grey_with_the_curve_of_srgb_is_left_to_the_bit():
    profile = grey_profile(table_curve(decode_srgb, 1024))
    grey = np.random.default_rng(2).integers(0, 65536, (32, 32)).astype(np.uint16)
    for stored in ((grey // 257).astype(np.uint8), grey):
        tagged, plain = (saved(Image.fromarray(stored), "PNG", icc_profile=each) for each in (profile, None))
        assert not decode(tagged, WHITE).converted and np.array_equal(pixels(tagged), pixels(plain))


def test_a_profile_larger_than_pillow_unpacks():
    profile = DISPLAY_P3 + bytes(3 * 2**20)  # a press profile has several megabytes of tables
    profile = struct.pack(">I", len(profile)) + profile[4:]
    assert np.abs(pixels(png(encoded(colours(), P3, encode_srgb), iccp(profile))) - colours()).max() <= 2


def test_the_profile_in_a_windows_bitmap():
    stored = encoded(colours(), P3, encode_srgb)
    rows = b"".join(row[:, ::-1].tobytes() for row in stored[::-1])  # 24 bytes a row, blue first, from below
    header = struct.pack("<IiiHHIIiiII", 124, 8, 8, 1, 24, 0, len(rows), 0, 0, 0, 0)
    header += struct.pack("<16x4s48xIIII", b"DEBM", 4, 124 + len(rows), len(DISPLAY_P3), 0)
    content = struct.pack("<2sIHHI", b"BM", 138 + len(rows) + len(DISPLAY_P3), 0, 0, 138) + header + rows + DISPLAY_P3
    assert len(header) == 124 and np.abs(pixels(content) - colours()).max() <= 2


# ---------------------------------------------------------------- PNG's own words


@pytest.mark.parametrize(
    "codes, matrix, curve",
    [
        ((12, 13), P3, encode_srgb),
        ((9, 13), BT2020, encode_srgb),
        ((9, 1), BT2020, encode_709),
        ((9, 14), BT2020, encode_709),
        ((1, 8), SRGB, power(1)),
        ((1, 1), SRGB, encode_709),
        ((1, 4), SRGB, power(2.2)),
        ((12, 2), P3, encode_srgb),
    ],
)
def test_code_points(codes, matrix, curve):
    stored = encoded(colours(), matrix, curve)
    cicp = b"cICP", bytes([*codes, 0, 1])
    for content in (png(stored, cicp), png(stored, cicp, iccp(SPACES["linear"][0])), png(stored, cicp, gama(1), (b"sRGB", b"\0"))):
        assert decode(content, WHITE).converted and np.abs(pixels(content) - colours()).max() <= 2


def test_code_points_of_srgb_overrule_a_profile():
    for codes in ((1, 13), (2, 2)):
        content = png(NOISE, (b"cICP", bytes([*codes, 0, 1])), iccp(DISPLAY_P3))
        assert not decode(content, WHITE).converted and np.array_equal(pixels(content), NOISE)


def test_narrow_range():
    stored = np.round(16 + colours() / 255 * 219).astype(np.uint8)
    assert np.abs(pixels(png(stored, (b"cICP", bytes([1, 13, 0, 0])))) - colours()).max() <= 2
    levels = np.array([[0, 16, 126, 235, 255]], dtype=np.uint8)
    assert np.abs(pixels(png(levels, (b"cICP", bytes([1, 13, 0, 0]))))[0, :, 0] - [0, 0, 128, 255, 255]).max() <= 1


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG"), (99, "code points 9 and 99")])
def test_colours_without_a_white_are_refused_by_name(transfer, name):
    with pytest.raises(Unusable) as reason:
        decode(png(NOISE, (b"cICP", bytes([9, transfer, 0, 1]))), WHITE)
    assert reason.value.kind == "unsupported" and name in reason.value.detail and "save it" in reason.value.detail


def test_gamma_and_chromaticities():
    adobe = chrm(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    p3 = chrm(0.3127, 0.3290, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)
    srgb = chrm(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    for chunks, matrix, curve in (
        ((gama(1.8),), SRGB, power(1.8)),
        ((gama(1),), SRGB, power(1)),
        ((gama(1.8), srgb), SRGB, power(1.8)),
        ((gama(2.2), adobe), ADOBE, power(2.2)),
        ((p3,), P3, encode_srgb),
    ):
        content = png(encoded(colours(), matrix, curve), *chunks)
        assert decode(content, WHITE).converted and np.abs(pixels(content) - colours()).max() <= 2
    damaged = (b"gAMA", b"\0\0\0\0"), (b"cHRM", bytes(32)), chrm(*[0.3] * 8), (b"gAMA", b"\0\0\0\1"), (b"cHRM", b"short"), (b"gAMA", b"")
    for chunks in ((gama(2.2),), (gama(2.2), srgb), (srgb,), ((b"sRGB", b"\0"), gama(1), adobe), *((each,) for each in damaged)):
        content = png(NOISE, *chunks)
        try:
            assert not decode(content, WHITE).converted and np.array_equal(pixels(content), NOISE)
        except Unusable:  # Pillow takes chunks that are too short for damage
            assert len(chunks[0][1]) < 4 or chunks[0][1] == b"short"


def test_gamma_on_grey_keeps_16_bits():
    truth = np.arange(256, dtype=np.uint8).reshape(16, 16)
    stored = np.round(decode_srgb(truth / 255) * 65535).astype(np.uint16)
    assert np.abs(pixels(png(stored, gama(1))) - truth[..., None]).max() <= 1
    half = Image.merge("LA", [Image.fromarray(truth)] * 2)
    assert decode(png(half, gama(1)), WHITE).converted


def test_a_broken_profile_gives_way_to_the_next_word():
    content = png(encoded(colours(), SRGB, power(1.8)), (b"iCCP", b"x\0\0rubbish"), gama(1.8))
    assert np.abs(pixels(content) - colours()).max() <= 2


# ---------------------------------------------------------------- EXIF, AVIF, the report


def adobe_exif(space: int = 0xFFFF, rule: bytes = b"R03\0") -> bytes:
    """EXIF of three lists of tags: the first holds the place of the second, which holds a ColorSpace and the third's place."""
    first = struct.pack(">HHHII4x", 1, 0x8769, 4, 1, 26)
    second = struct.pack(">HHHIH2xHHII4x", 2, 0xA001, 3, 1, space, 0xA005, 4, 1, 56)
    return b"Exif\0\0MM\0*\0\0\0\x08" + first + second + struct.pack(">HHHI4s4x", 1, 1, 2, 4, rule)


def test_the_adobe_rgb_of_cameras():
    stored = encoded(colours(), ADOBE, power(563 / 256))
    flat = stored[:4, :4].repeat(16, 0).repeat(16, 1)
    for exif, converted in (
        (adobe_exif(), True),
        (adobe_exif(2, b"R98\0"), True),
        (adobe_exif(1, b"R98\0"), False),
        (adobe_exif(0xFFFF, b"R98\0"), False),
    ):
        for form in ("PNG", "WEBP"):
            content = saved(Image.fromarray(stored), form, exif=exif, lossless=True)
            assert decode(content, WHITE).converted is converted
            assert np.abs(pixels(content) - (colours() if converted else stored)).max() <= 2 * converted
        content = saved(Image.fromarray(flat), "JPEG", exif=exif, quality=100, subsampling=0)
        assert decode(content, WHITE).converted is converted
    named = saved(Image.fromarray(NOISE), "PNG", exif=adobe_exif(), icc_profile=SAME["Pillow"])
    assert np.array_equal(pixels(named), NOISE)  # a profile says it better
    unnamed = saved(Image.fromarray(NOISE), "PNG", exif=adobe_exif())
    for said in ((b"sRGB", b"\0"), (b"cICP", bytes([1, 13, 0, 1]))):  # and so do these
        assert np.array_equal(pixels(unnamed[:33] + chunk(*said) + unnamed[33:]), NOISE)


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow writes no AVIF")
def test_the_code_points_of_avif():
    flat = colours(2, 2).repeat(32, 0).repeat(32, 1)
    content = saved(Image.fromarray(encoded(flat, P3, encode_srgb)), "AVIF", quality=100, subsampling="4:4:4")
    start = content.index(b"colrnclx") + 8
    for codes, within in (((12, 13), 6), ((1, 13), 60)):
        coded = content[:start] + struct.pack(">HH", *codes) + content[start + 4 :]
        assert np.abs(pixels(coded) - flat).max() <= within
    with pytest.raises(Unusable, match="PQ"):
        decode(content[:start] + struct.pack(">HH", 9, 16) + content[start + 4 :], WHITE)


def test_the_report_counts_what_was_converted(tmp_path):
    for index in range(3):
        image = Image.fromarray(np.roll(colours(), index, 0))
        image.save(tmp_path / f"{index}.png", icc_profile=DISPLAY_P3 if index else None)
    assert load_images(tmp_path, resolution=(8, 8)).report == ["3 files -> 3 images at 8x8: 2 converted to sRGB"]
