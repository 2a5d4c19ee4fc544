"""evaluate.py on a run, on folders, and on what people give it by mistake: as real commands, or in this process.

A command spends seconds on its imports, so only what depends on being one is run as one.
"""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from data import load_images, split_holdout
from errors import UserError
from imle import checkpoint
from imle.config import Config, to_dict
from imle.sampling import Sampler, build_generator

ROOT = Path(__file__).parent.parent
SIDE = 16
NUM_REAL, NUM_HELDOUT = 20, 4


def evaluate(*words, **variables):
    """Run the command with one thread, and offline: whatever it tries to fetch is refused at once."""
    offline = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "evaluate.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True,
                          env=os.environ | offline | variables)  # fmt: skip


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
    state = {"config": config, "step": 7, "ema": build_generator(config).state_dict(),
             "data": {"fingerprint": dataset.fingerprint, "names": [dataset.names[i] for i in train],
                      "heldout": [dataset.names[i] for i in heldout]}}  # fmt: skip
    (folder / "run" / "checkpoints").mkdir(parents=True)
    checkpoint.save(state, folder / "run" / "checkpoints" / "last.pt")
    return folder / "run"


def test_a_run_is_scored_against_its_own_training_images_whatever_the_batch_size(run, tmp_path):
    words = [run, "--features", "effnet-lite0", "--num-samples", 37, "--seed", 5]
    first = evaluate(*words)
    assert first.returncode == 0, first.stderr
    document = numbers(run / "evaluation" / "effnet-lite0")
    assert document["schema"] == "rs-imle.evaluation.1"
    assert document["sampling"] == {"weights": "ema", "first_seed": 5, "last_seed": 41}
    assert document["input"]["step"] == 7 and document["input"]["path"].endswith("last.pt")
    assert (document["data"]["num_real"], document["data"]["num_heldout"]) == (NUM_REAL, NUM_HELDOUT)
    assert document["data"]["fingerprint"] and document["data"]["transform"]["resolution"] == [SIDE, SIDE]
    assert list(document["metrics"]) == [f"{name}_effnetlite0" for name in
                                         ("fd", "kd", "precision", "recall", "density", "coverage")]  # fmt: skip
    for measurement in document["metrics"].values():
        assert measurement["value"] is not None and measurement["comparable_with_published"] is False
        assert (measurement["num_real"], measurement["num_fake"]) == (NUM_REAL, 37)
    assert document["calibration"]["held_out"]["num_fake"] == NUM_HELDOUT
    assert document["features"]["effnet-lite0"]["weights_sha256"].startswith("57934424")
    assert "fd_effnetlite0" in first.stdout and "held-out" in first.stdout and "image/s" not in first.stdout
    assert "features of generated images" in first.stderr

    second = evaluate(*words, "--batch-size", 10, "--out", tmp_path / "again")
    assert second.stdout == first.stdout
    again = numbers(tmp_path / "again")
    assert document.pop("timing").keys() == again.pop("timing").keys()
    assert again == document


def test_a_changed_training_set_is_refused_unless_named(run, tmp_path, capsys):
    images = Path(Sampler(run).config["data"]["path"])
    moved = Path(shutil.copytree(images, tmp_path / "moved"))
    words = [run, "--features", "effnet-lite0", "--metrics", "kid", "--num-samples", 4]
    main(*words, "--data", moved, "--out", tmp_path / "same")
    assert numbers(tmp_path / "same")["data"]["num_heldout"] == NUM_HELDOUT

    (images / "000.png").rename(images / "extra.png")
    try:
        with pytest.raises(UserError, match=r"1 images are gone and 1 new \['000.png', 'extra.png'\]"):
            main(*words)
    finally:
        (images / "extra.png").rename(images / "000.png")

    (moved / "000.png").unlink()
    main(*words, "--data", moved, "--out", tmp_path / "other")
    assert "not the ones that the run was trained on" in capsys.readouterr().out
    assert numbers(tmp_path / "other")["data"]["num_real"] == NUM_REAL + NUM_HELDOUT - 1


def test_a_folder_of_any_generator_is_scored_against_a_folder(tmp_path):
    fake, real = write(tmp_path / "fake", 6, seed=1, size=(16, 24)), write(tmp_path / "real", 9, seed=2, size=(40, 60))
    heldout = write(tmp_path / "heldout", 4, seed=3)
    main(fake, "--data", real, "--heldout", heldout, "--features", "effnet-lite0")
    document = numbers(tmp_path / "fake-evaluation" / "effnet-lite0")
    assert document["sampling"] is None and document["data"]["transform"]["resolution"] == [16, 24]
    assert (document["metrics"]["fd_effnetlite0"]["num_real"], document["data"]["num_heldout"]) == (9, 4)

    archive = shutil.make_archive(str(tmp_path / "zipped"), "zip", real)
    main(archive, "--data", real, "--features", "effnet-lite0", "--metrics", "fid,pr")
    document = numbers(tmp_path / "zipped-evaluation" / "effnet-lite0")
    assert document["metrics"]["fd_effnetlite0"]["value"] < 1e-6
    assert document["metrics"]["precision_effnetlite0"]["value"] == 1
    assert "kd_effnetlite0" not in document["metrics"]


def test_one_checkpoint_has_a_report_of_its_own(run):
    main(run / "checkpoints" / "last.pt", "--features", "effnet-lite0", "--metrics", "kid", "--num-samples", 2)
    assert numbers(run / "evaluation" / "last" / "effnet-lite0")["input"]["step"] == 7


def test_one_image_gives_nulls_with_reasons(tmp_path, capsys):
    fake, real = write(tmp_path / "fake", 1, seed=1), write(tmp_path / "real", 1, seed=2)
    main(fake, "--data", real, "--features", "effnet-lite0", "--out", tmp_path)
    printed = capsys.readouterr().out
    for name, measurement in numbers(tmp_path)["metrics"].items():
        assert measurement["value"] is None and "at least" in measurement["reason"]
        assert f"{name} was not computed" in printed


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
    for words, told in [
        ([one], "name the real images to compare with by --data"),
        ([two, "--data", one], "000.png is 16x16, small.png is 9x9"),
        ([tmp_path / "empty", "--data", one], "no images"),
        ([one, "--data", tmp_path / "empty"], "no images"),
        ([tmp_path / "broken.pt"], "not a checkpoint"),
        ([run, "--metrics", "fid,kld"], "unknown 'kld'; choose from fid,kid,pr"),
        ([run, "--num-samples", "0"], "not a whole number from 1 up"),
        ([run, "--device", "cuda:99"], "--device cuda:99: not to be had here"),
        ([run, "--out", one / "000.png"], "cannot be made"),
    ]:  # fmt: skip
        with pytest.raises((UserError, SystemExit)) as caught:
            main(*words, "--features", "effnet-lite0")
        message = str(caught.value) if isinstance(caught.value, UserError) else capsys.readouterr().err.splitlines()[-1]
        assert told in message and "\n" not in message
        assert getattr(caught.value, "exit_code", None) or caught.value.code == 2
