"""The time of a training step by operator: python benchmarks/operators.py [--config FILE] [--threads N] [section.key=value ...]

Takes steps of an IMLE recipe, without refreshes: in turn one with a clock around every operator of torch, and one without. A row
is a kind of operator, and the last columns are the phases, in milliseconds: medians over the steps. The floor of an operator is
the longer of its FLOPs at the measured rate of a matrix product in the recipe's precision, and its bytes at the measured rate of
a large copy. Data in a cache can be read faster than that.

The clock makes a step slower, but its own work lies between the operators. To judge its error, compare the sum over operators
with a step without the clock, both in the second line. On a GPU the sum is larger: the clock waits after every operator, so a
small one shows its launch. On one CPU thread times are processor time, which other work on the machine disturbs least; otherwise
they are wall time. train.compile and train.cuda_graph are off. It trains on the set that comes with the project unless data.path
is given.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from clock import Clock, add_options, by_turns, copy_rate, matmul_rate, seconds_of, steady, wait

import methods
from data import load_images
from errors import run_as_command
from models.precision import SIXTEEN_BITS, computing
from training.device import choose_device
from training.settings import Settings, to_dict
from training.transform import transform

PHASES = ("generator forward", "perceptual forward", "perceptual backward", "generator backward", "optimiser", "EMA", "rest")
KINDS = {  # operators that share a row; any other kind is an operator's name
    "matrix product": {"mm", "addmm", "bmm", "baddbmm"},
    "norm": {"native_group_norm", "native_batch_norm", "native_layer_norm"},
    "copy": {"copy", "to_copy", "clone", "cat", "stack", "constant_pad_nd", "foreach_copy"},
}
WARM_UP = 2  # steps


class Record(NamedTuple):
    """One call of an operator, with its FLOPs and the bytes that it reads and writes."""

    kind: str
    phase: str
    seconds: float
    flops: int
    moved: int


class Operators(TorchDispatchMode):
    """Record every operator."""

    def __init__(self, phase: Callable[[], str], device: torch.device, now: Callable[[], float]):
        """`phase` returns the present phase, and `now` the time."""
        super().__init__()
        self.phase, self.device, self.now = phase, device, now
        self.records: list[Record] = []

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found: list[Any] = []
        kwargs = kwargs or {}
        wait(self.device)
        seconds = seconds_of(lambda: found.append(func(*args, **kwargs)), self.device, self.now)
        self.records.append(Record(kind_of(func, args), self.phase(), seconds, *work_of(func, args, kwargs, found[0])))
        return found[0]


def kind_of(func: OpOverload, args: tuple) -> str:
    """Return the kind of an operator: its name without `_backward`, a convolution's with its size, or a name of `KINDS`."""
    name = func.overloadpacket.__name__.removesuffix("_backward").strip("_")
    if name == "convolution":
        named = {argument.name: value for argument, value in zip(func._schema.arguments, args)}
        size = "x".join(map(str, named["weight"].shape[2:]))
        return f"convolution {size}{' in groups' if named['groups'] > 1 else ''}"
    return next((kind for kind, names in KINDS.items() if name in names), name)


def work_of(func: OpOverload, args: tuple, kwargs: dict, found: Any) -> tuple[int, int]:
    """Return an operator's FLOPs, 0 if it neither convolves nor multiplies matrices, and the bytes that it reads and writes."""
    flops = flop_registry[func.overloadpacket](*args, **kwargs, out_val=found) if func.overloadpacket in flop_registry else 0
    if func.is_view:
        return flops, 0
    if func is torch.ops.aten.index.Tensor:
        args = (found, *args[1:])  # reads no more than it returns
    given = [args[i] if i < len(args) else kwargs.get(argument.name) for i, argument in enumerate(func._schema.arguments)]
    written = [value for argument, value in zip(func._schema.arguments, given) if argument.alias_info and argument.alias_info.is_write]
    tensors = [leaf for leaf in tree_leaves([given, written or found]) if isinstance(leaf, Tensor)]
    # An expanded dimension lies in memory once.
    return flops, sum(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()) for tensor in tensors)


