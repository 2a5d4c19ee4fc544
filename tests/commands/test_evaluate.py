"""evaluate.py on a run, on folders, and on what people give it by mistake: as real commands, or in this process.

A command spends seconds on its imports, so only what depends on being one is run as one.
"""

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data import load_images, split_holdout
from errors import MissingWeights, UserError
from imle.drawing import build_generator
from imle.settings import Config
from methods import open_sampler
from metrics import page, paths
from metrics.evaluation import Evaluation
from metrics.features import NETWORKS
from metrics.interface import Sets
from models import inversion, weights
from training import checkpoint
from training.settings import to_dict

ROOT = Path(__file__).parents[2]
SIDE = 16
NUM_REAL, NUM_HELDOUT = 20, 4


def evaluate(*words, **variables):
    """Run the command with one thread, and offline: whatever it tries to fetch is refused at once."""
    offline = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "evaluate.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True, env=os.environ | offline | variables
    )


def main(*words):
    """Do in this process what the command does."""
    runpy.run_path(str(ROOT / "evaluate.py"))["main"]([str(word) for word in words])


def numbers(folder):
    """Return metrics.json, which must be plain JSON: no NaN."""

    def refuse(word):
        raise AssertionError(f"{word} in metrics.json")

    return json.loads((folder / "metrics.json").read_text(), parse_constant=refuse)


def write(folder, n, seed, size=(SIDE, SIDE)):
    folder.mkdir(parents=True)
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    for i, image in enumerate(nn.functional.interpolate(coarse, size=size, mode="bilinear")):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an untrained generator, as a training leaves it."""
    folder = tmp_path_factory.mktemp("evaluate")
    images = write(folder / "images", NUM_REAL + NUM_HELDOUT, seed=0)
    config = to_dict(Config())
    config["data"] |= {"path": str(images), "resolution": SIDE, "holdout": NUM_HELDOUT / (NUM_REAL + NUM_HELDOUT)}
    config["model"] |= {"latent_dim": 8, "style_dim": 8, "mapping_layers": 1, "channels": [8, 8], "blocks": [1, 1]}
    dataset = load_images(images, resolution=(SIDE, SIDE))
    train, heldout = split_holdout(dataset.names, config["data"]["holdout"], 0)
    torch.manual_seed(0)
    state = {
        "config": config,
        "step": 7,
        "sampled": build_generator(config).state_dict(),
        "data": {
            "fingerprint": dataset.fingerprint,
            "names": [dataset.names[i] for i in train],
            "heldout": [dataset.names[i] for i in heldout],
        },
    }
    (folder / "run" / "checkpoints").mkdir(parents=True)
    checkpoint.save(state, folder / "run" / "checkpoints" / "last.pt")
    return folder / "run"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Search and walk less far than for a real answer."""
    monkeypatch.setattr(paths, "NUM_STEPS", 32)
    monkeypatch.setattr(paths, "NUM_STRIPS", 8)
    monkeypatch.setattr(inversion, "NUM_LATENTS", 16)
    monkeypatch.setattr(inversion, "SCREENING", 3)
    monkeypatch.setattr(inversion, "STEPS", 8)


def test_a_run_is_scored_against_its_own_training_images_whatever_the_batch_size(run, tmp_path, capsys):
    words = [run, "--features", "effnet-lite0", "--num-samples", 37, "--seed", 5, "--backtrack", 2]
    main(*words)
    first = capsys.readouterr()
    folder = run / "evaluation" / "effnet-lite0"
    document = numbers(folder)
    conditions = document["conditions"]
    assert document["schema"] == "rs-imle.evaluation.2"
    assert document["sampling"] == {"weights": "ema", "num_samples": 37, "first_seeds": [5], "truncation": 1.0}
    assert document["input"]["step"] == 7 and document["input"]["path"].endswith("last.pt") and document["input"]["selected_by"] is None
    assert (conditions["data"]["num_real"], conditions["data"]["num_heldout"]) == (NUM_REAL, NUM_HELDOUT)
    assert conditions["data"]["fingerprint"] and conditions["data"]["transform"]["resolution"] == [SIDE, SIDE]
    assert conditions["features"]["effnet-lite0"]["weights_sha256"].startswith("57934424")
    assert list(document["metrics"]) == [
        name if name.endswith(("thumbnail", "_power")) or name.startswith("swd") else f"{name}_effnetlite0"
        for name in (
            "fd",
            "fd_heldout",
            "kd",
            "precision",
            "recall",
            "density",
            "coverage",
            "reached",
            "copy_rate",
            "copy_rate_thumbnail",
            "authpct",
            "c_t",
            "fine_power",
            "middle_power",
            "coarse_power",
            "swd",
            "swd_fine",
            "intra_lpips",
            "ppl",
            "jump_ratio",
            "backtrack_heldout",
            "beyond_copying",
            "backtrack_train",
            "backtrack_gap",
        )
    ]
    for name, measurement in document["metrics"].items():
        assert measurement["value"] is not None or ("c_t" in name and "20 held-out images (4 here)" in measurement["reason"])
        assert measurement["comparable_with_published"] is False
        assert measurement["num_real"] == (NUM_HELDOUT if name.startswith("fd_heldout") else NUM_REAL)
    assert document["calibration"]["held_out"]["num_fake"] == NUM_HELDOUT
    assert "fd_effnetlite0" in first.out and "held-out" in first.out and "pass/s" not in first.out
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "report.html", "features_real.npz", "features"}

    main(*words, "--batch-size", 10, "--out", tmp_path / "again")
    assert capsys.readouterr().out == first.out
    again = numbers(tmp_path / "again")
    assert document.pop("timing").keys() == again.pop("timing").keys()
    assert again == document


