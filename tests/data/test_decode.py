"""Depths, transparency, damage and sizes, by files whose pixels are known because they were written byte by byte."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import data.opening
from data import load_images
from data.decode import decode
from data.folder import load_originals
from data.opening import Unusable

WHITE, BLUE = (255, 255, 255), (0, 0, 255)
FACE = Path(__file__).parents[2] / "data/fluent_faces/1f466-1f3fd.png"


def saved(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pixels(content: bytes, background=WHITE, **options) -> np.ndarray:
    return np.asarray(decode(content, background, **options).image).astype(int)


def refusal(content: bytes, **options) -> str:
    with pytest.raises(Unusable) as reason:
        decode(content, WHITE, **options)
    return f"{reason.value.kind}: {reason.value.detail}"


def face(size: int) -> Image.Image:
    image = Image.open(FACE).convert("RGBA")
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.resize((size, size), Image.Resampling.LANCZOS)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows: list[bytes], width: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in ((b"IHDR", header), *chunks, (b"IDAT", body), (b"IEND", b"")))


def tiff(planes: list[bytes], size: tuple[int, int], bits: int, photometric: int, *, order="<", samples=1, packed=False, **more) -> bytes:
    """A TIFF of one strip, or of one for each plane; `more` are further tags of short numbers, by the names below."""
    names = {"palette": 320, "extra": 338, "sign": 339}
    strips = [zlib.compress(plane) for plane in planes] if packed else planes
    tags = {
        256: (4, [size[0]]),
        257: (4, [size[1]]),
        258: (3, [bits] * samples),
        259: (3, [8 if packed else 1]),
        273: (4, strips),
        262: (3, [photometric]),
        277: (3, [samples]),
        278: (4, [size[1]]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [1 if len(planes) == 1 else 2]),
    }
    tags |= {names[name]: (3, values) for name, values in more.items()}
    place = 8 + 2 + 12 * len(tags) + 4
    data = b"".join(strips)
    starts = [place + sum(map(len, strips[:index])) for index in range(len(strips))]
    entries = b""
    for number in sorted(tags):
        kind, values = tags[number]
        values = starts if number == 273 else values
        packed_values = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(packed_values) > 4:
            packed_values, data = struct.pack(order + "I", place + len(data)), data + packed_values
        entries += struct.pack(order + "HHI", number, kind, len(values)) + packed_values.ljust(4, b"\0")
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4) + data


# ---------------------------------------------------------------- what was right stays to the bit


def palette(rgb: np.ndarray, shift: int) -> Image.Image:
    image = Image.fromarray(np.roll(rgb[..., 0], shift, 1))
    image.putpalette(np.roll(rgb.reshape(-1), shift)[:768].tobytes())
    return image


def write_untagged_set(folder: Path) -> None:
    """Pictures that say nothing of colour, in the modes and lossless formats that were read before colour was looked at."""
    rng = np.random.default_rng(7)
    rgb = rng.integers(0, 256, (24, 20, 3)).astype(np.uint8)
    alpha = rng.integers(0, 256, (24, 20, 1)).astype(np.uint8)
    grey16 = rng.integers(0, 65536, (24, 20)).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6

    def rolled(shift: int) -> np.ndarray:
        return np.roll(rgb, shift, 0)

    def image(*bands: np.ndarray) -> Image.Image:
        return Image.fromarray(np.dstack(bands) if len(bands) > 1 else bands[0])

    def of_mode(mode: str, *bands: np.ndarray) -> Image.Image:
        return Image.frombytes(mode, (20, 24), np.dstack(bands).tobytes())

    for name, picture, options in [
        ("rgb.png", image(rgb), {}),
        ("rgb.bmp", image(rolled(1)), {}),
        ("rgb.tif", image(rolled(2)), {}),
        ("lzw.tif", image(rolled(3)), {"compression": "tiff_lzw"}),
        ("rgb.webp", image(rolled(4)), {"lossless": True}),
        ("turned.png", image(rolled(5)), {"exif": turned}),
        ("turned.tif", image(rolled(6)), {"exif": turned}),
        ("grey.png", image(rgb[..., 0]), {}),
        ("grey.bmp", image(rgb[..., 1]), {}),
        ("grey.tif", image(rgb[..., 2]), {}),
        ("grey16.png", image(grey16), {}),
        ("grey16.tif", image(np.roll(grey16, 1, 0)), {}),
        ("bit.png", image(rgb[..., 0] > 99), {}),
        ("bit.tif", image(rgb[..., 1] > 99), {"compression": "group4"}),
        ("rgba.png", image(rgb, alpha), {}),
        ("rgba.webp", image(rolled(7), alpha), {"lossless": True, "exact": True}),
        ("rgba.tif", image(rolled(8), alpha), {}),
        ("la.png", image(rgb[..., 1:2], alpha), {}),
        ("palette.png", palette(rgb, 0), {}),
        ("palette.gif", palette(rgb, 1), {}),
        ("palette.tif", palette(rgb, 2), {}),
        ("clear.png", palette(rgb, 3), {"transparency": 7}),
        ("half.png", palette(rgb, 4), {"transparency": bytes(range(256))}),
        ("clear.gif", palette(rgb, 5), {"transparency": 7}),
        ("key.png", image(rolled(9)), {"transparency": tuple(rolled(9)[3, 3].tolist())}),
        ("greykey.png", image(np.roll(rgb[..., 0], 3, 0)), {"transparency": int(rgb[0, 0, 0])}),
        ("cmyk.tif", of_mode("CMYK", rgb, alpha), {}),
        ("lab.tif", of_mode("LAB", rolled(10)), {}),
        ("int.tif", image(np.roll(grey16, 2, 0).astype(np.int32)), {}),
    ]:
        picture.save(folder / name, **options)


def test_fingerprints_of_untagged_sets_are_those_of_the_first_revision(tmp_path):
    write_untagged_set(tmp_path)
    for options, fingerprint in (
        ({"resolution": (24, 20)}, "cb11b6eb0885b256dac885477789ba55a64b258e722167bc671e5b6627c65d90"),
        ({"resolution": (16, 16)}, "9e68dc6a633be3c10090cad12f0d7ffb8672179910de02bd5ebecf65b350d3e5"),
        (
            {"resolution": (16, 16), "fit": "pad", "background": "#204060"},
            "ea681d9366b41db0b308606d7f78d8c8a15489e1282f466f3f4a35facfc2cb09",
        ),
    ):
        images = load_images(tmp_path, **options)
        assert len(images.names) == 29 and images.fingerprint == fingerprint


def test_untagged_jpegs_are_what_pillow_makes_of_them():
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}):
        for image in (face(100), face(100).convert("L"), face(100).convert("CMYK")):
            content = saved(image, "JPEG", **options)
            assert np.array_equal(pixels(content, enough=(8, 8)), np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))


# ---------------------------------------------------------------- depths


RAMP = np.linspace(0, 65535, 256).round().astype(int).reshape(16, 16)
EIGHT = np.arange(256).reshape(16, 16)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", "<>")
def test_grey_tiff_of_any_depth_with_either_white_is_right_or_refused(order, packed):
    def bits(values: np.ndarray, depth: int) -> bytes:
        return b"".join(int("".join(f"{value:0{depth}b}" for value in row), 2).to_bytes(2 * depth, "big") for row in values)

    num_read = 0
    for depth in (1, 2, 4, 8, 10, 12, 14, 16):
        stored = (RAMP / 65535 * (2**depth - 1)).round().astype(int)
        data = stored.astype(order + "u2").tobytes() if depth == 16 else bits(stored, depth)
        for photometric in (0, 1):
            content = tiff([data], (16, 16), depth, photometric, order=order, packed=packed)
            shown = stored / (2**depth - 1) * 255
            try:
                assert np.abs(pixels(content) - (shown if photometric else 255 - shown)[..., None]).max() <= 0.51
                num_read += 1
            except Unusable as reason:
                assert reason.kind == "unsupported" and "save it as" in reason.detail and depth > 8
    assert num_read >= 9


def test_signed_pixels_are_refused_by_name():
    for depth in (8, 16):
        content = tiff([EIGHT.astype(f"<u{depth // 8}").tobytes()], (16, 16), depth, 1, sign=[2])
        assert "signed pixels have no agreed white" in refusal(content)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planar", [False, True])
def test_colour_tiff_of_any_arrangement_is_right_or_refused(planar, order, packed):
    """Colours of 8 and 16 bits, with an alpha of each meaning, interleaved or in planes."""
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3))
    num_read = 0
    for depth in (8, 16):
        for meaning in (None, 0, 1, 2):
            opacity = np.full((4, 5, 1), 128)
            colour = np.round(rgb * 128 / 255).astype(int) if meaning == 1 else rgb
            stored = colour if meaning is None else np.dstack([colour, opacity])
            stored = (stored * (257 if depth == 16 else 1)).astype(order + f"u{depth // 8}")
            bands = [stored[..., band].tobytes() for band in range(stored.shape[2])] if planar else [stored.tobytes()]
            more = {} if meaning is None else {"extra": [meaning]}
            content = tiff(bands, (5, 4), depth, 2, order=order, samples=stored.shape[2], packed=packed, **more)
            expected = rgb if meaning in (None, 0) else rgb * (128 / 255) + np.array(BLUE) * (127 / 255)
            try:
                assert np.abs(pixels(content, BLUE) - expected).max() <= 2
                num_read += 1
            except Unusable as reason:
                assert reason.kind in ("unsupported", "unrecognised", "damaged") and planar
    assert num_read == 8 or (planar and num_read >= 2)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("planar", [False, True])
def test_grey_and_alpha_in_tiff_is_right_or_refused(planar, packed):
    grey = np.random.default_rng(0).integers(0, 256, (4, 5))
    for meaning in (0, 1, 2):
        stored = np.dstack([np.round(grey * 128 / 255) if meaning == 1 else grey, np.full((4, 5), 128)]).astype(np.uint8)
        bands = [stored[..., 0].tobytes(), stored[..., 1].tobytes()] if planar else [stored.tobytes()]
        expected = grey[..., None] if meaning == 0 else grey[..., None] * (128 / 255) + np.array(BLUE) * (127 / 255)
        try:
            assert np.abs(pixels(tiff(bands, (5, 4), 8, 1, samples=2, packed=packed, extra=[meaning]), BLUE) - expected).max() <= 2
        except Unusable as reason:
            assert reason.kind in ("unsupported", "unrecognised", "damaged")


def test_a_palette_of_8_bits_where_a_tiff_has_16():
    levels = np.random.default_rng(0).integers(0, 256, (3, 256))
    for factor in (1, 256, 257):
        content = tiff([bytes(range(256))], (16, 16), 8, 3, palette=(levels * factor).ravel().tolist())
        assert np.array_equal(pixels(content).reshape(256, 3), levels.T)


def test_other_separate_planes_are_refused():
    lab = [bytes([200] * 16), bytes([10] * 16), bytes([246] * 16)]
    assert "separate colour planes" in refusal(tiff(lab, (4, 4), 8, 8, samples=3))
    assert np.array_equal(pixels(tiff([bytes([200, 10, 246] * 16)], (4, 4), 8, 8, samples=3))[0, 0].shape, (3,))


def test_16_bit_colours_in_png():
    values = np.random.default_rng(0).integers(0, 65536, (4, 5, 4))
    rgb, rgba, grey_alpha = (
        [values[row][:, bands].astype(">u2").tobytes() for row in range(4)] for bands in ([0, 1, 2], [0, 1, 2, 3], [0, 3])
    )
    assert np.abs(pixels(png(rgb, 5, 16, 2)) - values[..., :3] / 257).max() <= 1
    share = values[..., 3:] / 65535
    assert np.abs(pixels(png(rgba, 5, 16, 6), BLUE) - values[..., :3] / 257 * share - np.array(BLUE) * (1 - share)).max() <= 2
    assert np.abs(pixels(png(grey_alpha, 5, 16, 4), BLUE) - values[..., :1] / 257 * share - np.array(BLUE) * (1 - share)).max() <= 2


# ---------------------------------------------------------------- keys and alpha


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_clear_level_of_grey_in_png(depth):
    most = 2**depth - 1
    levels = [0, most] if depth == 1 else [0, 1, most - 1, most]
    row = "".join(f"{level:0{depth}b}" for level in levels)
    row = int(row.ljust(-len(row) // 8 * -8, "0"), 2).to_bytes(-(-len(row) // 8), "big")
    for index, key in enumerate(levels):
        shown = pixels(png([row], len(levels), depth, 0, (b"tRNS", struct.pack(">H", key))), BLUE)[0]
        expected = np.array([[round(level * 255 / most)] * 3 for level in levels])
        expected[index] = BLUE
        assert np.array_equal(shown, expected)


def test_a_clear_colour_of_16_bits_is_compared_to_all_of_them():
    row = struct.pack(">9H", 0x1234, 0x5678, 0x9ABC, 0x1234, 0x5678, 0x9ABD, 1, 2, 3)
    shown = pixels(png([row], 3, 16, 2, (b"tRNS", row[:6])), BLUE)[0]
    assert shown[0].tolist() == [0, 0, 255] and np.abs(shown[1] - [0x12, 0x56, 0x9A]).max() <= 1 and shown[2].max() <= 1


def test_a_clear_level_of_16_bits_with_white_at_zero_and_orientation():
    values = np.arange(16).reshape(4, 4) * 4000
    exif = Image.Exif()
    exif[0x0112] = 3
    content = saved(Image.fromarray(values.astype(np.uint16)), transparency=4000, exif=exif)
    shown = pixels(content, BLUE)
    assert shown[3, 2].tolist() == [0, 0, 255] and shown[3, 3].tolist() == [0, 0, 0] and (shown[..., 2] == 255).sum() == 1


def bitmap(pixel: bytes, *, header: int, masks: bytes = b"") -> bytes:
    """A BMP of 2x2 equal pixels of 32 bits, but the alpha of the last is in `pixel`'s own hands."""
    body = pixel
    info = struct.pack("<IiiHHIIiiII", header, 2, 2, 1, 32, 3 if masks else 0, len(body), 0, 0, 0, 0) + masks
    info = info.ljust(header, b"\0")
    return struct.pack("<2sIHHI", b"BM", 14 + len(info) + len(body), 0, 0, 14 + len(info)) + info + body


