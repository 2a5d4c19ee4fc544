"""How the costs of a step and of a refresh grow: python benchmarks/curves.py [--device D] [--quick] [--out FOLDER]

Draws curves-step.png, time and peak memory of a step against resolution and batch size, and curves-refresh.png, time and peak
memory of rejecting and matching against candidates and targets. Writes the numbers to curves.json. Every point is measured in
its own process. Two predictions stand beside each curve: the counted FLOPs at the rate of this machine's matrix product, and
growth proportional to the FLOPs through one measured point.

For another resolution the recipe's generator changes its number of levels: each doubling adds a level with half the width of
the last and as many blocks, each halving removes the last level.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parent.parent))
from clock import least_seconds, matmul_rate, peak_bytes
from matching import DIM, DISTINCT, match, mixture, refresh, rounds

import methods
from errors import run_as_command
from imle.search import clearance
from imle.search.bounds import block_size
from lab import plots
from training.device import choose_device
from training.settings import Settings, resolution

RECIPE = Path(__file__).parent.parent / "configs" / "fluent-faces-64.yaml"
IMAGES = 32  # the largest batch; the same for all points, so memory for targets is equal
POINTS = {
    "resolution": [32, 64, 128, 256],
    "batch": [1, 2, 4, 8, 16, 32],
    "candidates": [10**3, 10**4, 10**5, 10**6],
    "targets": [10, 30, 100, 300, 1000],
}
QUICK = {"resolution": [32, 64], "batch": [1, 2, 4], "candidates": [10**3, 10**4], "targets": [10, 100]}
FIXED = {"targets": 100, "candidates": 10**5}  # the value of one axis while the other grows


def recipe(settings: dict[str, object]) -> Settings:
    return methods.load_config(RECIPE, [f"{key}={value}" for key, value in settings.items()])


def resized(pixels: int) -> dict[str, object]:
    """Return the settings that change the recipe to square images of another resolution."""
    base = recipe({})
    channels, blocks, side = list(base.model.channels), list(base.model.blocks), max(resolution(base))
    while side < pixels:
        channels, blocks, side = [*channels, max(1, channels[-1] // 2)], blocks + blocks[-1:], 2 * side
    while side > pixels:
        channels, blocks, side = channels[:-1], blocks[:-1], side // 2
    return {"data.resolution": pixels, "model.channels": channels, "model.blocks": blocks}


def measure_step(settings: dict[str, object], device: torch.device) -> dict[str, float]:
    """Return seconds, peak memory and FLOPs of a training step on noise images."""
    config = recipe({**settings, "train.cuda_graph": "false"})  # a graph hides its FLOPs
    images = torch.randint(256, (IMAGES, 3, *resolution(config)), dtype=torch.uint8)
    step = methods.make(config, images, device=device, pretrained=False).work()["a step"].job  # random weights cost the same
    seconds = least_seconds(step, device)
    peak = peak_bytes(device) / 2**20
    with FlopCounterMode(display=False) as counter:
        step()
    return {"seconds": seconds, "megabytes": peak, "flops": counter.get_total_flops(), "flops_per_second": matmul_rate(device, 2048)}


def measure_refresh(candidates: int, targets: int, device: torch.device) -> dict[str, float]:
    """Return peak memory of a refresh, and seconds, FLOPs and FLOP rate of its matching."""
    refresh(candidates, targets, device)
    peak = peak_bytes(device) / 2**20
    wanted, pool = mixture(targets, 1).to(device), mixture(min(candidates, DISTINCT), 2).to(device)
    radius, block = clearance(pool[:4096], wanted).quantile(0.1).item(), block_size(DIM, targets)
    part = pool[:block]
    product = least_seconds(lambda: wanted @ part.T, device)
    seconds = least_seconds(lambda: match(wanted, radius, rounds(pool, candidates, block)), device)
    flops = 2 * targets * candidates * DIM
    return {"seconds": seconds, "megabytes": peak, "flops": flops, "flops_per_second": 2 * targets * len(part) * DIM / product}


def measure(axis: str, value: int, device: torch.device) -> dict[str, float]:
    """Return the measurements at one point of a curve."""
    if axis == "resolution":
        return measure_step(resized(value), device)
    if axis == "batch":
        return measure_step({"train.batch_size": value}, device)
    return measure_refresh(**{**FIXED, axis: value}, device=device)


def collect(points: dict[str, list[int]], device: str) -> dict[str, list[dict]]:
    """Measure every point in its own process."""
    found: dict[str, list[dict]] = {}
    for axis, values in points.items():
        for value in values:
            command = [sys.executable, __file__, "--device", device, "--point", axis, str(value)]
            answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(f"{axis} {value}: {answer['seconds']:.3g} s, {answer['megabytes']:.0f} MB", flush=True)
            found.setdefault(axis, []).append({"at": value, **answer})
    return found


def straight(x: list[float], y: list[float]) -> list[float]:
    """Return the values at `x` of the straight line through the first two points."""
    slope = (y[1] - y[0]) / (x[1] - x[0])
    return [y[0] + slope * (at - x[0]) for at in x]


def draw(found: dict[str, list[dict]], axes: dict[str, str], title: str, law: str, path: Path) -> None:
    """Plot time above memory, one column per axis {name: title}; `law` is the expected growth of memory."""
    (blue, red, *_), grey = plots.COLORS, plots.GREY
    with plots.canvas() as pyplot:
        figure, panels = pyplot.subplots(2, 2, figsize=(12, 8.5), sharex="col", sharey="row")
        figure.suptitle(title, x=0.01, ha="left")
        for (above, below), (axis, heading) in zip(panels.T, axes.items()):
            at, seconds, megabytes, flops, rate = (
                [row[key] for row in found[axis]] for key in ("at", "seconds", "megabytes", "flops", "flops_per_second")
            )
            above.plot(at, seconds, "o-", color=blue, label="measured")
            above.plot(
                at,
                [f * seconds[-1] / flops[-1] for f in flops],
                "--",
                color=red,
                label="proportional to the FLOPs counted, through the last point",
            )
            above.plot(at, [f / r for f, r in zip(flops, rate)], ":", color=grey, label="the FLOPs at the rate of a matrix product")
            above.set(title=heading, xscale="log", yscale="log")
            if law == "straight":  # in pixels, or in images
                size = [x**2 for x in at] if axis == "resolution" else at
                line, label = straight(size, megabytes), "straight line through the first two points"
                label += ", in pixels" if axis == "resolution" else ""
            else:
                line, label = [megabytes[0]] * len(at), "constant, as at the first point"
            below.plot(at, megabytes, "o-", color=blue, label="measured")
            below.plot(at, line, "--", color=red, label=label)
            below.set(xscale="log", xlabel=axis, xticks=at)
            below.xaxis.set_major_formatter("{x:,.0f}")
            below.minorticks_off()
            above.legend(loc="upper left")
            below.legend(loc="upper left")
        for (left, _), label in zip(panels, ("seconds", "peak memory, MB")):
            left.set_ylabel(label)
        plots.label_log(above.yaxis)
        low, high = above.get_ylim()
        above.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        below.set_ylim(0, 1.3 * below.get_ylim()[1])
        plots.save(figure, path)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--quick", action="store_true", help="measure a few small points, to try the command")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the figures (benchmarks)")
    parser.add_argument("--point", nargs=2, metavar=("AXIS", "VALUE"), help="measure only one point and print JSON")
    args = parser.parse_args(words)
    device = choose_device(args.device)
    if args.point:
        print(json.dumps(measure(args.point[0], int(args.point[1]), device)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    found = collect(QUICK if args.quick else POINTS, str(device))
    threads = torch.get_num_threads()
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{threads} CPU thread{'s' * (threads > 1)}"
    result = {"hardware": hardware, "torch": torch.__version__, "recipe": RECIPE.name, "curves": found}
    (args.out / "curves.json").write_text(json.dumps(result, indent=1) + "\n")
    base = recipe({})
    draw(
        found,
        {"resolution": f"batch of {base.train.batch_size}", "batch": f"{resolution(base)[0]} pixels"},
        f"A training step on {hardware}",
        "straight",
        args.out / "curves-step.png",
    )
    draw(
        found,
        {"candidates": f"{FIXED['targets']} targets", "targets": f"{FIXED['candidates']:,} candidates"},
        f"Rejecting and matching in {DIM} dimensions on {hardware}",
        "constant",
        args.out / "curves-refresh.png",
    )


if __name__ == "__main__":
    run_as_command(main)