def test_truncated_samples_have_a_report_of_their_own_and_are_marked_in_a_comparison(run, tmp_path, capsys):
    words = [run, "--features", "effnet-lite0", "--metrics", "fid,ppl", "--num-samples", 12]
    main(*words)
    plain = run / "evaluation" / "effnet-lite0"
    before = (plain / "metrics.json").read_bytes()
    main(*words, "--truncation", 0.25)
    said = "the samples have truncation 0.25; path lengths, interpolations and backtracking are of the generator without it"
    assert f"warning: {said}" in capsys.readouterr().out
    folder = run / "evaluation" / "effnet-lite0-truncation-0.25"
    one, other = numbers(plain), numbers(folder)
    assert (plain / "metrics.json").read_bytes() == before and said in (folder / "report.html").read_text()
    assert other["sampling"]["truncation"] == 0.25 and other["command"].endswith("--truncation 0.25") and "truncation" not in one["command"]
    assert other["conditions"] == one["conditions"]
    values = [{name: number["value"] for name, number in document["metrics"].items()} for document in (one, other)]
    assert values[0]["ppl_effnetlite0"] == values[1]["ppl_effnetlite0"] and values[0]["fd_effnetlite0"] != values[1]["fd_effnetlite0"]
    main(*words, "--truncation", 0.25, "--out", shutil.copytree(plain, tmp_path / "kept"))  # which holds the features of other samples
    assert numbers(tmp_path / "kept")["metrics"] == other["metrics"]

    del one["sampling"]["truncation"]  # as in an earlier evaluation
    (tmp_path / "earlier.json").write_text(json.dumps(one))
    capsys.readouterr()
    main("--compare", tmp_path / "earlier.json", folder)
    told = capsys.readouterr().out
    assert "B: its samples have truncation 0.25; below 1 samples are less varied" in told and "A: its samples" not in told
    main("--compare", plain, tmp_path / "earlier.json")
    assert "truncation" not in capsys.readouterr().out


def test_a_method_without_a_generator_says_why_its_numbers_are_missing(run, tmp_path, monkeypatch, capsys):
    def without(*words):
        sampler = open_sampler(*words)
        sampler.drawing = sampler.drawing._replace(generator=None, latent_dim=None, why="a diffusion model can invert any image")
        return sampler

    monkeypatch.setattr("methods.open_sampler", without)
    main(run, "--features", "effnet-lite0", "--metrics", "kid,ppl,jumps,backtracking", "--num-samples", 9, "--out", tmp_path)
    skipped = {name: number["reason"] for name, number in numbers(tmp_path)["metrics"].items() if number["value"] is None}
    assert skipped == dict.fromkeys(
        [f"{name}_effnetlite0" for name in ("ppl", "jump_ratio", "backtrack_train")], "a diffusion model can invert any image"
    )
    assert "ppl_effnetlite0 was not computed: a diffusion model can invert any image" in capsys.readouterr().out