MASKS = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)


@pytest.mark.parametrize("header, masks", [(40, b""), (108, MASKS), (124, MASKS)])
def test_a_bitmap_whose_alpha_is_nowhere_set_is_opaque(header, masks):
    assert (pixels(bitmap(bytes([30, 20, 10, 0]) * 4, header=header, masks=masks)) == (10, 20, 30)).all()
    mixed = pixels(bitmap(bytes([30, 20, 10, 0]) * 3 + bytes([30, 20, 10, 255]), header=header, masks=masks), BLUE)
    assert mixed[0, 1].tolist() == [10, 20, 30] and mixed[1, 1].tolist() == ([0, 0, 255] if masks else [10, 20, 30])


def test_a_tiff_that_does_not_call_its_fourth_channel_alpha():
    for meaning, shown in (({}, (10, 20, 30)), ({"extra": [0]}, (10, 20, 30))):
        content = tiff([bytes([10, 20, 30, 0]) * 16], (4, 4), 8, 2, samples=4, **meaning)
        assert (pixels(content) == shown).all()
    assert refusal(tiff([bytes([10, 20, 30, 0]) * 16], (4, 4), 8, 2, samples=4, extra=[2])).startswith("transparent: ")


def test_pictures_without_an_opaque_part_are_skipped_by_name(tmp_path):
    clear = Image.new("RGBA", (8, 8), (9, 99, 199, 0))
    palette_image = Image.new("P", (8, 8), 3)
    palette_image.putpalette(list(range(30)))
    written = {
        "rgba.png": (clear, {}),
        "rgba.webp": (clear, {"lossless": True, "exact": True}),
        "rgba.tif": (clear, {}),
        "la.png": (Image.new("LA", (8, 8), (50, 0)), {}),
        "grey.png": (Image.new("L", (8, 8), 7), {"transparency": 7}),
        "colour.png": (Image.new("RGB", (8, 8), (1, 2, 3)), {"transparency": (1, 2, 3)}),
        "deep.png": (Image.fromarray(np.full((8, 8), 999, dtype=np.uint16)), {"transparency": 999}),
        "palette.png": (palette_image, {"transparency": 3}),
        "palette.gif": (palette_image, {"transparency": 3}),
    }
    for name, (image, options) in written.items():
        image.save(tmp_path / name, **options)
    Image.new("RGBA", (8, 8), (9, 99, 199, 1)).save(tmp_path / "faint.png")
    images = load_images(tmp_path, resolution=(8, 8))
    assert images.names == ["faint.png"]
    assert images.report[0] == "10 files -> 1 image at 8x8: 9 transparent"
    assert images.report[1].startswith("skipped colour.png: transparent (every pixel is")


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
@pytest.mark.parametrize("behind", [False, True])
def test_png_with_large_texts(kind, behind):
    image = np.asarray(face(16))
    text = b"prompt " * 400_000  # 2.8 MB: the history of an editor, the recipe of a generator
    body = {
        b"tEXt": b"parameters\0" + text,
        b"zTXt": b"parameters\0\0" + zlib.compress(text),
        b"iTXt": b"parameters\0\1\0\0\0" + zlib.compress(text),
    }[kind]
    content = saved(Image.fromarray(image))
    place = len(content) - 12 if behind else 33
    repeats = 30 if kind == b"tEXt" else 2
    assert np.array_equal(pixels(content[:place] + chunk(kind, body) * repeats + content[place:]), image)


