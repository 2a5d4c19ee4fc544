"""Every benchmark begins; their clock counts every second once, in the innermost part that it was spent in. Nothing is timed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.name != "clock.py")  # which the others import
SPEC = importlib.util.spec_from_file_location("clock", ROOT / "benchmarks" / "clock.py")
benchmark = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_every_benchmark_imports_what_it_names_and_prints_its_help(path, tmp_path):
    result = subprocess.run([sys.executable, path, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout.startswith(f"usage: {path.name}"), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_jobs_by_turns_alternate():
    order = []
    assert benchmark.by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b") or len(order)}, 2) == {
        "a": [None, None],
        "b": [2, 4],
    }
    assert order == ["a", "b", "a", "b"]


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time is moved by hand."""
    made = benchmark.Clock(benchmark.CPU, {"step": "the step", "pool": "the pool"}, elsewhere="sheets")
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
        with pytest.raises(ValueError), clock.part("inner"):
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
    with clock.part("step"):
        network.forward()
        with clock.part("pool"):  # a refresh lies within a step
            with clock.part("another"):
                network.forward()
    with clock.part("another"):
        network.forward()
    assert {name for name in clock.seconds if name.startswith("generator")} == {
        "generator forward of the step",
        "generator forward of the pool",
        "generator forward of sheets",
    }


def test_the_parts_of_a_training_with_stages_are_all_counted():
    command = [
        sys.executable,
        ROOT / "benchmarks" / "training.py",
        "--config",
        ROOT / "configs" / "smoke-32.yaml",
        "--refreshes",
        "1",
        "--threads",
        "1",
        "--json",
        "loss.stage_weight=0.5",
    ]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for part in (
        "rest of the step",
        "generator forward of the step",
        "perceptual forward of the step",
        "perceptual backward",
        "generator backward",
        "optimiser",
        "EMA",
    ):
        assert found["calls"][part] == found["steps"] == 20, part
    assert found["calls"]["reject, match, latents"] == 1 and found["calls"]["sheets and score"] == 2
    pool = {found["calls"][f"{network} forward of the pool"] for network in ("generator", "perceptual")}
    assert pool == {4}  # batches of 64 of 200 candidates
