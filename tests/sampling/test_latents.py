"""Projected pictures and their latents: found, kept, named on the command line, and refused for another generator."""

import argparse
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from errors import UserError
from methods import open_sampler
from models import inversion
from sampling.latents import FORMAT, Latents, digest, save, words_of
from sampling.projection import project, read_pictures
from training.sheets import save_png, to_pil

ROOT = Path(__file__).parents[2]
FACES = sorted((ROOT / "data" / "fluent_faces").glob("*.png"))[:3]


@pytest.fixture
def sampler(smoke_run):
    return open_sampler(smoke_run)


@pytest.fixture
def kept(sampler, tmp_path):
    """Return a file of two latents."""
    save(tmp_path / "latents.pt", sampler, dict(zip(("a.png", "b.jpg"), sampler.latents([100, 101]))), torch.zeros(2))
    return tmp_path / "latents.pt"


def test_the_latent_of_a_sample_is_found_from_its_picture(sampler, tmp_path, monkeypatch, capsys):
    """The search begins at its latent, one of the random ones, so that few steps are enough."""
    for name, value in (("NUM_LATENTS", 12), ("STARTS", 1), ("SCREENING", 2), ("STEPS", 4)):
        monkeypatch.setattr(inversion, name, value)
    random = torch.randn(12, 32, generator=torch.Generator().manual_seed(0))
    samples = sampler.decode(random[[7, 10]])
    for name, image in zip(("one", "two"), samples):
        save_png(image, tmp_path / f"{name}.png")
    project(sampler, read_pictures(sampler, [tmp_path / "one.png", tmp_path / "two.png"]), tmp_path)
    printed = capsys.readouterr()
    assert re.fullmatch(r"one.png: distance \d\.\d{3}\ntwo.png: distance \d\.\d{3}\n", printed.out) and "100% of the search" in printed.err
    found = Latents(sampler, tmp_path / "latents.pt")
    assert list(found.named) == ["one.png", "two.png"]
    for name, image, number in zip(("one", "two"), found.batches(["one.png", "two.png"], 1), (7, 10)):
        assert (found.named[f"{name}.png"] - random).norm(dim=1).argmin() == number
        save_png(image[0], tmp_path / "again.png")
        assert (tmp_path / "again.png").read_bytes() == (tmp_path / f"projected-{name}.png").read_bytes()
    with Image.open(tmp_path / "projected.png") as sheet:
        assert sheet.size == (2 + 2 * 34, 2 + 2 * 34)
        assert sheet.crop((2, 2, 34, 34)).tobytes() == to_pil(samples[0]).tobytes()


def test_pictures_are_read_like_training_images_from_files_folders_and_archives(sampler, tmp_path):
    (tmp_path / "set" / "inner").mkdir(parents=True)
    shutil.copy(FACES[0], tmp_path / "set" / "inner" / "a, b.png")
    shutil.copy(FACES[1], tmp_path / "set" / "c.png")
    archive = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", FACES[0].parent, FACES[2].name))
    Image.new("L", (40, 90), 7).save(tmp_path / "grey.jpeg")
    found = read_pictures(sampler, [tmp_path / "set", archive, tmp_path / "grey.jpeg"])
    assert list(found) == ["c.png", "inner_a_ b.png", FACES[2].name, "grey.jpeg"]
    assert all(picture.shape == (3, 32, 32) and picture.dtype == torch.uint8 for picture in found.values())
    alone = read_pictures(sampler, FACES[1:2])
    assert torch.equal(found["c.png"], alone[FACES[1].name]) and found["grey.jpeg"].unique().tolist() == [7]


def test_pictures_that_cannot_be_used_are_told_in_one_line(sampler, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    shutil.copy(FACES[0], tmp_path / "me.png")
    with Image.open(FACES[0]) as face:
        face.convert("RGB").save(tmp_path / "me.jpg")
    for paths, told in (
        (["nowhere.png"], "nowhere.png: cannot be read as an image"),
        (["text.png"], "text.png: cannot be read as an image"),
        (["me.png", "me.jpg"], "me.jpg: two pictures would be written to projected-me.png; rename one"),
        (["me.png", "me.png"], "two pictures would be written to"),
    ):
        with pytest.raises(UserError, match=told) as caught:
            read_pictures(sampler, [tmp_path / path for path in paths])
        assert "\n" not in str(caught.value)


def test_words_are_seeds_ranges_and_names():
    assert words_of("3,me.png,12-14,a-b.png,3-x,7.png") == [3, "me.png", 12, 13, 14, "a-b.png", "3-x", "7.png"]
    for text in ("5-3", "0-99999999999", "0-600000,0-600000"):
        with pytest.raises(argparse.ArgumentTypeError):
            words_of(text)


def test_names_and_seeds_give_their_latents_in_the_order_of_the_words(sampler, kept):
    latents = Latents(sampler, kept)
    latents.check(["b.jpg", 5, "a.png"])
    assert torch.equal(latents.of(["b.jpg", 5, "a.png"]), sampler.latents([101, 5, 100]))
    mixed, seeds = (torch.cat(list(latents.batches(words, 2))) for words in (["b.jpg", 5, "a.png"], [101, 5, 100]))
    assert torch.equal(mixed, seeds)
    with pytest.raises(UserError, match=r"^'c.png' is neither a seed, .* picture; the names in --latents are a.png, b.jpg$"):
        latents.check([3, "c.png"])
    with pytest.raises(UserError, match=r"^'a.png' is neither a seed, .*; names of pictures need --latents FILE$"):
        Latents(sampler).check(["a.png"])


def test_latents_belong_to_one_generator_in_whichever_file_it_is(sampler, kept, smoke_run, tmp_path):
    sampler.export(tmp_path / "export.pt")
    assert torch.equal(Latents(open_sampler(tmp_path / "export.pt"), kept).named["a.png"], sampler.latents([100])[0])
    other = open_sampler(smoke_run)
    other.sampled = {name: value + 1e-3 for name, value in other.sampled.items()}
    assert digest(other) != digest(sampler)
    with pytest.raises(UserError, match=r"^--latents .*latents.pt: belongs to another generator than .*last.pt; --project"):
        Latents(other, kept)


def test_a_file_that_is_no_file_of_latents_is_refused_in_one_line(sampler, kept, smoke_run, tmp_path):
    state = torch.load(kept, weights_only=True)
    assert state["format"] == FORMAT and sorted(state) == ["distances", "format", "generator", "latents", "names"]
    broken = tmp_path / "broken.pt"
    for content, told in (
        ({**state, "names": ["a.png"]}, "parts do not fit"),
        ({**state, "names": "ab"}, "parts do not fit"),
        ({**state, "latents": torch.zeros(2, 5)}, "parts do not fit"),
        ({**state, "latents": torch.full_like(state["latents"], torch.nan)}, "parts do not fit"),
        ({key: value for key, value in state.items() if key != "latents"}, "parts do not fit"),
        ([1, 2], "not a file of latents"),
        (argparse.Namespace(), "not a file of latents that --project wrote, or damaged; nothing in it was run"),
    ):
        torch.save(content, broken)
        with pytest.raises(UserError, match=told) as caught:
            Latents(sampler, broken)
        assert "\n" not in str(caught.value)
    for path, told in ((smoke_run / "checkpoints" / "last.pt", "not a file of latents"), (tmp_path / "none.pt", "cannot be read")):
        with pytest.raises(UserError, match=told):
            Latents(sampler, path)
    with pytest.raises(UserError, match="a checkpoint of another program"):
        open_sampler(kept)
