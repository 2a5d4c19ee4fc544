"""Where the time of a training goes: python benchmarks/training.py [--config FILE] [--refreshes N] [section.key=value ...]

Trains an IMLE recipe for whole refresh periods (a refresh and its steps), with sheets, scores, checkpoints and log, and prints
the time of every part without nested parts. Beside each time stands its floor: the part's FLOPs at the measured rate of a
matrix product, or its bytes at the measured rate of a copy. The run is not kept. train.cuda_graph is off, because a
graph hides the parts of a step. It trains on the set that comes with the project unless data.path is given.

--against-config FILE compares with another recipe; both take turns in their own processes, so noise affects both alike.
benchmarks/revisions.py compares with another revision of the code.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from clock import Clock, add_options, by_turns, copy_rate, matmul_rate, peak_bytes

import methods
from data import load_images
from errors import run_as_command
from training.device import choose_device
from training.runlog import RunLog
from training.settings import Settings, to_dict
from training.trainer import Trainer
from training.transform import transform

NETWORKS = ("generator", "perceptual")  # parts that are not overhead
PLACES = {"rest of the step": "the step", "reject, match, latents": "the pool"}  # places where the networks are called


def measure(config: Settings, device: torch.device, refreshes: int) -> dict:
    """Return seconds, calls and floors by part of this many refresh periods, after a warm-up of each job."""
    images = load_images(config.data.path, **transform(to_dict(config))).images
    trainer = Trainer(config, methods.make(config, images, device=device), len(images), data={}, device=device)
    for job, _, _ in trainer.method.work().values():
        job()
    work, clock = work_of(trainer), Clock(device, PLACES, elsewhere="sheets")
    stop_at = refreshes * config.imle.refresh_epochs * trainer.steps_per_epoch
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder))
        watch(clock, trainer, log)
        with clock.part("rest"):
            trainer.run(log, should_stop=lambda: trainer.step >= stop_at)
        log.close()
    gemm, copy = matmul_rate(device, 1024), copy_rate(device)
    floors = {
        part: calls * (flops / gemm + moved / copy) for part, calls in clock.calls.items() for flops, moved in [work.get(part, (0, 0))]
    }
    return {
        "steps": trainer.step,
        "images": trainer.step * min(config.train.batch_size, trainer.n),
        "seconds": clock.seconds,
        "calls": clock.calls,
        "floors": floors,
        "gemm_rate": gemm,
        "copy_rate": copy,
        "threads": torch.get_num_threads(),
        "peak_bytes": peak_bytes(device),
    }


def watch(clock: Clock, trainer: Trainer, log: RunLog) -> None:
    """Make the clock count the parts of the trainer and of its method."""
    method = trainer.method
    for owner, function, part in (
        (trainer, "advance", "rest of the step"),
        (trainer, "draw_and_score", "sheets and score"),
        (trainer, "save", "checkpoint"),
        (log, "row", "log"),
        (method.refresher, "refresh", "reject, match, latents"),
        (method.search_features, "forward", "feature projection"),
        (method.learner.ema.module, "forward", "generator forward of"),
    ):
        clock.watch(owner, function, part)
    clock.watch_step(method)


def work_of(trainer: Trainer) -> dict[str, tuple[float, float]]:
    """Return (FLOPs, bytes moved) of one call of each part with countable work."""
    method, images, chunk = trainer.method, trainer.config.train.batch_size, trainer.config.imle.pool_batch
    with FlopCounterMode(display=False) as of_generator:
        image = method.learner.ema.module(method.latents[:1])
    with FlopCounterMode(display=False) as of_perceptual:
        method.embedding(image)
    generator, perceptual = of_generator.get_total_flops(), of_perceptual.get_total_flops()
    weights = 4 * sum(p.numel() for p in method.generator.parameters())
    (n, dimension), pool = method.features.shape, method.refresher.pool_size
    mean_chunk = pool / -(-pool // chunk)
    return {
        "generator forward of the step": (generator * images, 0),
        "perceptual forward of the step": (perceptual * images, 0),
        "generator backward": (2 * generator * images, 0),
        "perceptual backward": (perceptual * images, 0),
        "generator forward of the pool": (generator * mean_chunk, 0),
        "perceptual forward of the pool": (perceptual * mean_chunk, 0),
        "feature projection": (0, 8 * mean_chunk * dimension),  # one read and one write
        "reject, match, latents": (2 * n * dimension * pool, 0),  # all distances
        "optimiser": (0, 7 * weights),
        "EMA": (0, 3 * weights),  # AdamW: p, g, m, v; p, m, v
        "checkpoint": (0, 2 * 4 * weights),
    }


def summary(found: dict) -> dict[str, float]:
    """Return the numbers for comparing two runs."""
    whole = sum(found["seconds"].values())
    networks = sum(seconds for part, seconds in found["seconds"].items() if part.startswith(NETWORKS))
    return {
        "steps per second": found["steps"] / whole,
        "images per second": found["images"] / whole,
        "milliseconds a step, all included": 1000 * whole / found["steps"],
        "share of the networks": networks / whole,
        "peak memory, GB": found["peak_bytes"] / 1e9,
    }


def table(found: dict) -> str:
    """Return the parts, slowest first, and the summary, as text."""
    whole = sum(found["seconds"].values())
    lines = [
        f"{found['threads']} threads, matrix product {found['gemm_rate'] / 1e9:.0f} GFLOP/s, copy {found['copy_rate'] / 1e9:.1f} GB/s",
        f"{'part':<32}{'seconds':>9}{'share':>8}{'calls':>8}{'ms a call':>11}{'floor, s':>10}{'x floor':>9}",
    ]
    for part, seconds in sorted(found["seconds"].items(), key=lambda item: -item[1]):
        calls, floor = found["calls"][part], found["floors"][part]
        against = f"{floor:>10.3f}{seconds / floor:>9.1f}" if floor else f"{'-':>10}{'-':>9}"
        lines.append(f"{part:<32}{seconds:>9.2f}{seconds / whole:>8.1%}{calls:>8}{1000 * seconds / calls:>11.2f}{against}")
    return "\n".join(
        [*lines, f"{found['steps']} steps in {whole:.1f} s", *(f"{name}: {value:.3g}" for name, value in summary(found).items())]
    )


def summary_of(words: list[str]) -> dict[str, float]:
    """Return the summary of this benchmark with these arguments, in a process of its own."""
    command = [sys.executable, __file__, "--json", *words]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["summary"]


def comparison(found: dict[str, list[dict]]) -> str:
    """Return the medians of both sides and their ratios, as text."""
    (first, ours), (second, theirs) = found.items()
    lines = [f"{'median of ' + str(len(ours)) + ' rounds':<36}{first:>32}{second:>32}{'ratio':>8}"]
    for name in ours[0]:
        a, b = (statistics.median(each[name] for each in side) for side in (ours, theirs))
        lines.append(f"{name:<36}{a:>32.3f}{b:>32.3f}{a / b:>8.2f}")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fluent-faces-64.yaml", help="recipe, relative to the folder of the code or absolute")
    parser.add_argument("--refreshes", type=int, default=2, help="refresh periods to run (2)")
    parser.add_argument("--against-config", metavar="FILE", help="compare with this recipe")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of a comparison (3)")
    add_options(parser)
    args = parser.parse_intermixed_args(words)
    common = [*args.settings, "--refreshes", str(args.refreshes)]
    for option in ("device", "threads"):
        common += [f"--{option}", str(getattr(args, option))] if getattr(args, option) else []
    if args.against_config:
        found = by_turns(
            {file: partial(summary_of, [*common, "--config", file]) for file in (args.config, args.against_config)}, args.rounds
        )
        print(json.dumps(found) if args.json else comparison(found))
    else:
        if args.threads:
            torch.set_num_threads(args.threads)
        settings = [f"data.path={ROOT / 'data' / 'fluent_faces'}", *args.settings, "train.cuda_graph=false"]
        config = methods.load_config(ROOT / args.config, settings)  # an absolute path stays unchanged
        found = measure(config, choose_device(args.device), args.refreshes)
        print(json.dumps({**found, "summary": summary(found)}) if args.json else table(found))


if __name__ == "__main__":
    run_as_command(main)
