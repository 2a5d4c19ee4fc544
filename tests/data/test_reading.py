"""One reading for training and scoring: every file read or named, folders of systems left out, names told by what they mean."""

import io
import json
import struct
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data.folder
import data.progress
from data import Record, load_images, load_references, read_generated, split_holdout
from data.folder import load_originals
from data.names import made_by_system
from errors import UserError
from training import checkpoint

ROOT = Path(__file__).parents[2]
SIDE = 16
SQUARE = (SIDE, SIDE)


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (SIDE, SIDE, 3), dtype=np.uint8)


def coded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def picture(seed: int, form: str = "PNG", **options) -> bytes:
    return coded(Image.fromarray(pixels(seed)), form, **options)


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack(target: Path, files: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)
    return target


def read(path: Path, **options):
    return load_images(path, resolution=SQUARE, **options)


# ---------------------------------------------------------------- sets that were read right before


FACES = "12dc80a1fab0430911eeeac08c2dfec6e52f450797a5d74706a396ddadee7bd7"
HELDOUT = "ef51d9333a4033f4ba5c9506503ec44ce81e37ca9513c7489cb3a9f23f1002d0"
ZIPPED = "57989af3c4ae2f91a8929e9c1ac1ed54669f79e2c6e629d08b3d96557296003a"


def test_sets_that_were_read_right_keep_their_fingerprints(tmp_path):
    """The values are those that the reader of revision a2502c8 gave."""
    assert load_images(ROOT / "data/fluent_faces", resolution=(64, 64)).fingerprint == FACES
    assert load_images(ROOT / "data/fluent_faces_heldout", resolution=(64, 64)).fingerprint == HELDOUT
    files = {}
    for i, (name, form, channels) in enumerate(
        [("b.png", "PNG", 3), ("a/c.bmp", "BMP", 3), ("a/Z.PNG", "PNG", 4), ("Grüße 猫.gif", "GIF", 1)]
    ):
        ramp = (np.arange(16 * 12 * channels, dtype=np.uint32).reshape(16, 12, channels) * (2 * i + 3) + 11 * i) % 251
        files[name] = coded(Image.fromarray(ramp.astype(np.uint8).squeeze()), form)
    found = load_images(pack(tmp_path / "set.zip", files | {"notes.txt": b"x"}), resolution=(8, 8))
    assert found.names == ["Grüße 猫.gif", "a/Z.PNG", "a/c.bmp", "b.png"] and found.fingerprint == ZIPPED


# ---------------------------------------------------------------- real and generated images are read alike


def turned(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def alpha(seed: int) -> Image.Image:
    return Image.fromarray(pixels(seed, SIDE, SIDE, 4))


def one(suffix: str, make, **options):
    """Return a function that makes six files of one kind; `make` makes an image from its seed."""
    form = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix.lower(), suffix.upper())
    return lambda: {f"{seed}.{suffix}": coded(make(seed), form, **options) for seed in range(6)}


ENCODINGS = {
    "rgb": one("png", lambda seed: Image.fromarray(pixels(seed))),
    "rgba": one("png", alpha),
    "rgba webp": one("webp", alpha, lossless=True),
    "rgba tiff": one("tif", alpha),
    "palette": one("png", lambda seed: Image.fromarray(pixels(seed)).quantize(8)),
    "palette with transparency": one("png", lambda seed: Image.fromarray(pixels(seed)).quantize(8), transparency=bytes([0, 128, 255])),
    "a clear colour": one("png", lambda seed: Image.fromarray(pixels(seed)), transparency=(1, 2, 3)),
    "grey": one("png", lambda seed: Image.fromarray(pixels(seed, SIDE, SIDE))),
    "grey 16": one("png", lambda seed: Image.fromarray(pixels(seed, SIDE, SIDE).astype(np.uint16) * 257)),
    "grey 16 tiff": one("tif", lambda seed: Image.fromarray(pixels(seed, SIDE, SIDE).astype(np.uint16) * 257)),
    "grey and alpha": one("png", lambda seed: Image.fromarray(pixels(seed, SIDE, SIDE, 2))),
    "one bit": one("png", lambda seed: Image.fromarray(pixels(seed, SIDE, SIDE)).convert("1")),
    "cmyk jpeg": one("jpg", lambda seed: Image.fromarray(pixels(seed)).convert("CMYK")),
    "turned jpeg": one("jpg", lambda seed: Image.fromarray(pixels(seed)), exif=turned(6)),
    "turned png": one("png", lambda seed: Image.fromarray(pixels(seed)), exif=turned(3)),
    "gif": one("gif", lambda seed: Image.fromarray(pixels(seed))),
    "tiff": one("tif", lambda seed: Image.fromarray(pixels(seed))),
    "bmp": one("bmp", lambda seed: Image.fromarray(pixels(seed))),
    "webp": one("webp", lambda seed: Image.fromarray(pixels(seed))),
    "upper case": one("PNG", lambda seed: Image.fromarray(pixels(seed))),
    "mixed": lambda: {f"{seed}.{'tif' if seed % 2 else 'png'}": picture(seed, "TIFF" if seed % 2 else "PNG") for seed in range(6)},
    "odd suffixes": lambda: {
        "a.jfif": picture(0, "JPEG"),
        "b.jpe": picture(1, "JPEG"),
        "c": picture(2),
        "d.jpg_large": picture(3, "JPEG"),
        "e.dat": picture(4, "WEBP"),
        "f.png": picture(5, "JPEG"),
    },
    "folders": lambda: {f"{seed % 2}/{seed}.png": picture(seed) for seed in range(6)},
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_generated_images_are_read_as_real_ones_are(kind, tmp_path):
    files = ENCODINGS[kind]()
    for path in (
        put(tmp_path / "set", files),
        pack(tmp_path / "set.zip", files),
        pack(tmp_path / "top.zip", {f"top/{n}": c for n, c in files.items()}),
    ):
        generated, real = read_generated(path), read(path)
        assert torch.equal(generated.images, real.images) and len(real.images) == 6
        assert generated.report == "6 files -> 6 images"
        assert all(torch.equal(a, b) for a, b in zip(load_originals(path, real.files), generated.images))


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "WEBP"])
def test_plain_rgb_is_read_as_pytorch_fid_reads_it(form, tmp_path):
    content = picture(0, form)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    found = read_generated(put(tmp_path / "set", {f"a.{form.lower()}": content})).images
    assert np.array_equal(found[0].permute(1, 2, 0).numpy(), expected)


