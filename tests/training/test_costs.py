"""train.minutes: the epochs that fit into a time, and the runs that it makes."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import copied_images
from test_golden import StoppedAfter

import train
from errors import UserError
from methods import load_config
from training import checkpoint, costs
from training.costs import Costs, measure, planned
from training.resume import nothing_to_do
from training.settings import Train
from training.trainer import Work

EASY = Costs({"a step": (0.5, 4), "a refresh": (3.0, 0.1)}, sheet=2.0, save=0.25)
WORDS = ["log.sheet_epochs=10", "log.checkpoint_minutes=0"]


def test_a_run_costs_its_jobs():
    found = EASY.of(load_config(None, WORDS), 20)
    assert found == {"a step": (0.5, 80), "a refresh": (3.0, 2.0), "a sheet and its score": (2.0, 3), "a save": (0.25, 22)}
    assert EASY.seconds(load_config(None, WORDS), 20) == 40 + 6 + 6 + 5.5


@pytest.mark.parametrize("checkpoint_minutes", [0, 0.1, 5])
@pytest.mark.parametrize("seconds", [7.0, 60.0, 1234.5, 1e6])
def test_the_epochs_are_the_most_that_fit(seconds, checkpoint_minutes):
    config = load_config(None, ["log.sheet_epochs=7", f"log.checkpoint_minutes={checkpoint_minutes}"])
    epochs = EASY.epochs_in(config, seconds)
    assert EASY.seconds(config, epochs) <= seconds < EASY.seconds(config, epochs + 1)
    assert EASY.epochs_in(config, 1.0) == EASY.epochs_in(config, -5.0) == 0


def test_jobs_are_timed_after_a_first_call(monkeypatch):
    """The first call, which compiles and allocates, does not count; a part of a job counts as its whole."""
    monkeypatch.setattr(costs, "ENOUGH", 0.2)
    calls = []

    def job():
        calls.append(1)
        time.sleep(0.5 if len(calls) == 1 else 0.02)

    method = SimpleNamespace(work=lambda: {"a step": Work(job, 3.0), "a refresh": Work(lambda: time.sleep(0.01), 1 / 5, 0.1)})
    trainer = SimpleNamespace(method=method, device=torch.device("cpu"), write_to=lambda _: None, writer=Quiet(), save=lambda _: None)
    trainer.draw_and_score = lambda: time.sleep(0.03)
    found = measure(trainer)
    assert 0.02 <= found.jobs["a step"][0] < 0.1 and found.jobs["a step"][1] == 3.0
    assert 0.1 <= found.jobs["a refresh"][0] < 0.5 and found.jobs["a refresh"][1] == 1 / 5
    assert 0.03 <= found.sheet < 0.2 and len(calls) <= 13


class Quiet:
    """Stand in for the writer."""

    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass

    def wait(self):
        pass


def plan(monkeypatch, minutes, before=None):
    """Return the epochs of a configuration with EASY's costs; `before` are the train settings of the run's checkpoint."""
    monkeypatch.setattr(costs, "measure", lambda trainer: trainer)
    config = load_config(None, [*WORDS, f"train.minutes={minutes}", "train.epochs=77"])
    state = {"config": {"train": before}} if before else None
    return planned(config, state, lambda: EASY, time.monotonic()).train.epochs


def test_epochs_follow_from_minutes_and_a_run_keeps_them(monkeypatch):
    assert plan(monkeypatch, 0) == 77  # train.epochs decides
    assert plan(monkeypatch, 1) in (19, 20)  # of 60 seconds, less what has passed
    assert plan(monkeypatch, 1, {"epochs": 50, "minutes": 0.0}) in (19, 20)  # the run began with epochs
    assert plan(monkeypatch, 1, {"epochs": 50}) in (19, 20)  # and before there were minutes
    assert plan(monkeypatch, 1, {"epochs": 50, "minutes": 1.0}) == 50  # not measured again
    assert plan(monkeypatch, 3, {"epochs": 50, "minutes": 1.0}) == 150
    with pytest.raises(UserError, match="^train.minutes: 0.1 are too few, an epoch takes 0.1 here; give more$"):
        plan(monkeypatch, 0.1)


def test_a_finished_run_of_some_minutes_asks_for_more_minutes(tmp_path):
    state = {"step": 40, "config": {"train": {"epochs": 20}}}
    said = nothing_to_do(tmp_path, state, Train(epochs=20, minutes=2.5), 2)
    assert said == f"{tmp_path} is finished, at step 40; a train.minutes above 2.5 continues it"


def test_epochs_and_minutes_contradict_each_other(tmp_path):
    (tmp_path / "minutes.yaml").write_text("train: {minutes: 3, epochs: 7}\n")
    with pytest.raises(UserError, match="^train.epochs: follows from train.minutes=3; leave one out, or set train.minutes=0$"):
        train.main(["--config", str(tmp_path / "minutes.yaml"), "--run", str(tmp_path / "run"), "train.epochs=9"])


def test_a_run_of_some_minutes_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys):
    images = copied_images(tmp_path / "images", 8)
    (tmp_path / "empty.yaml").write_text("")
    words = ["data.resolution=16", "loss.perceptual=pixels", "model.channels=[16,16,8]", "model.blocks=[1,1,1]", "train.batch_size=4"]
    words += ["log.num_scored=4", "train.minutes=1", f"data.path={images}"]

    def run(name, steps, found, *more):
        monkeypatch.setattr(train, "Signals", lambda: StoppedAfter(steps))
        monkeypatch.setattr(costs, "measure", lambda _: found or 1 / 0)
        given = ["--config", str(tmp_path / "empty.yaml"), "--run", str(tmp_path / name), "--device", "cpu", *words, *more]
        if steps < 99:
            with pytest.raises(SystemExit):
                train.main(given)
        else:
            train.main(given)
        return checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")

    straight = run("straight", 99, EASY._replace(jobs={"a step": (4.0, 2)}))  # seven epochs in a minute
    assert straight["config"]["train"]["epochs"] in (5, 6) and "train.minutes=1: " in capsys.readouterr().out
    written = load_config(tmp_path / "straight" / "config.yaml").train
    assert written.minutes == 0 and written.epochs == straight["config"]["train"]["epochs"]  # to repeat it anywhere
    run("stopped", 3, EASY._replace(jobs={"a step": (4.0, 2)}))
    stopped = run("stopped", 99, None)
    assert stopped["step"] == straight["step"] == 2 * straight["config"]["train"]["epochs"]
    for name, weight in straight["sampled"].items():
        assert torch.equal(weight, stopped["sampled"][name])
    assert json.loads((tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()[-1])["step"] == straight["step"]
    monkeypatch.setattr(train.cost, "seconds", lambda *_: 1000.0)
    scored = run("scored", 99, EASY._replace(jobs={"a step": (4.0, 2)}), "--scored")
    assert scored["config"]["train"]["epochs"] in (2, 3)  # in half of the minute, which is the most that scores get
    words.append(f"train.start_from={tmp_path / 'straight'}")
    run("started", 99, EASY._replace(jobs={"a step": (4.0, 2)}))
    sheets = [tmp_path / name / "samples" / f"step-{step:07}.png" for name, step in (("started", 0), ("straight", straight["step"]))]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
