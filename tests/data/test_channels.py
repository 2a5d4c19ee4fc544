"""Transparent and grey images: what is kept of a file, and that hidden colours play no part."""

import numpy as np
import pytest
import torch
from PIL import Image

from data import load_images, load_picture

SIDE = 64


def disc(hidden: tuple[int, int, int], colour: tuple[int, int, int] = (200, 30, 20)) -> Image.Image:
    """Return a disc of one colour on transparent pixels that hide another one."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2 + 0.5
    inside = rows**2 + columns**2 < (SIDE / 3) ** 2
    pixels = np.where(inside[..., None], (*colour, 255), (*hidden, 0)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def read(tmp_path):
    """Return a function that saves pictures in a folder and reads it."""

    def done(*pictures: Image.Image, suffix: str = "png", **how):
        folder = tmp_path / f"set{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for number, picture in enumerate(pictures):
            picture.save(folder / f"{number}.{suffix}", **({"lossless": True, "exact": True} if suffix == "webp" else {}))
        return load_images(folder, **{"resolution": (16, 16), "channels": "rgba"} | how)

    return done


@pytest.mark.parametrize("suffix", ["png", "webp"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_no_hidden_colour_and_no_background_leaks_into_an_edge(suffix, fit, read):
    (green,) = read(disc((0, 255, 0)), suffix=suffix, fit=fit).images
    (white,) = read(disc((255, 255, 255)), suffix=suffix, fit=fit, background="blue").images
    assert torch.equal(green, white)
    colours, opacity = green[:3].float(), green[3].float()
    edge = (opacity > 20) & (opacity < 235)
    assert edge.sum() > 10 and (opacity == 0).any() and (opacity == 255).any()
    straight = colours[:, edge] * 255 / opacity[edge]
    assert (straight - torch.tensor([200.0, 30, 20])[:, None]).abs().max() < 13  # half a level of 20
    assert (green[:3] <= green[3]).all()


def test_pads_are_transparent(read):
    wide = disc((0, 255, 0)).crop((0, 0, SIDE, SIDE // 2))
    (image,) = read(wide, fit="pad", background="red").images
    assert (image[:, :4] == 0).all() and (image[:, -4:] == 0).all() and image[3, 4:-4].max() > 200


def test_a_transparent_picture_is_turned_upright(tmp_path):
    picture, exif = Image.new("RGBA", (SIDE, SIDE)), Image.Exif()
    picture.paste((10, 20, 30, 255), (0, 0, SIDE, 8))  # a bar at the top
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(tmp_path / "x.png", exif=exif)
    image = load_picture(tmp_path / "x.png", resolution=(16, 16), channels="rgba")
    assert (image[3, :, -2:] > 200).all() and (image[3, :, :12] < 5).all()  # now at the right


def test_opaque_files_and_one_clear_colour_are_read_too(read):
    plain = Image.new("RGB", (32, 32), (10, 20, 30))
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([0, 0, 0, 250, 100, 50])
    palette.paste(0, (0, 0, 16, 32))
    palette.info["transparency"] = 0
    found = read(plain, palette)
    assert found.images[0, :, 0, 0].tolist() == [10, 20, 30, 255]
    assert found.images[1, :, 8, 0].tolist() == [0, 0, 0, 0] and found.images[1, :, 8, 15].tolist() == [250, 100, 50, 255]


def test_grey_is_the_brightness_of_what_rgb_would_be(read):
    coloured, grey = disc((9, 9, 9)), Image.linear_gradient("L").resize((40, 40))
    found = read(coloured, grey, channels="grey", background="yellow")
    assert found.images.shape == (2, 1, 16, 16)
    as_rgb = read(grey, channels="rgb").images[0]
    assert torch.equal(as_rgb, found.images[1].expand(3, -1, -1))  # grey files keep their levels
    yellow = Image.new("RGB", (1, 1), "yellow").convert("L").getpixel((0, 0))
    assert found.images[0, 0, 0, 0] == yellow


def test_channels_are_part_of_the_fingerprint_which_stays_what_it_was_for_rgb(read):
    prints = {channels: read(disc((0, 0, 0)), channels=channels).fingerprint for channels in ("rgb", "rgba", "grey")}
    assert len(set(prints.values())) == 3
    assert "channels" not in read(disc((0, 0, 0)), channels="rgb").transform


def test_the_report_says_when_transparency_is_lost_and_when_there_is_none(read):
    clear, opaque = disc((0, 0, 0)), Image.new("RGBA", (32, 32), (1, 2, 3, 255))
    lost = "1 image with transparent pixels, which are now pink (data.background); method: imle keeps them with data.channels=rgba"
    for channels in ("rgb", "grey"):
        assert lost in read(clear, opaque, channels=channels, background="pink").report
    assert len(read(clear, opaque).report) == 1
    assert read(opaque).report[-1] == "no image has transparent pixels: data.channels=rgb gives the same, faster"
    assert len(read(opaque, channels="rgb").report) == 1


def test_one_picture_is_read_as_in_a_folder(read, tmp_path):
    picture = disc((0, 255, 0))
    picture.save(tmp_path / "one.png")
    for channels in ("rgb", "rgba", "grey"):
        alone = load_picture(tmp_path / "one.png", resolution=(16, 16), channels=channels, background="pink")
        assert torch.equal(alone, read(picture, channels=channels, background="pink").images[0])