def test_equal_samples_stay_and_the_first_by_name_are_taken(tmp_path):
    folder = put(tmp_path / "set", {"b.png": picture(1), "a.png": picture(0), "c.png": picture(0)})
    found = read_generated(folder)
    assert torch.equal(found.images[0], found.images[2]) and len(found.images) == 3
    limited = read_generated(folder, limit=2)
    assert torch.equal(limited.images, found.images[:2]) and limited.report == "3 files -> 2 images: 1 beyond --num-samples"
    all_of_them = read_generated(folder, limit=5)
    assert torch.equal(all_of_them.images, found.images)
    assert all_of_them.report == "3 files -> 3 images; all are scored, which are fewer than --num-samples 5"


def test_what_is_no_sample_is_named(tmp_path):
    files = {f"{seed}.png": picture(seed) for seed in range(3)}
    files |= {"notes.txt": b"x", "seeds.json": b"[]", "old.zip": b"PK\3\4", ".DS_Store": b"x", "@eaDir/0.png/thumb.jpg": picture(9, "JPEG")}
    told = "6 files -> 3 images: 2 no images (notes.txt, seeds.json), 1 archive inside (old.zip); left out system files: @eaDir"
    for path in (put(tmp_path / "set", files), pack(tmp_path / "set.zip", files)):
        assert read_generated(path).report == told


@pytest.mark.parametrize(
    "name, content",
    [
        ("cut.png", picture(1)[:200]),
        ("cut", picture(1)[:200]),
        ("a.jp2", b"\0\0\0\x0cjP  \r\n\x87\n"),
        ("drawing", b"<svg xmlns='x'/>"),
        ("text.png", b"x"),
        ("empty.gif", b""),
    ],
)
def test_a_sample_that_cannot_be_read_ends_the_scoring_and_is_named(name, content, tmp_path):
    with pytest.raises(UserError, match=rf"/{name}: cannot be read as an image \(\w+: .*; make it again or remove it$"):
        read_generated(put(tmp_path / "set", {"0.png": picture(0), name: content}))