def test_numbers_go_to_stdout_and_progress_to_stderr(run, tmp_path):
    result = evaluate(run, "--features", "effnet-lite0", "--metrics", "fid,copying", "--num-samples", 10, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("metric") and "verdict: " in result.stdout and "pass" not in result.stdout
    assert "features of generated images" in result.stderr and f"wrote {tmp_path}/metrics.json" in result.stderr
    assert list(numbers(tmp_path)["metrics"]) == [
        "fd_effnetlite0",
        "copy_rate_effnetlite0",
        "copy_rate_thumbnail",
        "authpct_effnetlite0",
        "c_t_effnetlite0",
    ]


def test_a_second_evaluation_computes_nothing_that_the_first_has_kept(run, tmp_path, monkeypatch):
    words = [run, "--features", "effnet-lite0", "--num-samples", 9, "--backtrack", 1, "--out", tmp_path]
    main(*words)
    before = numbers(tmp_path)
    kept = set((tmp_path / "features").iterdir())
    for slow in (
        "metrics.features.FeaturePass.add",
        "metrics.neighbours.NeighbourPass.add",
        "metrics.paths.step_lengths",
        "metrics.paths.strips",
        "metrics.backtracking.invert",
    ):
        monkeypatch.setattr(slow, None)
    main(*words)
    assert numbers(tmp_path)["metrics"] == before["metrics"] and set((tmp_path / "features").iterdir()) == kept
    with pytest.raises(TypeError):
        main(*words[:-2], "--seed", 1, "--out", tmp_path)


def test_the_page_asks_nobody_for_anything(run, tmp_path):
    main(run, "--features", "effnet-lite0", "--num-samples", 30, "--backtrack", 1, "--out", tmp_path)

    class Page(HTMLParser):
        def __init__(self):
            super().__init__()
            self.addresses, self.headings, self.images = [], [], 0

        def handle_starttag(self, tag, attributes):
            named = dict(attributes)
            assert tag not in ("script", "iframe", "object", "base") and not any(name.startswith("on") for name in named)
            self.addresses += [named[name] for name in ("src", "href", "srcset", "data") if name in named]
            if tag == "img":
                assert named["alt"] and named["loading"] == "lazy" and int(named["width"]) > 0
                self.images += 1

        def handle_data(self, text):
            if self.get_starttag_text() == "<h2>" and text.strip():
                self.headings.append(text.strip())

    page, text = Page(), (tmp_path / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    assert all(address.startswith("data:") for address in page.addresses) and "url(" not in text and "@import" not in text
    for heading in ("Samples", "Numbers", "Is it copying?", "Visual recall", "Interpolations", "Backtracking: training images"):
        assert heading in text
    assert page.images > 30 + 20 * 2
    assert "fd_effnetlite0" in text and numbers(tmp_path)["conditions"]["data"]["fingerprint"] in text


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_mirrored_copy_is_shown_as_one_where_training_flipped(mirrored):
    real = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    mirror = {"f": real + 50} if mirrored else None
    found = Evaluation(sets=Sets({"f": real}, {"f": real[[7]] + 50}, mirror=mirror))
    distances = page._distances(found, "f")
    assert (float(distances.samples[0]) < 1) == mirrored and (int(distances.nearest[0, 0]) == 7 or not mirrored)
    assert distances.nearest.max() < 30
    assert page._distances(Evaluation(sets=Sets({"f": real[:1].repeat(5, 1)}, {"f": real})), "f") is None


def test_what_a_run_is_called_cannot_become_part_of_the_page(run, tmp_path):
    hostile = Path(shutil.copytree(run, tmp_path / "<img src=x onerror=alert(1)>"))
    main(hostile, "--features", "effnet-lite0", "--metrics", "kid", "--num-samples", 4, "--out", tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_two_evaluations_are_compared_under_the_same_conditions_only(run, tmp_path, capsys):
    words = ["--features", "effnet-lite0", "--metrics", "fid,kid,pr"]
    main(run, *words, "--num-samples", 30, "--out", tmp_path / "a")
    main(run, *words, "--num-samples", 30, "--seed", 100, "--repeats", 2, "--out", tmp_path / "b")
    main(run, *words, "--num-samples", 31, "--out", tmp_path / "c")
    a, b = (numbers(tmp_path / name)["metrics"]["fd_effnetlite0"] for name in "ab")
    assert len(b["repeats"]) == 2 and b["value"] == pytest.approx(sum(b["repeats"]) / 2) and a["repeats"] is None
    capsys.readouterr()
    main("--compare", tmp_path / "a", tmp_path / "b" / "metrics.json")
    table = capsys.readouterr().out
    assert "fd_effnetlite030" not in table and "fd_effnetlite0_30" in table and f"{b['value'] - a['value']:.2f}" in table
    main("--compare", tmp_path / "a", tmp_path / "a")
    assert "no clear difference" in capsys.readouterr().out
    for other, told in (("c", "num_samples 30 and 31"), ("nowhere", "has no metrics.json")):
        with pytest.raises(UserError, match=told):
            main("--compare", tmp_path / "a", tmp_path / other)
    (tmp_path / "c" / "metrics.json").write_text('{"schema": "rs-imle.evaluation.1"}')
    with pytest.raises(UserError, match="not a report of this version"):
        main("--compare", tmp_path / "c", tmp_path / "a")


def test_real_images_in_their_own_size_are_seen_as_they_are(tmp_path):
    real, fake = write(tmp_path / "real", 8, seed=0, size=(40, 56)), write(tmp_path / "fake", 8, seed=0)
    held = Path(shutil.copytree(real, tmp_path / "held"))
    for path in held.iterdir():  # the same images but for a spot, as none may be a training image
        image = Image.open(path)
        image.paste(image.crop((26, 18, 30, 22)).point(lambda level: level ^ 8), (26, 18))
        image.save(path)
    words = [fake, "--data", real, "--heldout", held, "--features", "effnet-lite0", "--metrics", "fid"]
    main(*words, "--ref-raw", "--out", tmp_path / "raw")
    main(*words, "--out", tmp_path / "same")
    raw, same = (numbers(tmp_path / name) for name in ("raw", "same"))
    assert raw["conditions"]["data"]["transform"] is None and raw["conditions"]["protocol"]["raw"] is True
    assert raw["metrics"]["fd_effnetlite0"]["value"] > same["metrics"]["fd_effnetlite0"]["value"]
    assert raw["calibration"]["held_out"]["values"]["fd_effnetlite0"] < 0.1 * raw["metrics"]["fd_effnetlite0"]["value"]  # seen the same way
    with pytest.raises(UserError, match="transform"):
        main("--compare", tmp_path / "raw", tmp_path / "same")


def test_a_changed_training_set_is_refused_unless_named(run, tmp_path, capsys):
    images = Path(open_sampler(run).config["data"]["path"])
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    words = [run, "--features", "effnet-lite0", "--metrics", "kid", "--num-samples", 4]
    main(*words, "--data", moved, "--out", tmp_path / "same")
    assert numbers(tmp_path / "same")["conditions"]["data"]["num_heldout"] == NUM_HELDOUT

    (images / "000.png").rename(images / "extra.png")
    try:
        with pytest.raises(UserError, match=r"1 images are gone and 1 new \['000.png', 'extra.png'\]"):
            main(*words)
    finally:
        (images / "extra.png").rename(images / "000.png")

    (moved / "000.png").unlink()
    main(*words, "--data", moved, "--out", tmp_path / "other")
    assert "not the training images of the run" in capsys.readouterr().out
    assert numbers(tmp_path / "other")["conditions"]["data"]["num_real"] == NUM_REAL + NUM_HELDOUT - 1


def test_a_folder_of_any_generator_is_scored_against_a_folder(tmp_path):
    fake, real = write(tmp_path / "fake", 6, seed=1, size=(16, 24)), write(tmp_path / "real", 9, seed=2, size=(40, 60))
    heldout = write(tmp_path / "heldout", 4, seed=3)
    main(fake, "--data", real, "--heldout", heldout, "--features", "effnet-lite0")
    document = numbers(tmp_path / "fake-evaluation" / "effnet-lite0")
    data = document["conditions"]["data"]
    assert document["sampling"] is None and data["transform"]["resolution"] == [16, 24]
    assert (document["metrics"]["fd_effnetlite0"]["num_real"], data["num_heldout"]) == (9, 4)
    assert document["metrics"]["fd_heldout_effnetlite0"]["num_real"] == 4
    assert "needs the generator itself" in document["metrics"]["ppl_effnetlite0"]["reason"]

    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", real)
    main(archive, "--data", real, "--features", "effnet-lite0", "--metrics", "fid,pr")
    document = numbers(tmp_path / "zipped-evaluation" / "effnet-lite0")
    assert document["metrics"]["fd_effnetlite0"]["value"] < 1e-6
    assert document["metrics"]["precision_effnetlite0"]["value"] == 1
    assert "kd_effnetlite0" not in document["metrics"]

    array = tmp_path / "array.npz"
    np.savez(array, load_images(real, resolution=(40, 60)).images.permute(0, 2, 3, 1).numpy())
    main(array, "--data", real, "--features", "effnet-lite0", "--metrics", "fid")
    assert numbers(tmp_path / "array-evaluation" / "effnet-lite0")["metrics"]["fd_effnetlite0"]["value"] < 1e-6


class Averages(nn.Module):
    """A network of so many features that needs no weights."""

    def __init__(self, dimension):
        super().__init__()
        self.mixing = torch.randn(3 * 16, dimension, generator=torch.Generator().manual_seed(0))

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images.float(), 4).flatten(1) @ self.mixing


def test_the_papers_protocol_is_the_published_one(run, tmp_path, monkeypatch):
    """Clean-fid's input, real images as they are, fc2 before its ReLU, open balls, at most 1,000 samples in them."""
    monkeypatch.setattr("models.weights.require", lambda *keys: monkeypatch.setattr("test_evaluate.required", keys))
    seen = {}
    for name in ("inception-clean", "vgg16-linear"):
        network = NETWORKS[name]._replace(build=lambda name=name: seen.setdefault(name, Averages(8)))
        monkeypatch.setitem(NETWORKS, name, network)
    main(run, "--protocol", "paper", "--metrics", "fid_clean,pr", "--num-samples", 1040, "--out", tmp_path)
    document = numbers(tmp_path)
    assert set(seen) == {"inception-clean", "vgg16-linear"} and required == ("inception", "vgg16")
    protocol = document["conditions"]["protocol"]
    assert (protocol["raw"], protocol["strict"], protocol["manifold_samples"]) == (True, True, 1000)
    assert {name: measurement["num_fake"] for name, measurement in document["metrics"].items()} == {
        "fid_clean": 1040,
        "precision": 1000,
        "recall": 1000,
        "density": 1000,
        "coverage": 1000,
        "reached": 1000,
    }
    assert document["conditions"]["data"]["transform"] is None and "fid_clean1040" in (tmp_path / "report.html").read_text()


def test_dinov2_is_computed_when_its_weights_are_there_and_never_fetched(tmp_path, monkeypatch):
    fake, real = write(tmp_path / "fake", 6, seed=1), write(tmp_path / "real", 6, seed=2)
    words = [fake, "--data", real, "--features", "effnet-lite0", "--out", tmp_path / "out"]
    monkeypatch.setenv("RS_IMLE_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", str(tmp_path / "hub"))
    with pytest.raises(
        MissingWeights, match=r"dinov2_vitl14_pretrain.pth is not on this machine, and is not downloaded(.|\n)*RS_IMLE_WEIGHTS"
    ):
        main(*words, "--metrics", "dinov2")
    main(*words)
    assert "fd_dinov2" not in numbers(tmp_path / "out")["metrics"]

    (tmp_path / "dinov2_vitl14_pretrain.pth").write_bytes(b"weights")
    entry = weights.WEIGHTS["dinov2"]._replace(bytes=7)
    monkeypatch.setitem(weights.WEIGHTS, "dinov2", entry)
    monkeypatch.setitem(NETWORKS, "dinov2", NETWORKS["dinov2"]._replace(build=lambda: Averages(8)))
    main(*words)
    document = numbers(tmp_path / "out")
    assert document["metrics"]["fd_dinov2"]["value"] > 0 and document["metrics"]["fd_dinov2"]["printed_as"] == "fd_dinov2_6"
    assert document["conditions"]["features"]["dinov2"]["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()


required = ()


def test_one_checkpoint_has_a_report_of_its_own(run):
    main(run / "checkpoints" / "last.pt", "--features", "effnet-lite0", "--metrics", "kid", "--num-samples", 2)
    assert numbers(run / "evaluation" / "last" / "effnet-lite0")["input"]["step"] == 7


def test_one_image_gives_nulls_with_reasons(tmp_path, capsys):
    fake, real = write(tmp_path / "fake", 1, seed=1), write(tmp_path / "real", 1, seed=2)
    main(fake, "--data", real, "--features", "effnet-lite0", "--out", tmp_path)
    printed = capsys.readouterr().out
    for name, measurement in numbers(tmp_path)["metrics"].items():
        assert measurement["value"] is None and measurement["reason"]
        assert f"{name} was not computed" in printed


@pytest.mark.parametrize("num_real, num_fake, num_heldout", [(2, 2, 1), (2, 30, 0), (3, 1, 2), (21, 5, 1)])
def test_next_to_no_images_give_numbers_or_nulls_and_a_page(num_real, num_fake, num_heldout, tmp_path):
    fake, real = write(tmp_path / "fake", num_fake, seed=1), write(tmp_path / "real", num_real, seed=2)
    heldout = ["--heldout", write(tmp_path / "heldout", num_heldout, seed=3)] if num_heldout else []
    main(fake, "--data", real, *heldout, "--features", "effnet-lite0", "--out", tmp_path / "out")
    document = numbers(tmp_path / "out")
    for measurement in document["metrics"].values():
        assert (measurement["value"] is None) == (measurement["reason"] is not None)
    assert (tmp_path / "out" / "report.html").stat().st_size > 5000


@pytest.mark.parametrize(
    "score, said",
    [
        ("energy_distance", "selected by its energy_distance to the training images, so its numbers are too good"),
        ("heldout_bits_per_dim", "selected by its heldout_bits_per_dim on the held-out images, so its numbers on those are too good"),
    ],
)
def test_a_checkpoint_that_was_chosen_says_so(score, said, run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    best = tmp_path / "run" / "checkpoints" / "best.pt"
    checkpoint.save(checkpoint.load(run / "checkpoints" / "last.pt") | {"selected_by": score}, best)
    main(best, "--features", "effnet-lite0", "--metrics", "kid", "--num-samples", 4, "--out", tmp_path / "out")
    assert numbers(tmp_path / "out")["input"]["selected_by"] == score
    assert said in capsys.readouterr().out


def test_broken_weights_give_a_line_and_no_numbers(run, tmp_path):
    broken = tmp_path / "broken"
    (broken / "checkpoints").mkdir(parents=True)
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    state["sampled"] = {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in state["sampled"].items()}
    checkpoint.save(state, broken / "checkpoints" / "last.pt")
    with pytest.raises(UserError, match="gives images that are not finite"):
        main(broken, "--features", "effnet-lite0", "--metrics", "kid", "--num-samples", 4)
    assert not list(broken.rglob("metrics.json"))


def test_missing_weights_are_told_before_anything_else(tmp_path):
    images = write(tmp_path / "images", 2, seed=0)
    result = evaluate(images, "--data", images, TORCH_HOME=str(tmp_path / "cache"), RS_IMLE_WEIGHTS="")
    assert result.returncode == 3 and result.stdout == ""
    assert result.stderr.count("error: ") == 1 and "Traceback" not in result.stderr
    assert "pt_inception-2015-12-05-6726825d.pth" in result.stderr and "vgg16-397923af.pth" in result.stderr
    assert "features of" not in result.stderr


def test_a_mistake_is_one_line_and_exit_2(tmp_path):
    result = evaluate(tmp_path / "nowhere", "--features", "effnet-lite0")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "no such run" in result.stderr


def test_mistakes_are_told_with_what_to_do(tmp_path, run, capsys):
    one, two = write(tmp_path / "one", 2, seed=0), write(tmp_path / "two", 2, seed=0)
    Image.new("RGB", (9, 9)).save(two / "small.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    np.savez(tmp_path / "bad.npz", np.zeros((2, 3, 4)))
    for words, told in [
        ([one], "give the real images with --data"),
        ([two, "--data", one], "000.png is 16x16, small.png is 9x9"),
        ([tmp_path / "empty", "--data", one], "no images"),
        ([one, "--data", tmp_path / "empty"], "no images"),
        ([tmp_path / "broken.pt"], "not a checkpoint"),
        ([run, "--metrics", "fid,kld"], "unknown here: 'kld'; choose from fid,fid_heldout,kid,pr,copying"),
        ([run, "--metrics", "fid_clean"], "unknown here: 'fid_clean'"),
        ([run, "--protocol", "paper"], "uses Inception's features"),
        ([one, "--data", one, "--repeats", "2"], "holds images, not their generator"),
        ([one, "--data", one, "--truncation", "0.5"], "holds images, not their generator"),
        ([run, "--truncation", "nan"], "'nan' is not a number from 0"),
        ([tmp_path / "bad.npz", "--data", one], "images are one uint8 array (N, H, W, 3)"),
        ([], "give a source to score, or --compare with two evaluations"),
        ([run, "--num-samples", "0"], "not a whole number from 1 up"),
        ([run, "--device", "cuda:99"], "--device cuda:99: not available here"),
        ([run, "--out", one / "000.png"], "cannot be made"),
    ]:
        with pytest.raises((UserError, SystemExit)) as caught:
            main(*words, "--features", "effnet-lite0")
        message = str(caught.value) if isinstance(caught.value, UserError) else capsys.readouterr().err.splitlines()[-1]
        assert told in message and "\n" not in message
        assert getattr(caught.value, "exit_code", None) or caught.value.code == 2