def measure(config: Settings, device: torch.device, steps: int) -> dict:
    """Return the rows of the table, the rates, and the milliseconds of a step with and without the clock."""
    images = load_images(config.data.path, **transform(to_dict(config))).images
    watched, bare = (methods.make(config, images, device=device) for _ in range(2))
    index = torch.arange(min(config.train.batch_size, len(images)), device=device)
    for method in (watched, bare):
        method.latents.normal_()
    kind, side = SIXTEEN_BITS.get(config.train.precision, torch.float32), 1024 if device.type == "cpu" else 8192
    clock, steps_found, now = Clock(device, {}, elsewhere="the step"), [], steady(device)
    clock.watch_step(watched)

    def rates() -> tuple[float, float]:
        with computing(config.train.precision):
            return matmul_rate(device, side, kind), copy_rate(device)

    def phase() -> str:
        name = (clock.innermost or "rest").removesuffix(" of the step")
        return "perceptual backward" if name == "backward" else name

    def clocked() -> float:
        with Operators(phase, device, now) as operators:
            seconds = seconds_of(lambda: watched.pull(index, 0), device, now)
        steps_found.append(operators.records)
        return seconds

    def bare_step() -> float:
        return seconds_of(lambda: bare.pull(index, 0), device, now)

    taken = by_turns({"with": clocked, "without": bare_step, "rates": rates}, WARM_UP + steps)
    gemm, copy = map(max, zip(*taken.pop("rates")))
    ms = {f"ms {name} the clock": 1e3 * statistics.median(seconds[WARM_UP:]) for name, seconds in taken.items()}
    facts = {"threads": torch.get_num_threads(), "gemm_rate": gemm, "copy_rate": copy}
    return facts | ms | {"rows": rows(steps_found[WARM_UP:], gemm, copy)}


def rows(steps: list[list[Record]], gemm: float, copy: float) -> dict[str, dict]:
    """Return calls, floor and time by kind, slowest first, from the records of equal steps; times in ms, medians over the steps.

    `gemm` FLOPs and `copy` bytes take a second.
    """
    found: dict[str, dict] = {}
    for records in zip(*steps, strict=True):  # of one operator
        kind, phase, _, flops, moved = records[0]
        row = found.setdefault(kind, {"calls": 0, "ms": 0.0, "floor": 0.0} | dict.fromkeys(PHASES, 0.0))
        ms = 1e3 * statistics.median(record.seconds for record in records)
        for name, value in (("calls", 1), ("ms", ms), ("floor", 1e3 * max(flops / gemm, moved / copy)), (phase, ms)):
            row[name] += value
    return dict(sorted(found.items(), key=lambda item: -item[1]["ms"]))


def table(found: dict, least: float = 0.003) -> str:
    """Return the rows and their sum as text; kinds with a share below `least` are one row."""
    whole = sum(row["ms"] for row in found["rows"].values())
    few = {kind: row for kind, row in found["rows"].items() if row["ms"] < least * whole}

    def sums(some: dict[str, dict]) -> dict[str, float]:
        return {name: sum(row[name] for row in some.values()) for name in ("calls", "ms", "floor", *PHASES)}

    lines = [
        f"{found['threads']} threads, matrix product {found['gemm_rate'] / 1e9:.0f} GFLOP/s, copy {found['copy_rate'] / 1e9:.1f} GB/s",
        f"a step without the clock {found['ms without the clock']:.1f} ms, with it {found['ms with the clock']:.1f} ms; "
        f"sum over operators {whole:.1f} ms",
        f"{'':<26}{'calls':>6}{'ms':>9}{'share':>8}{'floor':>8}{'x floor':>9}"
        + "".join(f"{phase.replace('perceptual', 'loss').replace('generator', 'gen.'):>15}" for phase in PHASES),
    ]
    some = {kind: row for kind, row in found["rows"].items() if kind not in few}
    for kind, row in {**some, f"{len(few)} others": sums(few), "all": sums(found["rows"])}.items():
        over = f"{row['ms'] / row['floor']:.1f}" if row["floor"] else "-"
        lines.append(
            f"{kind:<26}{row['calls']:>6}{row['ms']:>9.2f}{row['ms'] / whole:>8.1%}{row['floor']:>8.2f}{over:>9}"
            + "".join(f"{row[phase]:>15.2f}" for phase in PHASES)
        )
    return "\n".join(lines)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fluent-faces-64.yaml", help="recipe, relative to the folder of the code or absolute")
    parser.add_argument("--steps", type=int, default=10, help="steps of each kind to time (10)")
    add_options(parser)
    args = parser.parse_intermixed_args(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = [f"data.path={ROOT / 'data' / 'fluent_faces'}", *args.settings, "train.compile=false", "train.cuda_graph=false"]
    found = measure(methods.load_config(ROOT / args.config, settings), choose_device(args.device), args.steps)
    print(json.dumps(found) if args.json else table(found))


if __name__ == "__main__":
    run_as_command(main)
