"""The forms of an image: rounding, premultiplied colours, and colours over a background."""

import numpy as np
import pytest
import torch
from PIL import Image

from models.pixels import coloured, over, to_float, to_uint8
from training.sheets import grid, shown, to_pil

PAIRS = torch.cartesian_prod(torch.arange(256), torch.arange(256))  # every colour with every opacity
PAIRS = PAIRS[PAIRS[:, 0] <= PAIRS[:, 1]].to(torch.uint8)
EVERY = torch.stack([PAIRS[:, 0], PAIRS[:, 0] // 2, PAIRS[:, 0] * 0, PAIRS[:, 1]])[None, :, None]  # (1, 4, 1, 32896), premultiplied


def test_bytes_and_floats_are_two_forms_of_one_image():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(levels)), levels)
    assert torch.equal(to_uint8(to_float(EVERY)), EVERY)
    assert to_uint8(torch.tensor([[[[-9.0, 9.0]]]])).flatten().tolist() == [0, 255]


def test_no_colour_is_stronger_than_its_opacity():
    images = torch.tensor([1.0, 0.5, -1.0, 0.0]).view(1, 4, 1, 1)
    assert to_uint8(images).flatten().tolist() == [128, 128, 0, 128]
    assert to_uint8(images[:, :3]).flatten().tolist() == [255, 191, 0]  # these are colours alone


def test_a_png_holds_every_premultiplied_colour_exactly():
    picture = to_pil(EVERY[0])
    assert picture.mode == "RGBA"
    back = np.asarray(picture.convert("RGBa")).transpose(2, 0, 1)
    assert np.array_equal(back, EVERY[0].numpy())


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (255, 0, 0), (17, 130, 201)])
def test_transparent_images_lie_over_a_background_as_pillow_lays_them(background):
    laid = np.asarray(Image.alpha_composite(Image.new("RGBA", (EVERY.shape[3], 1), background), to_pil(EVERY[0])).convert("RGB"))
    ours = over(EVERY, background)[0].permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - laid).max() <= 1  # Pillow rounds the colour in the file first


def test_every_image_has_its_own_background_and_other_channels_have_none():
    images, colours = torch.rand(3, 4, 2, 2) * 2 - 1, torch.rand(3, 3) * 2 - 1
    laid = coloured(images, colours)
    for i in range(3):
        torch.testing.assert_close(laid[i], coloured(images[i : i + 1], colours[i])[0])
    assert torch.equal(coloured(images[:, :3], colours), images[:, :3])
    assert torch.equal(coloured(images[:, :1], colours), images[:, :1].repeat(1, 3, 1, 1))
    opaque = torch.cat([images[:, :3], torch.ones(3, 1, 2, 2)], dim=1)
    torch.testing.assert_close(coloured(opaque, colours), images[:, :3])
    clear = -torch.ones(3, 4, 2, 2)
    torch.testing.assert_close(coloured(clear, colours), colours[:, :, None, None].expand(3, 3, 2, 2))


def test_sheets_are_rgb_and_show_what_is_clear_as_a_checkerboard():
    clear = torch.zeros(2, 4, 16, 16, dtype=torch.uint8)
    sheet = grid(clear, columns=2)
    assert sheet.shape == (3, 20, 38) and set(sheet.unique().tolist()) == {204, 255}
    board = shown(clear)[0, 0]
    assert board[0, 0] == 255 and board[0, 8] == 204 and board[8, 8] == 255
    opaque = torch.cat([torch.full((1, 3, 16, 16), 7, dtype=torch.uint8), torch.full((1, 1, 16, 16), 255, dtype=torch.uint8)], dim=1)
    assert set(shown(opaque).unique().tolist()) == {7}
    grey = torch.randint(256, (1, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(shown(grey), grey.repeat(1, 3, 1, 1))
    assert to_pil(grey[0]).mode == "L" and np.array_equal(np.asarray(to_pil(grey[0])), grey[0, 0].numpy())
