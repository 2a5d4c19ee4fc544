"""The 2-D laboratory: its points, its methods, the effect it is there to show, and the command from end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lab import plane, toy
from lab.plane import METHODS, Run

ROOT = Path(__file__).parents[2]
PICTURES = ("samples.png", "latents.png", "laws.png", "diagnostics.png")


def started(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "lab.toy", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_points_lie_on_the_infinity_symbol():
    x, y = (plane.infinity_symbol() / plane.SCALE).T
    assert len(x) == plane.NUM_POINTS
    torch.testing.assert_close(x**4, x**2 - y**2)  # of x = cos t, y = sin t cos t
    assert x.max() == 1 and x.mean().abs() < 1e-6 and y.mean().abs() < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_every_method_refreshes_and_learns(method):
    run = Run(method, 0)
    trainer = plane.make_trainer(plane.settings(method, 0, 20), run)
    trainer.advance()
    pool, before = 20 if method == "IMLE, m = n" else 800, trainer.method.losses.mean()
    assert [row["step"] for row in run.refreshes] == [0] and pool <= run.refreshes[0]["pool_seen"] <= 4 * pool
    for _ in range(5):
        trainer.advance()
    assert trainer.method.losses.mean() < before and trainer.step == 6


def test_the_method_measures_distances_in_the_plane():
    method = plane.make_trainer(plane.settings("IMLE", 0, 1), Run("IMLE", 0)).method
    points = plane.infinity_symbol()
    torch.testing.assert_close(method.features, points)
    method.rematch(0)
    matches = method.embed_latents(method.latents)
    method.pull(torch.arange(len(points)), 0)
    torch.testing.assert_close(method.losses, (matches - points).square().sum(dim=1))


def test_the_average_is_scored_and_the_generator_shown():
    run = Run("IMLE", 0)
    trainer = plane.make_trainer(plane.settings("IMLE", 0, 20), run)
    for _ in range(20):
        trainer.advance()
    method, latents = trainer.method, plane.rng.normal((plane.NUM_SAMPLES, 2), 0, "fresh")
    with torch.no_grad():
        average, generator = method.learner.ema.module(latents).flatten(1), method.generator(method.latents).flatten(1)
    assert torch.equal(plane.samples(method, 30), average[:30]) and not torch.equal(average, method.embed_latents(latents))
    shown = plane.snapshot(trainer)
    assert shown.step == 20 and np.array_equal(shown.samples, average[: plane.NUM_SHOWN]) and np.array_equal(shown.matches, generator)


def test_a_run_keeps_every_match_and_the_moments_after_it():
    run = plane.train("IMLE", 0, 21, pictured=True)
    assert [row["step"] for row in run.refreshes] == [0, 10, 20] and len(run.latents) == 3
    assert [snapshot.step for snapshot in run.snapshots] == [1, 11, 21]
    assert not np.array_equal(run.latents[0], run.latents[1])


def test_snapshots_are_taken_where_matches_are_new():
    assert plane.snapshot_steps(1) == {0}
    steps = sorted(plane.snapshot_steps(4000))
    assert steps[0] == 0 and steps[-1] == 3990 and all(step % plane.REFRESH_STEPS == 0 for step in steps)
    assert len(steps) <= plane.NUM_SNAPSHOTS and np.diff(steps)[-1] > np.diff(steps)[0]


def test_the_pooled_gap_is_1_for_fresh_latents_and_more_for_a_band():
    run = Run("IMLE", 0, latents=list(np.random.default_rng(0).normal(size=(100, 20, 2)).astype(np.float32)))
    assert plane.pooled_gap(run, 0, 1000) == pytest.approx(1, abs=0.35)
    run.latents = [latents * np.array([1, 0.1], np.float32) for latents in run.latents]
    assert plane.pooled_gap(run, 0, 1000) > 3
    assert plane.pooled_gap(run, 995, 1000) > 1  # between refreshes: of the last


def test_rs_imle_stays_nearer_to_the_points_than_imle():
    far = {method: plane.train(method, 0, 700, pictured=False).scores["far_share"] for method in ("IMLE", "RS-IMLE, quantile")}
    assert far["IMLE"] > 1.5 * far["RS-IMLE, quantile"]


def test_the_record_holds_means_and_intervals():
    values = {"IMLE": {score: [1.0, 2.0, 3.0] for score in toy.COLUMNS}}
    found = toy.as_record(values, 3, 7)["methods"]["IMLE"]["pit"]
    assert found == {"mean": 2.0, "half_width": pytest.approx(2.48414, rel=1e-5), "values": [1.0, 2.0, 3.0]}
    assert "2.000 +- 2.484" in toy.as_markdown(values, 3, 7)
    alone = {"IMLE": {score: [1.0] for score in toy.COLUMNS}}
    assert toy.as_record(alone, 1, 7)["methods"]["IMLE"]["pit"]["half_width"] is None


def test_the_command_writes_tables_and_pictures(tmp_path):
    result = started("--seeds", 2, "--steps", 25, "--out", tmp_path / "toy", "--workers", 1)
    assert result.returncode == 0, result.stderr
    table = json.loads((tmp_path / "toy" / "table.json").read_text())
    assert table["seeds"] == 2 and list(table["methods"]) == list(METHODS)
    text = (tmp_path / "toy" / "table.md").read_text()
    assert text in result.stdout and all(f"| {method} |" in text for method in METHODS)
    for name in PICTURES:
        assert (tmp_path / "toy" / name).read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "toy" / "training.gif").read_bytes().startswith(b"GIF")


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--workers", "-1"], "--workers -1: must be at least 1"),
        (["--out", "README.md"], "--out README.md: cannot write there"),
    ],
)
def test_bad_words_are_one_clear_line(words, complaint, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(toy.UserError, match=complaint) as caught:
        toy.main(words)
    assert "\n" not in str(caught.value)