def test_sheets_and_films_beside_samples_are_left_out_by_name(tmp_path):
    wide = coded(Image.new("RGB", (SIDE * 3, SIDE)))
    samples = {f"seed{seed:04}.png": picture(seed) for seed in range(4)}
    projected = {f"projected-{name}.png": picture(name) for name in range(2)}
    film = {"film.gif": picture(7, "GIF"), "frame0000.png": picture(8), "frame0001.png": picture(9)}
    for files, count, left in (
        (samples | {"grid.png": wide, "nearest.png": wide}, 4, ": 2 sheets or films of sample.py (grid.png, nearest.png)"),
        (samples | film, 4, ": 3 sheets or films of sample.py (film.gif, frame0000.png, frame0001.png)"),
        (film, 2, ": 1 sheet or film of sample.py (film.gif)"),
        ({"grid.png": picture(0), "nearest.png": picture(1), "film.gif": picture(2, "GIF")}, 3, ""),
        (samples | {"mix.png": wide, "training.gif": picture(7, "GIF")}, 4, ": 2 sheets or films of sample.py (mix.png, training.gif)"),
        (projected | {"projected.png": wide}, 2, ": 1 sheet or film of sample.py (projected.png)"),
        (samples | {"frame1.png": picture(8)}, 5, ""),
        (samples | {"other/grid.png": picture(8)}, 5, ""),
    ):
        path = pack(tmp_path / "set.zip", files)
        found = read_generated(path)
        assert len(found.images) == count and found.report == f"{len(files)} files -> {count} images{left}"
        assert torch.equal(found.images, read(path).images)
    assert read(pack(tmp_path / "set.zip", samples | {"grid.png": wide})).report == [
        "5 files -> 4 images at 16x16: 1 of sample.py",
        "skipped grid.png: of sample.py (a sheet or film beside its samples)",
    ]


def test_scoring_a_folder_against_itself_gives_nothing_between_and_a_record(command, tmp_path):
    files = ENCODINGS["rgba"]() | {
        "g.tiff": coded(Image.fromarray(pixels(8, SIDE, SIDE).astype(np.uint16) * 257), "TIFF"),
        "notes.txt": b"x",
    }
    folder = put(tmp_path / "set", files)
    result = command(
        "evaluate.py",
        folder,
        "--data",
        folder,
        "--features",
        "effnet-lite0",
        "--metrics",
        "fid",
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    )
    assert result.returncode == 0, result.stderr
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    scored = document["metrics"]["fd_effnetlite0"]
    assert abs(scored["value"]) < 0.005 and (scored["num_fake"], scored["num_real"]) == (7, 7)
    assert document["input"]["files"] == "8 files -> 7 images: 1 no image (notes.txt)"
    assert f"samples: {document['input']['files']}\n" in result.stderr


# ---------------------------------------------------------------- every file is read or named


def tga(**options) -> bytes:
    return coded(Image.fromarray(pixels(3)), "TGA", **options)


PILLOW = {
    "jp2": "JPEG2000",
    "ppm": "PPM",
    "ico": "ICO",
    "tga": "TGA",
    "pcx": "PCX",
    "sgi": "SGI",
    "dds": "DDS",
    "icns": "ICNS",
    "eps": "EPS",
    "xbm": "XBM",
    "qoi": "QOI",
}
FOREIGN = {form: coded(Image.fromarray(pixels(3)).convert("1" if form == "XBM" else "RGB"), form) for form in PILLOW.values()}
FOREIGN |= {
    "PGM": coded(Image.fromarray(pixels(3, SIDE, SIDE)), "PPM"),
    "PBM": coded(Image.new("1", (9, 9)), "PPM"),
    "PPM with a remark": b"P6 # made by hand\n2 1\n255\n" + bytes(6),
    "PAM": b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 1\nMAXVAL 255\nENDHDR\n\0",
    "TGA, packed": tga(compression="tga_rle"),
    "TGA, palette": coded(Image.fromarray(pixels(3)).quantize(8), "TGA"),
    "TGA, grey": coded(Image.fromarray(pixels(3, SIDE, SIDE)), "TGA"),
    "PSD": b"8BPS\0\1" + bytes(20),
    "JPEG XL": b"\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG XL codestream": b"\xff\x0a\0",
    "JPEG XR": b"II\xbc\1" + bytes(9),
    "JPEG 2000 codestream": b"\xff\x4f\xff\x51\0",
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "SVG with a prolog": b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- a > b -->\n<!DOCTYPE svg PUBLIC 'x' [ <!ENTITY a '<b>'> ]>\n<svg:svg/>",
    "XCF": b"gimp xcf v011\0",
    "EXR": b"\x76\x2f\x31\x01\2\0",
    "HDR": b"#?RADIANCE\n",
    "CR3": b"\0\0\0\x18ftypcrx isom",
    "RAF": b"FUJIFILMCCD-RAW 0201",
    "CR2": b"II*\0\x10\0\0\0CR\2\0",
    "CUR": b"\0\0\2\0\1\0\x20\x20\0\0\1\0\1\0" + bytes(20),
    "EMF": b"\1\0\0\0" + bytes(36) + b" EMF",
    "DICOM": bytes(128) + b"DICM",
    "DjVu": b"AT&TFORM",
    "FITS": b"SIMPLE  =                    T",
    "MNG": b"\x8aMNG\r\n\x1a\n",
}