def test_large_texts_cost_neither_transparency_nor_orientation():
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    content = saved(image, transparency=20, exif=exif)
    large = content[:33] + chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(9 * 2**20))) + content[33:]
    assert np.array_equal(pixels(large, BLUE), pixels(content, BLUE)) and pixels(large, BLUE)[2, 2].tolist() == [0, 0, 255]


JPEGS = {
    "usual": {},
    "fine": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "fine progressive": {"progressive": True, "subsampling": 0, "quality": 95},
    "restarts": {"restart_marker_rows": 1},
    "many restarts": {"restart_marker_blocks": 1},
}


@pytest.mark.parametrize("case", JPEGS)
@pytest.mark.parametrize("colour", ["RGB", "L", "CMYK"])
def test_a_jpeg_without_its_last_bytes_is_read(case, colour):
    whole = saved(face(256).convert(colour), "JPEG", **{"quality": 90, **JPEGS[case]})
    full = pixels(whole)
    for cut in (1, 2):  # the end marker
        assert np.array_equal(pixels(whole[:-cut]), full)
    assert np.array_equal(pixels(whole[:-2] + bytes(5000)), full)  # a download that broke off in zeros
    # Of a progressive one in four inks the last scan is nothing but its header.
    for cut in (3, 4) if colour == "CMYK" and "progressive" in case else (3, 4, 6, 8):
        shown = pixels(whole[:-cut])
        assert shown.shape == full.shape and np.array_equal(shown[:-32], full[:-32]) and np.abs(shown - full).mean() < 0.5


