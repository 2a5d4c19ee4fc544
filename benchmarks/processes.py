"""One process against N, with a core or a GPU each: python benchmarks/processes.py [--processes N] [section.key=value ...]

Generates and matches one pool and takes 50 steps, in turn with one process and with N. Reports whether the matches are equal,
the largest difference of the losses, and the speed-up. The learning rate is small: at the recipe's own rate, rounding from the
order of sums grows to a large difference within a few dozen steps. --double computes in float64, which separates rounding from
a real difference.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from clock import by_turns, seconds_of, wait

import methods
from data import load_images
from errors import run_as_command
from training import processes
from training.device import choose_device
from training.runlog import SilentLog
from training.settings import Settings, to_dict
from training.trainer import Trainer
from training.transform import transform

STEPS = 50
SMALL_RATE = "train.learning_rate=1e-5"


def work(config: Settings, device: torch.device) -> dict:
    """Return the matched latents, losses and seconds of this process."""
    images = load_images(config.data.path, **transform(to_dict(config))).images
    method = methods.make(config, images, device=device)
    trainer = Trainer(config, method, len(images), data={}, device=device)
    trainer.write_to(SilentLog())
    method.embed_latents(method.latents[: config.imle.pool_batch])  # warm-up
    refresh = seconds_of_all(lambda: method.rematch(0), device)
    losses, steps = [], []
    for step in range(STEPS):
        steps.append(seconds_of_all(lambda: method.pull(trainer.batch(step), step), device))  # a step without its refresh
        losses.append(method.losses.mean().item())
    return {"latents": method.latents.tolist(), "losses": losses, "refresh": refresh, "step": statistics.median(steps)}


def seconds_of_all(job: Callable[[], None], device: torch.device) -> float:
    """Return the seconds from the common start of `job` until all processes have finished it."""

    def together() -> None:
        job()
        wait(device)
        processes.any_of(False)

    processes.any_of(False)
    return seconds_of(together, device)


def launch(num: int, words: list[str]) -> dict:
    """Return the result of the main process, of `num` processes with one thread each."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(num),
            "--",
            __file__,
            *words,
            "--found",
            found,
        ]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return json.loads(found.read_text())


def compare(num: int, rounds: int, words: list[str]) -> dict:
    """Return the comparison of one process with `num`, each by the fastest of `rounds`."""
    runs = by_turns({number: partial(launch, number, words) for number in (1, num)}, rounds)
    alone, several = runs[1], runs[num]
    fastest = {part: [min(run[part] for run in results) for results in (alone, several)] for part in ("refresh", "step")}
    return {
        "processes": num,
        "matches_identical": all(run["latents"] == alone[0]["latents"] for run in alone + several),
        "largest_loss_difference": max(abs(a - b) / a for run in several for a, b in zip(alone[0]["losses"], run["losses"])),
        "refresh_seconds": fastest["refresh"],
        "refresh_speedup": fastest["refresh"][0] / fastest["refresh"][1],
        "step_seconds": fastest["step"],
        "step_speedup": fastest["step"][0] / fastest["step"][1],
    }


def report(found: dict) -> str:
    """Return the comparison as text."""
    lines = [
        f"matches identical         {'yes' if found['matches_identical'] else 'NO'}",
        f"largest loss difference   {found['largest_loss_difference']:.1e} of the loss, over {STEPS} steps",
    ]
    for part, name in (("refresh", "pool and matches"), ("step", "step")):
        one, many = found[f"{part}_seconds"]
        lines.append(
            f"{name:<26}{one:.3f} s in 1 process, {many:.3f} s in {found['processes']}: {found[f'{part}_speedup']:.2f} times as fast"
        )
    return "\n".join(lines)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent.parent / "configs" / "fluent-faces-64.yaml")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each; the fastest counts (3)")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for one GPU per process (cpu)")
    parser.add_argument("--double", action="store_true", help="compute in float64")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.add_argument("--found", type=Path, help=argparse.SUPPRESS)  # output file of a measured process
    parser.add_argument("settings", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args(words)
    if args.found is None:
        passed = ["--config", str(args.config), "--device", args.device, *(["--double"] if args.double else []), *args.settings]
        found = compare(args.processes, args.rounds, passed)
        print(json.dumps(found) if args.json else report(found))
        return
    torch.set_default_dtype(torch.float64 if args.double else torch.float32)
    device = choose_device(args.device)
    with processes.process_group(device, str):
        found = work(methods.load_config(args.config, [SMALL_RATE, *args.settings]), device)
        if processes.is_main():
            args.found.write_text(json.dumps(found))


if __name__ == "__main__":
    run_as_command(main)