@pytest.mark.parametrize("form", FOREIGN)
@pytest.mark.parametrize("name", ["x", "x.dat"])
def test_a_format_that_is_not_read_is_named_whatever_its_suffix(form, name, tmp_path):
    files = {"0.png": picture(0), name: FOREIGN[form]}
    for path in (put(tmp_path / "set", files), pack(tmp_path / "set.zip", files)):
        found = read(path)
        assert found.names == ["0.png"] and found.report[0] == "2 files -> 1 image at 16x16: 1 unsupported"
        assert found.report[1].startswith(f"skipped {name}: unsupported (") and found.report[1].endswith("save it as PNG or JPEG)")


@pytest.mark.parametrize("name", ["x.jp2", "x.TGA", "x.svgz", "x.psd", "x.ico", "x.jxl", "x.NEF"])
def test_a_suffix_is_enough_to_name_a_picture(name, tmp_path):
    assert read(put(tmp_path, {"0.png": picture(0), name: b"?"})).report[0].endswith(": 1 unsupported")


@pytest.mark.parametrize("name", ["x.jfif", "x.JPE", "x.jpg_large", "x.mpo"])
def test_an_unusual_suffix_of_an_image_is_named_when_nothing_like_one_is_inside(name, tmp_path):
    found = read(put(tmp_path, {"0.png": picture(0), name: b"text"}))
    assert found.report[0].endswith(": 1 unrecognised") and found.report[1].startswith(f"skipped {name}: unrecognised (")


@pytest.mark.parametrize("suffix", [".dng", ".nef", ".ARW", ".cr2"])
def test_of_a_raw_file_the_thumbnail_is_not_taken(suffix, tmp_path):
    found = read(put(tmp_path, {"0.png": picture(0), f"x{suffix}": picture(1, "TIFF")}))
    assert found.names == ["0.png"] and "a camera's raw file" in found.report[1]


def big_tiff() -> bytes:
    """A BigTIFF of 4x4 grey pixels, of 6 entries."""
    entries = [(256, 3, 4), (257, 3, 4), (258, 3, 8), (262, 3, 1), (273, 4, 16 + 8 + 6 * 20 + 8), (279, 4, 16)]
    listed = b"".join(struct.pack("<HHQQ", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II\x2b\0\x08\0\0\0" + struct.pack("<QQ", 16, len(entries)) + listed + bytes(8) + bytes(range(0, 160, 10))


READABLE = {
    "png": picture(1),
    "jpeg": picture(1, "JPEG"),
    "gif": picture(1, "GIF"),
    "webp": picture(1, "WEBP"),
    "bmp": picture(1, "BMP"),
    "tiff": picture(1, "TIFF"),
    "tiff, big-endian": coded(Image.frombytes("I;16B", (4, 4), bytes(range(32))), "TIFF"),
    "big tiff": big_tiff(),
}


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("name", ["x", "x.jfif", "x.jpe", "x.jpg_large", "x.bin", "x.png~", "photo.2024", "x.jp2", "x.ico"])
def test_what_begins_like_an_image_is_read_whatever_its_suffix(kind, name, tmp_path):
    found = read(put(tmp_path, {name: READABLE[kind]}))
    assert found.names == [name] and found.report[0].startswith("1 file -> 1 image")


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"avif", b"avis", b"hevc", b"msf1"])
def test_a_phones_picture_without_a_suffix_is_named(brand, tmp_path):
    found = read(put(tmp_path, {"0.png": picture(0), "IMG_1": b"\0\0\0\x18ftyp" + brand + bytes(12)}))
    assert found.report[0].startswith("2 files -> 1 image") and found.report[1].startswith("skipped IMG_1: ")


@pytest.mark.parametrize(
    "name, content",
    [
        ("notes.txt", b"BMW, P6 and a GIF"),
        ("BM", b"BM is how a bitmap begins, and what follows is text of fifty letters or more"),
        ("p.txt", b"P1 is a port, P2 too\n"),
        ("page.html", b"<!DOCTYPE html><html><svg width='1'></svg></html>"),
        ("film.mp4", b"\0\0\0\x18ftypisom" + bytes(99)),
        ("song.wav", b"RIFF\0\0\0\0WAVE"),
        ("film.mpg", b"\0\0\1\xba\x44" + bytes(99)),
        ("zeros.bin", bytes(9999)),
        ("font.ttf", b"\0\1\0\0\0\x0f\0\x80\0\3\0\x70OS/2" + bytes(99)),
        ("empty", b""),
        ("model.pt", b"PK\3\4" + bytes(99)),
        ("table.xlsx", b"PK\3\4" + bytes(99)),
        ("header.h", b"#define image_width 16\n#include <x>\n"),
        ("comments.xml", b"<?xml version='1.0'?>" + b"<!-- -->" * 400),
        ("digits.idx", b"\0\0\x08\3\0\0\xea\x60\0\0\0\x1c\0\0\0\x1c" + bytes(9)),
    ],
)
def test_what_is_no_image_is_counted_by_name(name, content, tmp_path):
    files = {"0.png": picture(0), name: content}
    for path in (put(tmp_path / "set", files), pack(tmp_path / "set.zip", files)):
        assert read(path).report == ["2 files -> 1 image at 16x16: 1 no image", f"no image: {name}"]
        assert read_generated(path).report == f"2 files -> 1 image: 1 no image ({name})"