@pytest.mark.parametrize("case", JPEGS)
def test_a_jpeg_cut_anywhere_is_whole_but_for_its_edge_or_refused(case):
    """No grey band ever: whatever is read is the picture, up to a little at the end of the last row of blocks."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 176, 3)).astype(np.uint8))
    whole = saved(noise, "JPEG", **JPEGS[case])
    full = pixels(whole)
    num_read = 0
    for length in {*range(len(whole) // 2, len(whole), 997), *range(len(whole) - 400, len(whole), 7)}:
        for tail in (b"", bytes(300)):
            try:
                shown = pixels(whole[:length] + tail)
            except Unusable as reason:
                assert reason.kind == "truncated"
                continue
            num_read += 1
            different = (shown != full).any(-1)
            if "progressive" in case:  # what lacks its last bit is a little coarser, and as good as any JPEG
                assert not different[:-21].any() and np.abs(shown - full).mean() < 2
            else:
                assert not different[:-17].any() and different.mean() < 1 / 32 + 0.01
            assert length > 0.95 * len(whole)
    assert num_read > 0


@pytest.mark.parametrize("colour", ["RGB", "L", "CMYK"])
def test_half_a_jpeg_stays_truncated_even_with_an_end(colour):
    for case, options in JPEGS.items():
        content = saved(face(128).convert(colour), "JPEG", **options)
        half = content[: len(content) // 2]
        assert refusal(half).startswith("truncated: ")
        if "progressive" not in case:
            assert refusal(half + b"\xff\xd9").startswith("truncated: ")


def test_a_jpeg_with_a_grey_corner_is_whole():
    image = face(128)
    image.paste((128, 128, 128), (64, 64, 128, 128))
    for options in JPEGS.values():
        content = saved(image, "JPEG", **options)
        expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
        assert tuple(expected[-1, -1]) == (128, 128, 128)
        for tail in (b"", b"more", content):  # telephones put a second picture behind the first
            assert np.array_equal(pixels(content + tail), expected)


# ---------------------------------------------------------------- sizes


def photograph(width: int, height: int, **options) -> bytes:
    """A face beside coarse and fine noise, sides of 128 pixels, as a large photograph."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)).resize((128, 128), Image.Resampling.BICUBIC)
    tile = Image.new("RGB", (256, 128))
    tile.paste(face(128), (0, 0))
    tile.paste(coarse, (128, 0))
    large = np.asarray(tile.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    grain = rng.integers(-9, 10, (height, width, 1))
    return saved(Image.fromarray(np.clip(large + grain, 0, 255).astype(np.uint8)), "JPEG", quality=90, **options)


@pytest.fixture(scope="module")
def large_photograph() -> bytes:
    return photograph(3000, 1800)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_large_photographs_are_as_good_at_a_fraction(tmp_path, fit, large_photograph):
    (tmp_path / "a.jpg").write_bytes(large_photograph)
    reduced, whole = (load_images(tmp_path, resolution=(64, 64), fit=fit, reader=reader).images.int() for reader in (2, 1))
    assert (reduced - whole).abs().max() <= 4 and (reduced - whole).float().abs().mean() < 0.6


def test_a_fraction_has_twice_the_size_that_is_enough_and_small_pictures_stay_whole(large_photograph):
    for enough, size in (
        ((64, 64), (375, 225)),
        ((112, 112), (375, 225)),
        ((113, 113), (750, 450)),
        ((300, 64), (1500, 900)),
        ((901, 64), (3000, 1800)),
        ((64, 375), (750, 450)),
        ((2**16, 2**16), (3000, 1800)),
        (None, (3000, 1800)),
    ):
        assert decode(large_photograph, WHITE, enough=enough).image.size == size
    assert decode(saved(Image.new("RGB", (2000, 2000)), "JPEG"), WHITE, enough=(8, 8)).image.size == (2000, 2000)
    assert decode(saved(Image.new("RGB", (2001, 2000)), "JPEG"), WHITE, enough=(8, 8)).image.size == (251, 250)
    assert decode(saved(Image.new("RGB", (2001, 2000))), WHITE, enough=(8, 8)).image.size == (2001, 2000)


def test_a_turned_photograph_has_the_fraction_of_its_upright_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(Image.new("RGB", (4000, 1500), "red"), "JPEG", exif=exif)
    assert decode(content, WHITE, enough=(500, 100)).image.size == (375, 1000)
    assert decode(content, WHITE, enough=(100, 500)).image.size == (1500, 4000)


def test_photographs_beyond_the_limit_are_used_at_a_fraction(tmp_path, monkeypatch):
    Image.new("RGB", (400, 300), "green").save(tmp_path / "a.jpg", progressive=True)
    Image.new("RGB", (400, 300), "green").save(tmp_path / "b.jpg")
    for name, most in (("MAX_PIXELS", 10_000), ("_MAX_OPENED", 200_000), ("_MAX_BUFFERED", 60_000), ("_REDUCED_FROM", 1000)):
        monkeypatch.setattr(data.opening, name, most)
    images = load_images(tmp_path, resolution=(8, 8))
    assert images.names == ["b.jpg"] and "a.jpg: too large (400x300 in several scans" in images.report[1]
    assert load_originals(tmp_path, images.names)[0].shape == (3, 75, 100)
    content = (tmp_path / "b.jpg").read_bytes()
    assert refusal(content, enough=(2**16, 2**16)).startswith("too large: 400x300")
    monkeypatch.setattr(data.opening, "_MAX_OPENED", 100_000)
    assert refusal(content, enough=(8, 8)).startswith("too large: 400x300")


@pytest.mark.parametrize("side, progressive", [(12_000, False), (30_000, False), (65_500, False), (30_000, True), (65_500, True)])
def test_headers_that_lie_about_size(side, progressive):
    content = bytearray(saved(face(64), "JPEG", progressive=progressive))
    start = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    content[start + 5 : start + 9] = struct.pack(">HH", side, side)
    for enough in ((64, 64), (2**16, 2**16)):
        assert refusal(bytes(content), enough=enough).split(":")[0] in ("truncated", "too large")


# ---------------------------------------------------------------- HEIC and AVIF


def boxes(*brands: bytes) -> bytes:
    return struct.pack(">I", 8 + 4 * len(brands) + 4) + b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:]) + bytes(100)


