"""The clock of benchmarks/training.py: every second is counted once, in the innermost part that it was spent in."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("training_benchmark", ROOT / "benchmarks" / "training.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time is moved by hand."""
    made = benchmark.Clock(torch.device("cpu"))
    made.time = 0.0
    monkeypatch.setattr(made, "_now", lambda: made.time)
    return made


def spend(clock, seconds):
    clock.time += seconds


def test_parts_are_counted_without_the_parts_inside_them(clock):
    with clock.part("outer"):
        spend(clock, 1)
        for _ in range(2):
            with clock.part("inner"):
                spend(clock, 2)
                with clock.part("innermost"):
                    spend(clock, 4)
        spend(clock, 8)
    assert clock.seconds == {"outer": 9, "inner": 4, "innermost": 8}
    assert clock.calls == {"outer": 1, "inner": 2, "innermost": 2}
    assert sum(clock.seconds.values()) == clock.time


def test_a_part_that_is_split_goes_on_under_another_name(clock):
    with clock.part("step"):
        spend(clock, 1)
        with clock.part("backward"):
            with clock.part("inside"):
                spend(clock, 32)
            spend(clock, 2)
            clock.split("perceptual", "generator")
            spend(clock, 4)
        spend(clock, 8)
    assert clock.seconds == {"step": 9, "perceptual": 2, "generator": 4, "inside": 32}


def test_a_part_that_fails_is_counted_all_the_same(clock):
    with clock.part("outer"):
        with pytest.raises(ValueError):
            with clock.part("inner"):
                spend(clock, 3)
                raise ValueError
        spend(clock, 1)
    assert clock.seconds == {"inner": 3, "outer": 1}


def test_networks_are_told_apart_by_where_they_are_called(clock):
    class Network:
        def forward(self):
            spend(clock, 1)

    network = Network()
    clock.watch(network, "forward", "generator forward of")
    for part in ("rest of the step", "reject, match, latents", "sheets and score"):
        with clock.part(part):
            network.forward()
    assert {name for name in clock.seconds if name.startswith("generator")} == {
        "generator forward of the step", "generator forward of the pool", "generator forward of sheets"}  # fmt: skip


def test_the_parts_of_a_training_with_stages_are_all_counted():
    command = [sys.executable, ROOT / "benchmarks" / "training.py", "--config", ROOT / "configs" / "smoke-32.yaml", "--refreshes", "1",
               "--threads", "1", "--json", "loss.stage_weight=0.5"]  # fmt: skip
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for part in ("generator forward of the step", "perceptual backward", "generator backward", "optimiser"):
        assert found["calls"][part] == found["steps"], part