def test_the_total_is_the_folders_total(tmp_path):
    files = {
        "0.png": picture(0),
        "1.png": picture(0),
        "cut.jpg": picture(2, "JPEG")[:400],
        "a.jp2": b"\xff\x4f\xff\x51",
        "in.tar": b"",
        "LICENSE": b"x",
        "b": b"\0",
    }
    found = read(put(tmp_path, files))
    assert found.report[0] == "7 files -> 1 image at 16x16: 1 unsupported, 1 truncated, 1 archive, 1 duplicate, 2 no images"
    assert found.report[1:] == [
        "dropped 1.png: same pixels as 0.png",
        "skipped a.jp2: unsupported (JPEG 2000, which is not supported; save it as PNG or JPEG)",
        found.report[3],
        "skipped in.tar: archive (an archive inside; unpack it)",
        "no image: LICENSE, b",
    ]
    assert found.report[3].startswith("skipped cut.jpg: truncated")


def test_many_names_are_bounded(tmp_path):
    files = {"0.png": picture(0)} | {f"{index:03}.json": b"{}" for index in range(50)}
    found = read(put(tmp_path, files))
    assert found.report[0] == "51 files -> 1 image at 16x16: 50 no images" and len(found.report) == 2
    assert found.report[1].endswith("019.json and 30 more") and read_generated(tmp_path).report.endswith("019.json and 30 more)")


def archives(folder: Path) -> dict[str, bytes]:
    with tarfile.open(folder / "a.tar", "w") as tar:
        tar.add(ROOT / "LICENSE", "LICENSE")
    return {
        "zip": pack(folder / "a.zip", {"in.png": picture(5)}).read_bytes(),
        "tar": (folder / "a.tar").read_bytes(),
        "gz": b"\x1f\x8b\x08\0" + bytes(9),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(9),
        "rar": b"Rar!\x1a\7\0",
        "bz2": b"BZh91AY&SY",
        "xz": b"\xfd7zXZ\0",
        "zst": b"\x28\xb5\x2f\xfd",
    }


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "7z", "rar", "bz2", "xz", "zst"])
def test_an_archive_inside_is_named(kind, tmp_path):
    content = archives(tmp_path)[kind]
    for name in (f"more.{kind}", "more", "more.backup"):
        files = {"0.png": picture(0), name: content}
        for path in (put(tmp_path / "set" / name, files), pack(tmp_path / "set.zip", files)):
            assert read(path).report == [
                "2 files -> 1 image at 16x16: 1 archive",
                f"skipped {name}: archive (an archive inside; unpack it)",
            ]