def test_heic_is_named_whatever_its_suffix(tmp_path):
    for name, brands in (
        ("a.heic", [b"heic", b"mif1"]),
        ("b.jpg", [b"mif1", b"heic"]),
        ("c.heif", [b"msf1", b"hevc"]),
        ("d.png", [b"heix"]),
    ):
        (tmp_path / name).write_bytes(boxes(*brands))
    (tmp_path / "film.jpg").write_bytes(boxes(b"isom", b"mp41"))
    face(8).save(tmp_path / "real.heic", "PNG")
    images = load_images(tmp_path, resolution=(8, 8))
    assert images.names == ["real.heic"]
    assert images.report[0] == "6 files -> 1 image at 8x8: 4 HEIC, 1 unrecognised"
    assert images.report[1] == "skipped a.heic: HEIC (HEIC and HEIF cannot be read; convert it to JPEG or PNG)"


def test_avif_is_read_where_pillow_can(tmp_path, monkeypatch):
    if ".avif" in Image.registered_extensions():
        face(64).save(tmp_path / "a.avif", quality=95)
        (tmp_path / "b.jpg").write_bytes((tmp_path / "a.avif").read_bytes())
        images = load_images(tmp_path, resolution=(64, 64))
        assert images.report[0] == "2 files -> 1 image at 64x64: 1 duplicate"
        assert np.abs(images.images[0].permute(1, 2, 0).numpy() - np.asarray(face(64)).astype(int)).mean() < 3
        assert refusal((tmp_path / "a.avif").read_bytes()[:500])
    monkeypatch.setattr(features, "check", lambda name: False)
    assert refusal(boxes(b"avif", b"mif1")) == ("AVIF: this Pillow cannot read AVIF; install pillow>=11.3, or convert it to JPEG or PNG")
