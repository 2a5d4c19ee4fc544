"""The 2-D laboratory: python -m lab.toy [--seeds 5] [--steps 4000] [--out runs/toy] [--workers CORES]

Trains every objective on the infinity symbol (lab.plane), once per seed. Writes table.md and table.json (means over seeds with
95% intervals) and the pictures of lab.toy_figures (of the first seed) into --out. There are eight runs per seed, of about 10
CPU-seconds each.
"""

import argparse
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from atomic import write_text
from errors import UserError, run_as_command
from lab import toy_figures
from lab.intervals import interval, shown
from lab.plane import FAR, METHODS, NEAR, NUM_SAMPLES, Run, train

COLUMNS = {  # of the table: a score, its heading and its digits
    "far_share": (f"samples farther than {FAR} from all points", 3),
    "sample_distance": ("distance of samples to the nearest point", 3),
    "reached_share": (f"points with a sample within {NEAR}", 3),
    "latent_gap": ("latent gap", 2),
    "pit": ("PIT", 4),
    "train_test_gap": ("train-test gap", 3),
}


def parse(words: list[str]) -> argparse.Namespace:
    """Return the arguments. Raises UserError for a number below 1."""
    parser = argparse.ArgumentParser(prog="python -m lab.toy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method (5)")
    parser.add_argument("--steps", type=int, default=4000, help="steps of each run (4000)")
    parser.add_argument("--out", type=Path, default=Path("runs/toy"), help="folder for the table and the pictures (runs/toy)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, with one thread each (one per core)")
    args = parser.parse_args(words)
    for name in ("seeds", "steps", "workers"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} {getattr(args, name)}: must be at least 1")
    return args


def main(words: list[str]) -> None:
    """Train all runs, write and print the table, draw the pictures."""
    args = parse(words)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot write there ({error.strerror})") from None
    runs = train_all(args.seeds, args.steps, args.workers)
    values = {method: {score: [run.scores[score] for run in runs if run.method == method] for score in COLUMNS} for method in METHODS}
    text = as_markdown(values, args.seeds, args.steps)
    try:
        write_text(args.out / "table.md", text)
        write_text(args.out / "table.json", json.dumps(as_record(values, args.seeds, args.steps), indent=1) + "\n")
        toy_figures.draw_all(runs, args.out)
    finally:
        print(text)
    print(f"{args.out}: table.md, table.json and the pictures")


def train_all(seeds: int, steps: int, workers: int) -> list[Run]:
    """Return the runs of all methods and seeds, trained in `workers` parallel processes."""
    jobs = [(method, seed, steps, seed == 0) for seed in range(seeds) for method in METHODS]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        try:
            return list(tqdm(pool.map(train, *zip(*jobs)), total=len(jobs), unit="run"))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def as_markdown(values: dict[str, dict[str, list[float]]], seeds: int, steps: int) -> str:
    """Return the table of scores {method: {score: values per seed}} as Markdown, with a caption."""
    lines = ["| | " + " | ".join(heading for heading, _ in COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method, scores in values.items():
        cells = [shown(scores[score], digits) for score, (_, digits) in COLUMNS.items()]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    over = f"Means over {seeds} seeds with 95% intervals" if seeds > 1 else "One seed"
    return "\n".join(lines) + f"\n\n{over}, after {steps:,} steps; {NUM_SAMPLES:,} samples of the EMA in each run.\n"


def as_record(values: dict[str, dict[str, list[float]]], seeds: int, steps: int) -> dict:
    """Return the table for JSON: means, half widths of their intervals (None for a single seed) and all values."""
    table = {}
    for method, scores in values.items():
        table[method] = {}
        for score, found in scores.items():
            mean, half = interval(found)
            table[method][score] = {"mean": mean, "half_width": half if seeds > 1 else None, "values": found}
    return {"seeds": seeds, "steps": steps, "samples": NUM_SAMPLES, "methods": table}


if __name__ == "__main__":
    run_as_command(main)