def test_a_folder_that_holds_an_archive_alone_says_so(tmp_path):
    put(tmp_path, {"set.zip": b"PK\3\4", "#recycle/0.png": picture(0)})
    with pytest.raises(
        UserError, match=r"no images in .* \(1 file, .*; set.zip: an archive inside, unpack it; left out system files: #recycle\)"
    ):
        read(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_a_zips_equal_names_the_last_is_taken_and_the_others_are_named(tmp_path):
    path = pack(
        tmp_path / "set.zip",
        [
            ("a.png", picture(0)),
            ("b.png", picture(1)),
            ("a.png", picture(2)),
            ("./a.png", picture(3)),
            ("c\\d.png", picture(4)),
            ("c/d.png", picture(5)),
        ],
    )
    found = read(path)
    assert found.report == [
        "6 files -> 3 images at 16x16: 3 replaced",
        *[f"skipped {name}: replaced (a later member of the .zip has the same name)" for name in ("a.png", "a.png", "c/d.png")],
    ]
    for index, seed in enumerate((3, 1, 5)):
        assert np.array_equal(found.images[index].permute(1, 2, 0).numpy(), pixels(seed))
    assert read_generated(path).report == "6 files -> 3 images: 3 replaced by later members of their names (a.png, a.png, c/d.png)"


def test_two_names_that_are_written_alike_are_two_files(tmp_path):
    try:
        put(tmp_path, {"a\nb.png": picture(0), "a\\nb.png": picture(1)})
    except OSError:
        pytest.skip("this file system takes no such names")
    found = read(tmp_path)
    assert found.report == ["2 files -> 2 images at 16x16"] and len({*found.names}) == 2


def test_only_the_first_bytes_of_other_files_are_read(tmp_path, monkeypatch):
    with open(put(tmp_path, {"0.png": picture(0)}) / "film.mp4", "wb") as file:
        file.write(b"\0\0\0\x18ftypisom")
        file.truncate(data.folder.MAX_FILE_BYTES + 1)
    asked = []
    for reader in ("_read_file", "_read_member"):
        real = getattr(data.folder, reader)
        monkeypatch.setattr(data.folder, reader, lambda *words, real=real: (content := real(*words), asked.append(len(content)))[0])
    assert read(tmp_path).report == ["2 files -> 1 image at 16x16: 1 no image", "no image: film.mp4"]
    pack(tmp_path / "set.zip", {"0.png": picture(0), "film.mp4": bytes(2**20)})
    assert read(tmp_path / "set.zip").report[1] == "no image: film.mp4"
    assert len(asked) == 4 and max(asked) <= 4096


def test_what_cannot_be_read_is_named_even_without_a_suffix(tmp_path, monkeypatch):
    put(tmp_path, {"0.png": picture(0), "secret": picture(1), "x.png/1.png": picture(2)})
    try:
        (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    except OSError:
        pytest.skip("this system has no links for us")
    real_open = open

    def refusing(path, *words, **options):  # chmod would not stop a test that runs as root
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return real_open(path, *words, **options)

    monkeypatch.setattr("builtins.open", refusing)
    assert read(tmp_path).report == [
        "4 files -> 2 images at 16x16: 2 unreadable",
        "skipped gone: unreadable (not an ordinary file, or a link to nothing)",
        "skipped secret: unreadable (Permission denied)",
    ]
    with pytest.raises(UserError, match=r"/gone: cannot be read as an image \(unreadable: "):
        read_generated(tmp_path)


def test_a_member_that_cannot_be_unpacked_is_named_even_without_a_suffix(tmp_path):
    path = pack(tmp_path / "set.zip", {"0.png": picture(0), "secret": picture(1)})
    content = bytearray(path.read_bytes())
    for place in (content.rindex(b"secret") - 46 + 10, content.index(b"secret") - 30 + 8):  # the methods of compression in both headers
        content[place] = 99
    path.write_bytes(content)
    found = read(path)
    assert found.report[0] == "2 files -> 1 image at 16x16: 1 unreadable" and found.report[1].startswith("skipped secret: unreadable (")


# ---------------------------------------------------------------- folders that systems make


MADE = [
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "@Recently-Snapshot",
    "$RECYCLE.BIN",
    "$Recycle.Bin",
    "RECYCLER",
    "System Volume Information",
    "lost+found",
    "__MACOSX",
    "Network Trash Folder",
    "Temporary Items",
    "LOST.DIR",
    "FOUND.000",
    "@GMT-2024.01.01-00.00.00",
]


@pytest.mark.parametrize("name", [*MADE, "@EADIR", "system volume information", "Lost+Found"])
def test_folders_that_systems_make_are_left_out_and_named(name, tmp_path):
    files = {
        "0.png": picture(0),
        "in/1.png": picture(1),
        f"{name}/2.png": picture(2),
        f"in/{name}/1.png/thumb.jpg": picture(3, "JPEG"),
        "Thumbs.db": b"x",
        "in/desktop.ini": b"x",
        "~$0.docx": b"x",
        ".AppleDouble/0.png": picture(4),
        "._0.png": b"x",
        ".Trash-1000/files/5.png": picture(5),
        ".thumbnails/6.png": picture(6),
    }
    for path in (put(tmp_path / "set", files), pack(tmp_path / "set.zip", files)):
        found = read(path)
        assert found.names == ["0.png", "in/1.png"] and len(found.report) == 1
        assert found.report[0].startswith("2 files -> 2 images at 16x16; left out system files: ")
        named = found.report[0].partition("system files: ")[2].split(", ")
        assert sorted(named) == sorted([name, "Thumbs.db", "desktop.ini", "~$0.docx"])
        generated = read_generated(path)
        assert len(generated.images) == 2 and generated.report.partition("system files: ")[2].split(", ") == named


def test_a_system_folder_that_is_asked_for_is_read(tmp_path):
    folder = put(tmp_path / "lost+found", {"#1.png": picture(0)})
    assert read(folder).names == ["#1.png"] and len(read_generated(folder).images) == 1


@pytest.mark.parametrize(
    "name", ["recycled", "recycling bin", "found", "snapshot", "@me", "#1", "temporary", "thumbs", "lost and found", "$5"]
)
def test_names_of_people_are_not_taken_for_those_of_systems(name):
    assert not made_by_system(name)


# ---------------------------------------------------------------- names


COMPOSED = ["café/ü.png", "café/z.png", "Å 각.png", "plain.png", "zoë.png"]
DECOMPOSED = [unicodedata.normalize("NFD", name) for name in COMPOSED]
FILES = {name: picture(seed) for seed, name in enumerate(COMPOSED)}


def unmarked(path: Path, files: dict[str, bytes]) -> Path:
    """Write a .zip as macOS does: its names are UTF-8, and do not say so."""
    pack(path, {name.encode().decode("latin-1").encode("ascii", "replace").decode(): content for name, content in files.items()})
    content = path.read_bytes()
    for name in files:
        content = content.replace(name.encode().decode("latin-1").encode("ascii", "replace"), name.encode())
    path.write_bytes(content)
    return path


def spellings(folder: Path) -> dict[str, Path]:
    decomposed = dict(zip(DECOMPOSED, FILES.values()))
    return {
        "composed": put(folder / "nfc", FILES),
        "decomposed": put(folder / "nfd", decomposed),
        "zip": pack(folder / "a.zip", FILES),
        "decomposed zip": pack(folder / "b.zip", decomposed),
        "zip of the folder": pack(folder / "c.zip", {f"my cats/{n}": c for n, c in FILES.items()}),
        "zip by Windows": pack(folder / "d.zip", {f"cats\\{n}".replace("/", "\\"): c for n, c in FILES.items()}),
        "zip by macOS": unmarked(folder / "e.zip", {f"cats/{n}": c for n, c in decomposed.items()} | {"__MACOSX/cats/._plain.png": b"x"}),
    }


def test_one_set_has_one_fingerprint_however_its_names_are_spelled(tmp_path):
    first, *others = (read(path) for path in spellings(tmp_path).values())
    assert first.names == sorted(COMPOSED) and first.report == ["5 files -> 5 images at 16x16"]
    for other in others:
        assert (other.names, other.fingerprint, other.report) == (first.names, first.fingerprint, first.report)
        assert torch.equal(other.images, first.images) and split_holdout(other.names, 0.4, 0) == split_holdout(first.names, 0.4, 0)


def test_names_that_would_become_equal_stay_as_they_are(tmp_path):
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")] + [unicodedata.normalize("NFD", "ö.png")]
    found = read(pack(tmp_path / "set.zip", {name: picture(seed) for seed, name in enumerate(names)}))
    assert found.names == sorted([*names[:2], "ö.png"]) and found.report == ["3 files -> 3 images at 16x16"]


@pytest.mark.parametrize("extra", ["notes.txt", "b/1.png", "../1.png"])
def test_a_folder_that_does_not_hold_everything_stays_in_the_names(extra, tmp_path):
    assert "a/0.png" in read(pack(tmp_path / "set.zip", {"a/0.png": picture(0), extra: picture(1)})).names


def as_before(path: Path, names: list[str]) -> Record:
    """Return what a checkpoint of revision a2502c8 says of images with these names: the names sorted as they are, and held out by them."""
    import hashlib

    found, order = read(path), sorted(names)
    transform = {"resolution": list(SQUARE), "fit": "crop", "background": [255, 255, 255]}
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(FILES[COMPOSED[names.index(name)]]))).transpose(2, 0, 1) for name in order])
    digest = hashlib.sha256(json.dumps([order, transform], sort_keys=True).encode())
    digest.update(np.ascontiguousarray(pixels))
    assert len(found.names) == len(names)
    train, heldout = split_holdout(order, 0.4, 0)
    return Record(digest.hexdigest(), [order[i] for i in train], [order[i] for i in heldout])


