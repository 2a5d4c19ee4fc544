"""Every benchmark begins; their clock counts every second once, in the innermost part that it was spent in. Nothing is timed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.name != "clock.py")  # which the others import


def loaded(name):
    """Return a benchmark's file as a module; the others import the clock by its name."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark, operators, variants = loaded("clock"), loaded("operators"), loaded("variants")


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


@pytest.fixture(scope="module")
def step_by_operator():
    """What benchmarks/operators.py finds for a tiny recipe with Muon and stages."""
    command = [sys.executable, ROOT / "benchmarks" / "operators.py", "--config", ROOT / "configs" / "smoke-32.yaml", "--json"]
    words = ["--threads", "1", "--device", "cpu", "--steps", "3", "train.optimizer=muon", "loss.stage_weight=0.5"]
    return json.loads(subprocess.run([*command, *words], check=True, capture_output=True, text=True).stdout)


def test_the_time_of_an_operator_is_the_sum_of_its_phases(step_by_operator):
    rows = step_by_operator["rows"]
    for name, row in rows.items():
        assert sum(row[phase] for phase in operators.PHASES) == pytest.approx(row["ms"]) and row["ms"] > 0, name
    for phase in operators.PHASES:
        assert sum(row[phase] for row in rows.values()) > 0, phase
    assert sum(row["ms"] for row in rows.values()) < step_by_operator["ms with the clock"]


def test_the_operators_of_a_step_have_their_phase_and_their_floor(step_by_operator):
    rows = step_by_operator["rows"]
    assert all(row["floor"] > 0 for name, row in rows.items() if "convolution" in name or name in operators.KINDS)
    assert rows["convolution 3x3"]["generator forward"] > 0 < rows["convolution 3x3"]["perceptual backward"]
    depthwise = rows["convolution 3x3 in groups"]
    assert depthwise["generator forward"] == depthwise["generator backward"] == 0 < depthwise["perceptual forward"]
    assert rows["fused_adamw"]["optimiser"] == pytest.approx(rows["fused_adamw"]["ms"])
    assert rows["foreach_lerp"]["EMA"] > 0


def test_the_table_of_a_step_adds_up(step_by_operator):
    for least in (0.0, 0.01, 1.0):
        *rows, last = operators.table(step_by_operator, least).splitlines()[3:]
        name, calls, ms = last.split()[:3]
        assert name == "all" and int(calls) == sum(row["calls"] for row in step_by_operator["rows"].values())
        numbers = [line[26:].split() for line in rows]
        assert sum(int(row[0]) for row in numbers) == int(calls)
        assert sum(float(row[1]) for row in numbers) == pytest.approx(float(ms), abs=0.01 * len(rows))


def recorded(job):
    """Return (kind, FLOPs, bytes) of every operator of a job."""
    with operators.Operators(lambda: "rest", benchmark.CPU, lambda: 0.0) as mode:
        job()
    return [(record.kind, record.flops, record.moved) for record in mode.records]


def test_a_floor_is_the_longer_of_products_and_bytes():
    calls = [operators.Record("add", "rest", seconds, flops, moved) for seconds, flops, moved in ((1.0, 80, 50), (3.0, 10, 90))]
    found = operators.rows([calls, [call._replace(seconds=5.0) for call in calls], calls], gemm=20.0, copy=10.0)
    assert found == {"add": {"calls": 2, "ms": 4e3, "floor": 1e3 * (5 + 9)} | dict.fromkeys(operators.PHASES, 0.0) | {"rest": 4e3}}


def test_the_work_of_known_operators():
    images, weight = torch.zeros(2, 4, 8, 8, requires_grad=True), torch.zeros(6, 4, 3, 3, requires_grad=True)
    flops = 2 * 2 * 6 * 4 * 9 * 64
    made = []
    (forward,) = recorded(lambda: made.append(torch.nn.functional.conv2d(images, weight, padding=1)))
    assert forward == ("convolution 3x3", flops, 4 * (512 + 216 + 768))
    by_kind = {kind: rest for kind, *rest in recorded(lambda: made[0].backward(torch.zeros(2, 6, 8, 8)))}
    assert by_kind["convolution 3x3"] == [2 * flops, 4 * (768 + 512 + 216 + 512 + 216)]
    depthwise = recorded(lambda: torch.nn.functional.conv2d(images.detach(), torch.zeros(4, 1, 5, 5), padding=2, groups=4))
    assert depthwise[-1] == ("convolution 5x5 in groups", 2 * 2 * 4 * 25 * 64, 4 * (512 + 100 + 512))
    a, b = torch.zeros(3, 5), torch.zeros(5, 7)
    assert recorded(lambda: a @ b) == [("matrix product", 2 * 3 * 5 * 7, 4 * (15 + 35 + 21))]


def test_the_bytes_of_operators_are_those_of_what_they_read_and_write():
    a, row = torch.zeros(6, 5), torch.zeros(1, 5)
    for job, name, moved in (
        (lambda: a.add(row.expand(6, 5)), "add", 4 * (30 + 5 + 30)),
        (lambda: a.add_(1), "add", 4 * (30 + 30)),
        (lambda: torch._foreach_mul_([a, row], 2.0), "foreach_mul", 4 * 2 * 35),
        (lambda: torch.maximum(a, a, out=a), "maximum", 4 * 4 * 30),
        (lambda: a[torch.tensor([2, 4])], "index", 4 * 2 * 10 + 16),
        (lambda: a.view(30), "view", 0),
    ):
        assert recorded(job)[-1] == (name, 0, moved), name


def test_every_variant_is_another_function_and_leaves_no_trace():
    gelu, block = torch.nn.functional.gelu, variants.generator.Block
    data = f"data.path={ROOT / 'data' / 'fluent_faces'}"
    settings = [data, "data.resolution=32", "model.blocks=[1,1,1,1,1]", "train.batch_size=2"]
    found = variants.measure(settings, benchmark.CPU, rounds=1)
    assert found.keys() == variants.VARIANTS.keys()
    flops = {name: numbers["ratio of FLOPs"] for name, numbers in found.items()}
    assert flops["the recipe"] == found["the recipe"]["ratio of medians"] == 1
    assert flops["one 3x3 convolution in a block"] < 1 < flops["channels 128-128-128-64-64"]
    assert flops["loss without the maps of 1/8 and 1/16"] < flops["loss without the map of 1/16"] < 1
    for name in ("the recipe", "leaky ReLU of slope 0.2 for GELU", "SiLU for GELU"):
        step, images = variants.stepper(name, settings, benchmark.CPU)
        kinds = {kind for kind, *_ in recorded(step)}
        assert images == 2 and kinds & {"gelu", "silu"} == {"the recipe": {"gelu"}, "SiLU for GELU": {"silu"}}.get(name, set())
    assert torch.nn.functional.gelu is gelu and variants.generator.Block is block
