"""Held-out images that training saw: refused where they are equal, named where JPEG, noise or blur lies between; new ones pass."""

import io
import re

import pytest
import torch
from PIL import Image, ImageFilter
from test_evaluate import ROOT, main, numbers

from data import load_images, load_references
from errors import UserError
from metrics import heldout
from metrics.alterations import noise

FACES, OTHERS = ROOT / "data" / "fluent_faces", ROOT / "data" / "fluent_faces_heldout"
SIDE = 64
TRANSFORM = {"resolution": (SIDE, SIDE), "fit": "crop", "background": "white"}


def pictures(path, count):
    """Return PIL images of a folder at the working size."""
    images = load_images(path, resolution=(SIDE, SIDE)).images[:count]
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]


def tensors(images):
    return torch.stack(
        [torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1) for image in images]
    )


def through_jpeg(image, quality):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


CHANGES = {
    "JPEG 90": lambda image: through_jpeg(image, 90),
    "JPEG 75": lambda image: through_jpeg(image, 75),
    "JPEG 40": lambda image: through_jpeg(image, 40),
    "blur 0.5": lambda image: image.filter(ImageFilter.GaussianBlur(0.5)),
    "blur 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "half and back": lambda image: image.resize((32, 32)).resize((SIDE, SIDE)),
    "mirror and JPEG": lambda image: through_jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 75),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_training_image_that_came_back_changed_is_named(name):
    train = pictures(FACES, 40)
    new = pictures(OTHERS, 20)
    mixed = tensors([*map(CHANGES[name], train[3:6]), *new])
    assert heldout.near_copies(tensors(train), mixed) == [0, 1, 2]
    (warning,) = heldout.warnings_of(tensors(train), mixed, [f"{i}.png" for i in range(23)])
    assert warning.startswith("3 of 23 held-out images differ from a training image by no more") and "(0.png, 1.png, 2.png)" in warning
    assert heldout.warnings_of(tensors(train), mixed[3:], [""] * 20) == []


def test_noise_is_seen_through_and_nothing_is_said_of_nothing():
    train = tensors(pictures(FACES, 30))
    assert heldout.near_copies(train, noise(train[:5])) == [0, 1, 2, 3, 4]
    assert heldout.near_copies(train, train[:0]) == []


def write(folder, images):
    folder.mkdir()
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    "change",
    [lambda image: image, lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), lambda image: image.convert("RGBA")],
    ids=["as it is", "mirrored", "in another mode"],
)
def test_a_training_image_among_the_held_out_is_refused_by_name(tmp_path, change):
    train = write(tmp_path / "train", pictures(FACES, 8))
    held = write(tmp_path / "held", [*pictures(OTHERS, 4), change(pictures(FACES, 6)[5])])
    with pytest.raises(UserError, match=r"--heldout .*: 1 of its 5 images are images of .* \(4.png is 5.png\)"):
        load_references(train, TRANSFORM, heldout=held)
    (held / "4.png").unlink()
    assert load_references(train, TRANSFORM, heldout=held).heldout_names == ["0.png", "1.png", "2.png", "3.png"]


def test_the_training_images_themselves_are_refused():
    with pytest.raises(UserError, match="100 of its 100 images are images of"):
        load_references(FACES, TRANSFORM, heldout=FACES)


def test_near_copies_are_accused_although_the_held_out_images_are_such_copies_too(tmp_path, capsys):
    """Their copy rate would be taken for that of new images, and nothing would be divided by a distance of nothing."""
    train = pictures(FACES, 40)
    real, fake = write(tmp_path / "real", train), write(tmp_path / "fake", [through_jpeg(image, 75) for image in train])
    held = write(tmp_path / "held", [through_jpeg(image, 90) for image in train])
    main(fake, "--data", real, "--heldout", held, "--features", "effnet-lite2", "--metrics", "fid,copying", "--out", tmp_path / "out")
    document = numbers(tmp_path / "out")
    assert any("40 of 40 held-out images differ from a training image by no more" in warning for warning in document["warnings"])
    assert any("uspect copying" in each["text"] for each in document["verdict"])
    assert not any(each["tone"] == "good" for each in document["verdict"] if "cop" in each["text"])
    assert not re.search(r"\d{5}", capsys.readouterr().out.split("verdict:", 1)[1])