OLD = {
    "decomposed": DECOMPOSED,
    "composed": COMPOSED,
    "with a folder": [f"cats/{name}" for name in COMPOSED],
    "with folders": [f"my/cats/{name}" for name in DECOMPOSED],
    "unmarked": [name.encode().decode("cp437") for name in DECOMPOSED],
}


@pytest.mark.parametrize("old", OLD)
def test_a_run_begun_under_another_spelling_is_scored_as_it_was_divided(old, tmp_path):
    transform = {"resolution": SQUARE, "fit": "crop", "background": "white"}
    for path in spellings(tmp_path).values():
        trained = as_before(path, OLD[old])
        found = load_references(path, transform, trained=trained, originals=True)
        assert found.fingerprint == trained.fingerprint and found.warnings == []
        for names, images, originals in (
            (trained.names, found.real, found.real_originals),
            (trained.heldout, found.heldout, found.heldout_originals),
        ):
            for name, image, original in zip(names, images, originals, strict=True):
                seed = OLD[old].index(name)
                assert np.array_equal(image.permute(1, 2, 0).numpy(), pixels(seed)) and torch.equal(image, original)


def test_of_equal_images_another_one_may_have_been_the_first(tmp_path):
    names = [unicodedata.normalize("NFD", "é.png"), "z.png", "a.png"]  # decomposed, it comes before z; composed, after it
    found = read(put(tmp_path, {names[0]: picture(1), "z.png": picture(1), "a.png": picture(0)}))
    assert found.names == ["a.png", "z.png"]
    before = found.respelled([names[0], "a.png"])
    assert before.names == ["a.png", names[0]] and before.files == ["a.png", "z.png"] and torch.equal(before.images, found.images)


