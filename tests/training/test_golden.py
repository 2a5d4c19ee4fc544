"""Golden runs: what three short runs compute, kept as text in golden.json.

A change that should not change what runs compute leaves the file as it is. Only a change that is meant to alter results
(another loss, another stream of random numbers) may rewrite it, in a commit of its own that says why:

    PYTHONPATH=.:tests python tests/training/test_golden.py
"""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import copied_images

import train
from methods import open_sampler

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-3  # relative; SSE4, AVX2 and AVX-512 differ by 2e-4
# The words that the recipes add to configs/smoke-32.yaml: 12 steps on a dozen of the shipped images, at least two refreshes.
ALL = ["train.epochs=6", "train.batch_size=6", "log.sheet_epochs=100", "log.num_scored=8"]
RECIPES = {
    "rs": [
        "imle.match=every",
        "imle.reject=share",
        "imle.rejected_fraction=0.1",
        "imle.refresh_epochs=2",
        "loss.perceptual=effnet-lite0",
        "train.schedule=cosine",
    ],
    "switches": [
        "train.optimizer=muon",
        "train.learning_rate=5e-3",
        "train.clip=1.1",
        "train.micro_batch=4",
        "train.schedule=constant",
        "loss.perceptual=pixels",
        "loss.stage_weight=0.5",
        "imle.perturbation=1e-2",
        "imle.refresh_epochs=2",
    ],
    "adaptive": [
        "imle.match=adaptive",
        "imle.reject=none",
        "imle.staleness=1",
        "imle.force_resample=2",
        "loss.perceptual=pixels",
        "train.schedule=constant",
    ],
}
STOP = 7  # steps after which a run is stopped to be resumed, in the middle of an epoch


def words(settings: list[str], run: Path) -> list[str]:
    """Return the words for train.py; the images lie beside the run."""
    images = run.parent / "images"
    if not images.exists():
        copied_images(images, 12)
    return [
        "--config",
        str(ROOT / "configs" / "smoke-32.yaml"),
        "--run",
        str(run),
        "--device",
        "cpu",
        f"data.path={images}",
        *ALL,
        *settings,
    ]


class StoppedAfter:
    """Stand in for train.Signals: stop after so many steps."""

    number = 0

    def __init__(self, steps: int):
        self.left = steps

    def caught(self) -> bool:
        self.left -= 1
        return self.left < 0


def results(run: Path) -> dict:
    """Return the losses and match distances that a run logged, and of every tensor of its average the sum and the norm."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = {name: value.double() for name, value in open_sampler(run).drawing.generator.state_dict().items()}
    return {
        "losses": [row["loss"] for row in rows if row["kind"] == "train"],
        "matched_distances": [row["matched_distance"] for row in rows if row["kind"] == "refresh"],
        "average": {name: [value.sum().item(), value.norm().item()] for name, value in weights.items()},
    }


def straight(recipe: str, folder: Path) -> dict:
    """Train by a recipe in this process and return its results."""
    train.main(words(RECIPES[recipe], folder / recipe))
    return results(folder / recipe)


def assert_golden(found: dict, golden: dict) -> None:
    for key in ("losses", "matched_distances"):
        assert found[key] == pytest.approx(golden[key], rel=TOLERANCE), key
    assert found["average"].keys() == golden["average"].keys()
    for name, (total, norm) in golden["average"].items():
        # Biases have gradients that cancel but for rounding, which AdamW makes as large as others: hence the 1.
        assert found["average"][name] == pytest.approx([total, norm], rel=0, abs=2 * TOLERANCE * (1 + norm)), name


@pytest.fixture
def never_stopped(monkeypatch):
    monkeypatch.setattr(train, "Signals", lambda: StoppedAfter(10**9))


@pytest.mark.parametrize("recipe", RECIPES)
def test_straight_and_resumed_runs_compute_what_they_always_did(recipe, monkeypatch, never_stopped, tmp_path):
    golden = json.loads(GOLDEN.read_text())[recipe]
    assert len(golden["losses"]) == 6 and len(golden["matched_distances"]) >= 2
    found = straight(recipe, tmp_path)
    assert_golden(found, golden)
    shutil.rmtree(tmp_path / recipe)
    with monkeypatch.context() as patch:
        patch.setattr(train, "Signals", lambda: StoppedAfter(STOP))
        with pytest.raises(SystemExit):
            train.main(words(RECIPES[recipe], tmp_path / recipe))
    assert open_sampler(tmp_path / recipe).step == STOP
    assert straight(recipe, tmp_path) == found


def test_two_processes_compute_the_same(job, tmp_path):
    commands = job(2, *words(RECIPES["switches"], tmp_path / "switches"))
    assert [command.result().returncode for command in commands] == [0, 0]
    assert_golden(results(tmp_path / "switches"), json.loads(GOLDEN.read_text())["switches"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        lines = json.dumps({recipe: straight(recipe, Path(temporary)) for recipe in RECIPES}, indent=1)
    GOLDEN.write_text(lines + "\n")
