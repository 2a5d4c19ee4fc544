"""Folders and zips of images, kind and hostile, against the tensor, report and errors they must give."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

import data.folder
from data import load_images, mirrored, split_holdout
from errors import UserError

ROOT = Path(__file__).parents[2]
SQUARE = (8, 8)


def noise(seed: int, height: int = 8, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def flat(mode: str, colour, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(mode, size, colour)


def fill(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
        noise(seed).save(folder / f"{seed:02}.png")


def pixel(image_set, index: int = 0, row: int = 0, column: int = 0) -> tuple[int, ...]:
    return tuple(image_set.images[index, :, row, column].tolist())


def grid(image_set, index: int = 0) -> np.ndarray:
    return image_set.images[index].permute(1, 2, 0).numpy()  # (H, W, 3)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header is sound and whose pixels are a few bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- what comes out of a good folder


def test_shipped_sets_are_whole_and_disjoint():
    faces = load_images(ROOT / "data/fluent_faces", resolution=(128, 128))
    heldout = load_images(ROOT / "data/fluent_faces_heldout", resolution=(128, 128))
    assert faces.report == ["102 files -> 100 images at 128x128: 2 no images", "no image: LICENSE, README.md"]
    assert heldout.report == ["84 files -> 83 images at 128x128: 1 no image", "no image: LICENSE"]
    pixels = {image.numpy().tobytes() for image in torch.cat([faces.images, heldout.images])}
    assert len(pixels) == 183
    for folder in ("data/fluent_faces", "data/fluent_faces_heldout"):
        assert "Copyright (c) Microsoft Corporation" in (ROOT / folder / "LICENSE").read_text()


def test_nested_folder_any_case_sorted_and_hidden_files_ignored(tmp_path):
    noise(0).save(tmp_path / "b.PNG")
    (tmp_path / "a" / "deep").mkdir(parents=True)
    noise(1).save(tmp_path / "a" / "deep" / "x.Bmp")
    noise(2).save(tmp_path / "a" / "Y.TIFF")
    for name in (".DS_Store", "._b.png", ".hidden.png", "LICENSE", "README.md"):
        (tmp_path / name).write_bytes(b"x")
    for name in (".git", "__MACOSX"):
        (tmp_path / name).mkdir()
        noise(3).save(tmp_path / name / "z.png")
    images = load_images(tmp_path, resolution=SQUARE)
    assert images.names == ["a/Y.TIFF", "a/deep/x.Bmp", "b.PNG"]
    assert images.report == [
        "5 files -> 3 images at 8x8: 2 no images; left out system files: __MACOSX",
        "no image: LICENSE, README.md",
    ]
    assert images.images.dtype == torch.uint8 and images.images.shape == (3, 3, 8, 8)
    for index, seed in enumerate((2, 1, 0)):
        assert np.array_equal(grid(images, index), np.asarray(noise(seed)))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.jpeg", "a.webp", "a.bmp", "a.gif", "a.tif", "a.tiff", "A.JPG"])
def test_every_format(tmp_path, name):
    flat("RGB", (200, 40, 90)).save(tmp_path / name)
    assert np.abs(np.subtract(pixel(load_images(tmp_path, resolution=SQUARE)), (200, 40, 90))).max() <= 4


def test_format_is_told_by_content_not_suffix(tmp_path):
    noise(0).save(tmp_path / "really_png.jpg", format="PNG")
    assert np.array_equal(grid(load_images(tmp_path, resolution=SQUARE)), np.asarray(noise(0)))


def test_postscript_named_png_never_reaches_ghostscript(tmp_path):
    noise(0).save(tmp_path / "a.png", format="EPS")
    noise(1).save(tmp_path / "b.png")
    images = load_images(tmp_path, resolution=SQUARE)
    assert images.names == ["b.png"] and "skipped a.png: unrecognised" in images.report[1]


def test_first_frame_of_an_animation(tmp_path):
    frames = [flat("RGB", colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for name in ("a.gif", "b.webp", "c.png", "d.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    images = load_images(tmp_path, resolution=SQUARE)
    assert images.report[0] == "4 files -> 1 image at 8x8: 3 duplicates"
    assert pixel(images) == (255, 0, 0)


# ---------------------------------------------------------------- modes


def spotted(image: Image.Image, spot) -> Image.Image:
    """The image with its last pixel changed, so that not all of it is transparent."""
    image.putpixel((7, 7), spot)
    return image


def two_colours() -> Image.Image:
    """A palette image of index 0, with index 1 in its last pixel."""
    image = Image.new("P", (8, 8), 0)
    image.putpalette([9, 99, 199, 1, 2, 3])
    return spotted(image, 1)


GREY16 = np.full((8, 8), 0x8000, dtype=np.uint16)
MODES = {
    "grey": ("a.png", flat("L", 77), {}, (77, 77, 77)),
    "one bit": ("a.png", flat("1", 1), {}, (255, 255, 255)),
    "palette": ("a.png", flat("RGB", (9, 99, 199)).quantize(2), {}, (9, 99, 199)),
    "rgba half": ("a.png", flat("RGBA", (255, 0, 0, 128)), {}, (128, 0, 127)),
    "rgba clear": ("a.png", spotted(flat("RGBA", (255, 255, 255, 0)), (1, 2, 3, 255)), {}, (0, 0, 255)),
    "webp alpha": ("a.webp", flat("RGBA", (255, 0, 0, 128)), {"lossless": True}, (128, 0, 127)),
    "tiff alpha": ("a.tif", flat("RGBA", (255, 0, 0, 128)), {}, (128, 0, 127)),
    "grey alpha": ("a.png", flat("LA", (255, 128)), {}, (128, 128, 255)),
    "palette, a clear index": ("a.png", two_colours(), {"transparency": 0}, (0, 0, 255)),
    "palette, half clear": ("a.png", flat("RGB", (255, 0, 0)).quantize(2), {"transparency": b"\x80"}, (128, 0, 127)),
    "gif, a clear index": ("a.gif", two_colours(), {"transparency": 0}, (0, 0, 255)),
    "rgb, a clear colour": ("a.png", spotted(flat("RGB", (9, 99, 199)), (1, 2, 3)), {"transparency": (9, 99, 199)}, (0, 0, 255)),
    "grey, a clear level": ("a.png", spotted(flat("L", 9), 8), {"transparency": 9}, (0, 0, 255)),
    "cmyk red": ("a.tif", flat("CMYK", (0, 255, 255, 0)), {}, (255, 0, 0)),
    "cmyk jpeg white": ("a.jpg", flat("CMYK", (0, 0, 0, 0)), {}, (255, 255, 255)),
    "lab white": ("a.tif", flat("LAB", (255, 128, 128)), {}, (254, 255, 254)),
    "16-bit grey png": ("a.png", Image.fromarray(GREY16), {}, (128, 128, 128)),
    "16-bit grey tiff": ("a.tif", Image.fromarray(GREY16), {}, (128, 128, 128)),
    "16-bit white": ("a.png", Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16)), {}, (255, 255, 255)),
    "16-bit dark": ("a.png", Image.fromarray(np.full((8, 8), 300, dtype=np.uint16)), {}, (1, 1, 1)),
    "32-bit grey in 16-bit range": ("a.tif", flat("I", 65535), {}, (255, 255, 255)),
}


@pytest.mark.parametrize("case", MODES)
def test_every_mode_becomes_rgb_on_the_background(tmp_path, case):
    name, image, options, expected = MODES[case]
    image.save(tmp_path / name, **options)
    assert pixel(load_images(tmp_path, resolution=SQUARE, background="blue")) == expected


def test_big_endian_16_bit_grey(tmp_path):
    Image.frombytes("I;16B", (8, 8), b"\x80\x00" * 64).save(tmp_path / "a.tif")
    assert pixel(load_images(tmp_path, resolution=SQUARE)) == (128, 128, 128)


def test_transparent_colour_does_not_bleed_into_edges(tmp_path):
    image = flat("RGBA", (0, 0, 0, 0), (64, 64))  # clear black around opaque white
    image.paste((255, 255, 255, 255), (16, 16, 48, 48))
    image.save(tmp_path / "a.png")
    assert load_images(tmp_path, resolution=SQUARE).images.min() == 255


@pytest.mark.parametrize("image", [flat("F", 0.5), flat("I", 70000), flat("I", -1)])
def test_pixels_without_a_white_are_skipped_by_name(tmp_path, image):
    image.save(tmp_path / "scan.tif")
    fill(tmp_path, 1)
    images = load_images(tmp_path, resolution=SQUARE)
    assert images.names == ["00.png"]
    assert images.report[1].startswith("skipped scan.tif: unsupported (") and "no agreed white" in images.report[1]


# ---------------------------------------------------------------- EXIF


UPRIGHT = {  # what a viewer must show for stored pixels `a`, from the EXIF 2.3 definition of each value
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9])
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif"])
def test_exif_orientation_is_applied_once(tmp_path, name, orientation):
    stored = noise(5, height=4, width=6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / name, exif=exif, lossless=True)
    expected = UPRIGHT.get(orientation, UPRIGHT[1])(np.asarray(stored))
    assert np.array_equal(grid(load_images(tmp_path, resolution=expected.shape[:2])), expected)


def test_jpeg_exif_and_damaged_exif(tmp_path):
    image = flat("RGB", (0, 0, 0), (32, 32))
    image.paste((255, 255, 255), (0, 0, 32, 16))  # stored: white above; upright by 6: white on the right
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    image.save(tmp_path / "b.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=95)
    images = load_images(tmp_path, resolution=(32, 32))
    assert pixel(images, 0, 8, 24) == (255, 255, 255) and pixel(images, 0, 8, 8) == (0, 0, 0)
    assert pixel(images, 1, 8, 24) == (255, 255, 255) and pixel(images, 1, 24, 24) == (0, 0, 0)


# ---------------------------------------------------------------- fit


def stripes(width: int, height: int) -> Image.Image:
    """Red, green and blue thirds along the longer side."""
    image = flat("RGB", (255, 0, 0), (width, height))
    horizontal = width > height
    for third, colour in ((1, (0, 255, 0)), (2, (0, 0, 255))):
        start = third * max(width, height) // 3
        image.paste(colour, (start, 0, width, height) if horizontal else (0, start, width, height))
    return image


@pytest.mark.parametrize("size", [(24, 8), (8, 24)])
def test_crop_keeps_the_centre_unscaled(tmp_path, size):
    stripes(*size).save(tmp_path / "a.png")
    images = load_images(tmp_path, resolution=SQUARE, fit="crop")
    assert (grid(images) == (0, 255, 0)).all()
    assert images.report == ["1 file -> 1 image at 8x8"]


def test_crop_to_a_rectangle(tmp_path):
    source = noise(1, height=10, width=10)
    source.save(tmp_path / "a.png")
    images = load_images(tmp_path, resolution=(5, 10))
    assert images.images.shape == (1, 3, 5, 10)
    assert np.array_equal(grid(images), np.asarray(source)[2:7])
    assert images.report == ["1 file -> 1 image at 5x10 (height x width)"]


def test_odd_margins_crop_on_whole_pixels(tmp_path):
    source = noise(1, height=8, width=13)
    source.save(tmp_path / "a.png")
    assert np.array_equal(grid(load_images(tmp_path, resolution=SQUARE)), np.asarray(source)[:, 2:10])


def test_pad_centres_on_the_background(tmp_path):
    stripes(24, 12).save(tmp_path / "a.png")
    images = grid(load_images(tmp_path, resolution=(24, 24), fit="pad", background="#102030"))
    assert (images[:6] == (16, 32, 48)).all() and (images[18:] == (16, 32, 48)).all()
    assert np.array_equal(images[6:18], np.asarray(stripes(24, 12)))


def test_stretch_uses_the_whole_image(tmp_path):
    stripes(30, 6).save(tmp_path / "a.png")
    images = load_images(tmp_path, resolution=(6, 6), fit="stretch")
    assert pixel(images, row=3, column=0) == (255, 0, 0) and pixel(images, row=3, column=5) == (0, 0, 255)


def test_shrinking_is_antialiased(tmp_path):
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "a.png")
    values = load_images(tmp_path, resolution=SQUARE).images.int()
    assert values.min() >= 120 and values.max() <= 135


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_extreme_shapes(tmp_path, fit, size):
    flat("RGB", (1, 2, 3), size).save(tmp_path / "a.png")
    images = load_images(tmp_path, resolution=SQUARE, fit=fit, background="black")
    assert images.images.shape == (1, 3, 8, 8)
    upscaled = fit != "pad" or size == (1, 1)
    assert images.report == ["1 file -> 1 image at 8x8" + ": 1 upscaled" * upscaled]


# ---------------------------------------------------------------- files left out


def test_report_counts_and_names_everything(tmp_path):
    fill(tmp_path, 3)
    noise(0).save(tmp_path / "copy.bmp")
    whole = (tmp_path / "01.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not an image at all")
    (tmp_path / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    noise(9, height=4, width=4).save(tmp_path / "small.png")
    images = load_images(tmp_path, resolution=SQUARE)
    assert images.names == ["00.png", "01.png", "02.png", "small.png"]
    assert images.report[0] == ("9 files -> 4 images at 8x8: 1 truncated, 1 empty, 1 HEIC, 1 unrecognised, 1 duplicate, 1 upscaled")
    assert [line.split(" (")[0] for line in images.report[1:]] == [
        "dropped copy.bmp: same pixels as 00.png",
        "skipped cut.png: truncated",
        "skipped empty.jpg: empty",
        "skipped phone.HEIC: HEIC",
        "skipped text.jpg: unrecognised",
    ]


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tif"])
def test_cut_anywhere_never_crashes(tmp_path, name):
    noise(1, 24, 24).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    fill(tmp_path / "good", 1)
    for num_bytes in range(1, len(whole) * 9 // 10, max(1, len(whole) // 12)):
        (tmp_path / name).write_bytes(whole[:num_bytes])
        images = load_images(tmp_path, resolution=SQUARE)
        assert images.names == ["good/00.png"] and images.report[1].startswith(f"skipped {name}: ")


def test_duplicates_after_the_transform_are_dropped_too(tmp_path):
    image = flat("RGB", (5, 5, 5), (16, 16))
    image.save(tmp_path / "large.png")
    image.resize((8, 8)).save(tmp_path / "small.png")
    assert load_images(tmp_path, resolution=SQUARE).report == [
        "2 files -> 1 image at 8x8: 1 duplicate",
        "dropped small.png: same pixels as large.png",
    ]


def test_long_reports_are_bounded(tmp_path):
    fill(tmp_path, 1)
    for index in range(50):
        (tmp_path / f"bad{index:02}.png").write_bytes(b"x")
    report = load_images(tmp_path, resolution=SQUARE).report
    assert report[0] == "51 files -> 1 image at 8x8: 50 unrecognised"
    assert len(report) == 22 and report[-1] == "and 30 more"


@pytest.mark.parametrize("width, height", [(100_000, 100_000), (12_000, 9_000), (2**31 - 1, 1)])
def test_absurd_sizes_are_skipped_before_decoding(tmp_path, monkeypatch, width, height):
    (tmp_path / "bomb.png").write_bytes(png_claiming(width, height))
    fill(tmp_path, 1)
    decoded = []
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", lambda self: decoded.append(self.size))
    with pytest.raises(UserError, match="0 usable images"):  # the patched decoder spoils the good image too
        load_images(tmp_path, resolution=SQUARE)
    assert decoded == [(8, 8)]
    monkeypatch.undo()
    assert load_images(tmp_path, resolution=SQUARE).report[1].startswith("skipped bomb.png: too large (")


def test_oversized_files_are_not_read(tmp_path, monkeypatch):
    fill(tmp_path, 1)
    with open(tmp_path / "sparse.png", "wb") as file:
        file.truncate(data.folder.MAX_FILE_BYTES + 1)
    assert "skipped sparse.png: too large" in load_images(tmp_path, resolution=SQUARE).report[1]


def test_links_pipes_and_loops(tmp_path):
    folder = tmp_path / "set"
    fill(folder / "inside", 1)
    fill(tmp_path / "elsewhere", 1, first=1)
    try:
        (folder / "inside" / "up").symlink_to(folder, target_is_directory=True)
        (folder / "self").symlink_to(folder / "self")
        (folder / "gone.png").symlink_to(folder / "nothing.png")
        (folder / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        os.mkfifo(folder / "pipe.png")
    except (OSError, AttributeError):
        pytest.skip("this system has no links or pipes for us")
    (folder / "folder.png").mkdir()
    images = load_images(folder, resolution=SQUARE)
    assert images.names == ["inside/00.png", "linked/01.png"]
    assert images.report[0] == "5 files -> 2 images at 8x8: 3 unreadable"


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    fill(tmp_path, 1)
    fill(tmp_path / "private", 1, first=1)
    real_scandir = os.scandir

    def scandir(path):  # chmod would not stop a test that runs as root
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert load_images(tmp_path, resolution=SQUARE).report == [
        "2 files -> 1 image at 8x8: 1 unreadable",
        "skipped private/: unreadable (cannot list it: Permission denied)",
    ]


def test_odd_names(tmp_path):
    fill(tmp_path, 1)
    try:
        (tmp_path / "00.png").rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
        noise(1).save(tmp_path / "two\nlines.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    noise(2).save(tmp_path / "Grüße 猫.png")
    names = load_images(tmp_path, resolution=SQUARE).names
    assert names == ["Grüße 猫.png", "caf\\udce9.png", "two\\nlines.png"]
    assert "".join(names).encode() and split_holdout(names, 0.4, 0)


# ---------------------------------------------------------------- zips


def zipped(folder: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return target


def test_zip_equals_folder(tmp_path):
    fill(tmp_path / "set" / "deep", 3)
    fill(tmp_path / "set", 2, first=2)
    (tmp_path / "set" / "bad.png").write_bytes(b"bad")
    archive = zipped(tmp_path / "set", tmp_path / "set.ZIP")
    from_folder, from_zip = (load_images(path, resolution=SQUARE) for path in (tmp_path / "set", archive))
    assert torch.equal(from_folder.images, from_zip.images)
    assert (from_folder.names, from_folder.report) == (from_zip.names, from_zip.report)
    assert from_folder.fingerprint == from_zip.fingerprint
    assert from_zip.names == ["02.png", "03.png", "deep/00.png", "deep/01.png"]


def test_zip_members_that_point_outside_are_refused(tmp_path):
    fill(tmp_path, 5)
    members = ["../up.png", "/etc/absolute.png", "C:\\drive.png", "a\\..\\..\\back.png", "./fine.png"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for index, member in enumerate(members):
            archive.writestr(zipfile.ZipInfo(member), (tmp_path / f"{index:02}.png").read_bytes())
        archive.writestr("__MACOSX/._fine.png", b"x")
        archive.writestr("folder.png/", b"")
    images = load_images(tmp_path / "set.zip", resolution=SQUARE)
    assert images.names == ["fine.png"]
    assert images.report[0] == "5 files -> 1 image at 8x8: 4 unsafe"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{n:02}.png" for n in range(5)] + ["set.zip"]


def test_zip_member_damaged_oversized_or_lying(tmp_path, monkeypatch):
    fill(tmp_path / "set", 3)
    archive = zipped(tmp_path / "set", tmp_path / "set.zip")
    content = bytearray(archive.read_bytes())
    names = [b"00.png", b"01.png"]
    damaged, lying = (content.rindex(name) - 46 for name in names)  # their entries in the central directory
    content[damaged + 16] ^= 0xFF  # its checksum
    content[lying + 24 : lying + 28] = struct.pack("<I", 50)  # its size
    archive.write_bytes(content)
    images = load_images(archive, resolution=SQUARE)
    assert images.names == ["02.png"]
    assert images.report[0] == "3 files -> 1 image at 8x8: 2 unreadable"
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as grown:
        grown.writestr("bomb.png", bytes(200_000))
    monkeypatch.setattr(data.folder, "MAX_FILE_BYTES", 100_000)
    assert "skipped bomb.png: too large" in "\n".join(load_images(archive, resolution=SQUARE).report)


def test_encrypted_zip(tmp_path):
    fill(tmp_path / "set", 1)
    archive = zipped(tmp_path / "set", tmp_path / "set.zip")
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match="set.zip is encrypted"):
        load_images(archive, resolution=SQUARE)


@pytest.mark.parametrize("name", ["set.zip", "photo.png", "set.tar"])
def test_file_that_is_no_zip(tmp_path, name):
    fill(tmp_path / "set", 2)
    whole = zipped(tmp_path / "set", tmp_path / name).read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-10], b"", b"text"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"^data\.path: .* is neither a folder nor a readable \.zip .*; give a"):
            load_images(tmp_path / name, resolution=SQUARE)


def test_scribbled_zips_never_crash(tmp_path):
    fill(tmp_path / "set", 2)
    whole = zipped(tmp_path / "set", tmp_path / "set.zip").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for position in rng.integers(len(content) // 2, len(content), 4):  # headers and central directory
            content[position] = rng.integers(256)
        (tmp_path / "set.zip").write_bytes(content)
        try:
            load_images(tmp_path / "set.zip", resolution=SQUARE)
        except UserError:
            pass


# ---------------------------------------------------------------- errors


def test_missing_path(tmp_path):
    for path in (tmp_path / "nowhere", str(tmp_path / "nowhere.zip"), "", "~/surely/not/here", "nul\0byte"):
        with pytest.raises(UserError, match=r"^data\.path: no folder or \.zip "):
            load_images(path, resolution=SQUARE)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    fill(tmp_path / "cats", 2)
    assert len(load_images("~/cats", resolution=SQUARE).names) == 2


def test_folder_without_images(tmp_path):
    for name in ("a.txt", "b.mp4", "LICENSE", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError) as error:
        load_images(tmp_path, resolution=SQUARE)
    assert str(error.value) == (
        f"data.path: no images in {tmp_path} (3 files, none of .png .jpg .jpeg .webp .bmp .gif .tif .tiff); "
        "point it at the folder that holds them"
    )


def test_too_few_usable_images(tmp_path):
    fill(tmp_path, 2)
    (tmp_path / "bad.png").write_bytes(b"x")
    assert len(load_images(tmp_path, resolution=SQUARE, minimum=2).names) == 2
    with pytest.raises(UserError, match="gives 2 usable images and at least 3 are needed .*; skipped bad.png"):
        load_images(tmp_path, resolution=SQUARE, minimum=3)


@pytest.mark.parametrize("background", ["whitte", "#12", "", None, 5])
def test_bad_background(tmp_path, background):
    with pytest.raises(UserError, match=r"^data\.background: .* is not a colour; use a name such as white, or #rrggbb"):
        load_images(tmp_path, resolution=SQUARE, background=background)


def test_bad_fit(tmp_path):
    with pytest.raises(UserError, match=r"^data\.fit: unknown 'crp'; did you mean 'crop'\? use crop, pad or stretch$"):
        load_images(tmp_path, resolution=SQUARE, fit="crp")
    with pytest.raises(UserError, match=r"^data\.fit: unknown 7; use crop, pad or stretch$"):
        load_images(tmp_path, resolution=SQUARE, fit=7)


# ---------------------------------------------------------------- fingerprint, progress


def test_fingerprint_is_stable_and_sees_every_change(tmp_path):
    fill(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("not part of it")

    def fingerprint(**options):
        return load_images(tmp_path, **{"resolution": SQUARE, **options}).fingerprint

    original = fingerprint()
    assert len(original) == 64 and original == fingerprint() == fingerprint(background="#fff")
    (tmp_path / "notes.txt").write_text("changed")
    assert fingerprint() == original
    changed = [fingerprint(resolution=(8, 4)), fingerprint(fit="pad"), fingerprint(background="black")]
    (tmp_path / "02.png").rename(tmp_path / "03.png")
    changed.append(fingerprint())
    (tmp_path / "03.png").rename(tmp_path / "02.png")
    assert fingerprint() == original
    pixels = np.array(noise(2))
    pixels[7, 7, 2] ^= 1
    Image.fromarray(pixels).save(tmp_path / "02.png")
    changed.append(fingerprint())
    (tmp_path / "02.png").unlink()
    changed.append(fingerprint())
    assert len({original, *changed}) == len(changed) + 1


def test_progress_counts_every_file(tmp_path):
    fill(tmp_path, 3)
    (tmp_path / "bad.png").write_bytes(b"x")
    seen = []
    load_images(tmp_path, resolution=SQUARE, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_tensor_holds_no_more_than_the_kept_images(tmp_path):
    fill(tmp_path, 2)
    for index in range(20):
        noise(0).save(tmp_path / f"copy{index}.png")
    images = load_images(tmp_path, resolution=SQUARE).images
    assert images.is_contiguous() and images.untyped_storage().nbytes() == 2 * 3 * 8 * 8


# ---------------------------------------------------------------- split and mirror


NAMES = [f"cats/{index:03}.png" for index in range(100)]


def test_share_is_exact_ordered_and_independent_of_order():
    train, heldout = split_holdout(NAMES, 0.1, 0)
    assert len(heldout) == 10 and train == sorted(train) and heldout == sorted(heldout)
    assert sorted(train + heldout) == list(range(100))
    shuffled = [NAMES[index] for index in np.random.default_rng(0).permutation(100)]
    assert {shuffled[i] for i in split_holdout(shuffled, 0.1, 0)[1]} == {NAMES[i] for i in heldout}
    assert split_holdout(NAMES, 0.1, 1)[1] != heldout


def test_share_hardly_moves_when_an_image_is_added():
    before = {NAMES[i] for i in split_holdout(NAMES, 0.1, 0)[1]}
    more = ["aardvark.png", *NAMES]
    after = {more[i] for i in split_holdout(more, 0.1, 0)[1]}
    assert len(before & after) >= 9


def test_share_edges():
    assert split_holdout(NAMES, 0, 0) == (list(range(100)), [])
    assert len(split_holdout(NAMES[:3], 0.01, 0)[1]) == 1
    for share in (1, 1.5, -0.1, float("nan")):
        with pytest.raises(UserError, match=r"^data\.holdout: .* is not a share"):
            split_holdout(NAMES, share, 0)
    for names, share in ((NAMES[:1], 0.1), (NAMES[:2], 0.99)):
        with pytest.raises(UserError, match="leaves none to train on"):
            split_holdout(names, share, 0)


def test_holdout_by_name():
    assert split_holdout(NAMES[:4], [NAMES[2], NAMES[0], NAMES[2]], 0) == ([1, 3], [0, 2])
    assert split_holdout(NAMES[:2], [], 0) == ([0, 1], [])
    with pytest.raises(UserError, match=r"no image is named 'cats/0001.png'; did you mean 'cats/001.png'\?"):
        split_holdout(NAMES, ["cats/0001.png"], 0)
    with pytest.raises(UserError, match=r"no image is named '042.png'; did you mean 'cats/042.png'\?"):
        split_holdout(NAMES, ["042.png"], 0)
    with pytest.raises(UserError, match="'zzz'; names are paths inside data.path"):
        split_holdout(NAMES, ["zzz"], 0)
    with pytest.raises(UserError, match="holds out all 2 images"):
        split_holdout(NAMES[:2], NAMES[:2], 0)


def test_mirrored_flips_left_and_right():
    images = torch.arange(2 * 3 * 2 * 2, dtype=torch.uint8).reshape(2, 3, 2, 2)
    both = mirrored(images)
    assert both.shape == (4, 3, 2, 2) and both.dtype == torch.uint8
    assert torch.equal(both[:2], images)
    assert both[2, 0].tolist() == [[1, 0], [3, 2]]