def test_names_that_differ_in_more_are_not_taken_for_each_other(tmp_path):
    found = read(put(tmp_path, FILES))
    for other in (
        COMPOSED[:-1],
        [*COMPOSED, "more.png"],
        [*COMPOSED[:-1], "zoe.png"],
        [*COMPOSED[:-1], "cats/zoë.png"],
        [*COMPOSED[:-1], COMPOSED[0]],
        [],
    ):
        assert found.respelled(other) is found
    assert found.respelled(COMPOSED) is found
    trained = as_before(tmp_path, COMPOSED)
    trained = trained._replace(fingerprint="other", names=[f"{name}x" for name in trained.names])
    with pytest.raises(UserError, match="is not what the run was trained on"):
        load_references(tmp_path, {"resolution": SQUARE, "fit": "crop", "background": "white"}, trained=trained)


def test_holdout_lists_may_be_spelled_otherwise():
    names = sorted(COMPOSED)
    expected = split_holdout(names, [COMPOSED[0], COMPOSED[4]], 0)
    for chosen in ([DECOMPOSED[0], COMPOSED[4]], [f"cats/{DECOMPOSED[0]}", f"cats/{DECOMPOSED[4]}"]):
        assert split_holdout(names, chosen, 0) == expected
    assert split_holdout(sorted(DECOMPOSED), [COMPOSED[3]], 0)[1] == [sorted(DECOMPOSED).index(DECOMPOSED[3])]
    for wrong in (["cats/plain.png", "dogs/zoë.png"], ["cats/nobody.png"]):
        with pytest.raises(UserError, match=f"no image is named '{wrong[0]}'"):
            split_holdout(names, wrong, 0)


@pytest.mark.parametrize("holdout", ["0.4", f"[{DECOMPOSED[0]}, {DECOMPOSED[4]}]"])
def test_a_run_goes_on_with_its_images_back_from_another_system(holdout, command, tmp_path):
    """A run as revision a2502c8 left it: decomposed names, sorted and divided as such."""
    folder = put(tmp_path / "nfc", FILES)
    words = [
        "train.py",
        "--config",
        ROOT / "configs" / "smoke-32.yaml",
        "--run",
        tmp_path / "run",
        "--device",
        "cpu",
        "train.batch_size=2",
        f"data.holdout={holdout}",
    ]
    assert (result := command(*words, f"data.path={folder}", "train.epochs=1")).returncode == 0, result.stderr
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    state, found = checkpoint.load(last), load_images(folder, resolution=(32, 32))
    decomposed = [unicodedata.normalize("NFD", name) for name in found.names]
    before = found.respelled(decomposed)
    assert before.fingerprint != found.fingerprint
    train, heldout = split_holdout(before.names, json.loads(holdout) if holdout[0] != "[" else [DECOMPOSED[0], DECOMPOSED[4]], 0)
    state["data"] = {
        "fingerprint": before.fingerprint,
        "names": [before.names[i] for i in train],
        "heldout": [before.names[i] for i in heldout],
    }
    checkpoint.save(state, last)
    archive = pack(tmp_path / "set.zip", {f"top/{name}": content for name, content in FILES.items()})
    for epochs, path in ((2, folder), (3, archive)):
        result = command(*words, f"data.path={path}", f"train.epochs={epochs}")
        assert result.returncode == 0 and "going on from step" in result.stdout, result.stdout + result.stderr
        assert checkpoint.load(last)["data"] == state["data"] | {"reader": 1}
    put(folder, {"more.png": picture(9)})
    result = command(*words, f"data.path={folder}", "train.epochs=4")
    assert result.returncode == 2 and "the images have changed since this run began: " in result.stderr and "added" in result.stderr


# ---------------------------------------------------------------- progress


def test_slow_reading_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    put(tmp_path, {f"{seed}.png": picture(seed) for seed in range(10)})
    clock = iter(range(100))
    monkeypatch.setattr(data.progress.time, "monotonic", lambda: next(clock) / 2)
    assert len(read(tmp_path).names) == 10
    told = capsys.readouterr().err
    assert told.startswith("\r4/10 files read") and told.endswith("\r10/10 files read\n")
    monkeypatch.setenv("RANK", "1")
    read(tmp_path)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(data.progress.time, "monotonic", lambda: 0.0)
    read(tmp_path)
    assert capsys.readouterr().err == ""
