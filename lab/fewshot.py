"""Compare methods at equal cost: python -m lab.fewshot --budget 300 --seeds 3 --out runs/lab

Trains every method on every set from every seed for the same CPU-seconds, or on a GPU for the same seconds, and scores it on
held-out images at 1/8, 1/4, 1/2 and all of them. The same command resumes. With more seeds, methods or sets it trains only the
missing runs. --out then holds results.md, leaderboard.md, results.json, curves.png, a sheet of samples of every set (methods in
rows, the same latents in columns) and the runs, which sample.py and evaluate.py read like any other run.

A set is NAME=IMAGES,HELDOUT, or NAME=IMAGES to hold out a quarter of the images, or NAME=IMAGES#10 to train on 10 of them.
A method is a name (an unknown name prints the list), NAME:section.key=value;... for settings that change the recipe, or
NAME=RECIPE.yaml for another recipe. --side 128 compares recipes of different resolution: samples are enlarged or reduced, and
compared with images of 128 pixels. --backtracking searches the samples for held-out images, by gradient descent.
"""

import argparse
import json
import math
import os
import shlex
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
os.environ["OMP_NUM_THREADS"] = "1"  # one thread per run: more threads hardly save CPU-seconds
from tqdm import tqdm

from atomic import write_text
from errors import UserError, run_as_command
from lab import cells
from lab.cells import POINTS, Cell, ImageSet, Method
from lab.clock import told
from lab.fewshot_figures import draw_curves, draw_sheet
from lab.intervals import interval, shown
from lab.parallel import processes
from metrics.document import git_commit
from metrics.features import NETWORKS
from metrics.measure import OFFLINE_JUDGES
from models import weights
from training.device import choose_device

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_METHODS = ("imle", "imle-n", "rs", "rs-quantile", "rs-rank")
DEFAULT_SET = f"fluent_faces={ROOT / 'data' / 'fluent_faces'},{ROOT / 'data' / 'fluent_faces_heldout'}"
COLUMNS = {  # of the table: (name, digits)
    "seconds": ("seconds", 0),
    "fd_heldout": ("FD held-out", 1),
    "times_real": ("times real", 2),
    "fd_train": ("FD train", 1),
    "precision": ("precision", 2),
    "recall": ("recall", 2),
    "coverage": ("coverage", 2),
    "copy_rate": ("copies", 3),
    "fine_power": ("fine power", 2),
    "swd": ("SWD", 3),
    "backtracking": ("backtracking", 3),
    "backtracking_of_copies": ("of copies", 3),
    "loss": ("loss", 3),
    "matched_level": ("matched level", 3),
    "matched_detail": ("matched detail", 2),
    "rejected_share": ("rejected", 2),
    "pit": ("PIT", 4),
    "latent_gap": ("latent gap", 2),
    "train_test_gap": ("train-test gap", 2),
}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m lab.fewshot", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=positive(float), required=True, help="seconds per run: of one core of a CPU, or of a GPU")
    parser.add_argument("--seeds", type=positive(int), default=3, help="runs per method and set (3)")
    parser.add_argument("--methods", nargs="+", default=DEFAULT_METHODS, metavar="METHOD", help=" ".join(DEFAULT_METHODS))
    parser.add_argument("--sets", nargs="+", default=[DEFAULT_SET], metavar="SET", help="image sets (the shipped one)")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "fluent-faces-32.yaml", help="the recipe (32 pixels)")
    parser.add_argument("--samples", type=positive(int), default=250, help="samples to score, at four points of a run (250)")
    parser.add_argument("--features", choices=OFFLINE_JUDGES, default=OFFLINE_JUDGES[0], help="network that scores (%(default)s)")
    parser.add_argument("--backtracking", type=int, default=0, metavar="N", help="search for N held-out images in the end (0)")
    parser.add_argument("--side", type=positive(int), help="score samples at this many pixels a side (their own)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--workers", type=positive(int), default=os.cpu_count(), help="parallel runs, with one thread each (all cores)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs and results")
    return parser.parse_args(words)


def positive(kind: type):
    """Return a converter of words to positive numbers."""

    def convert(word: str):
        value = kind(word)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{word} is not positive")
        return value

    convert.__name__ = "number"
    return convert


def main(words: list[str]) -> None:
    args = parse(words)
    weights.require(args.features)  # before anything slow
    methods, sets, device = dict(map(cells.method_of, args.methods)), list(map(cells.set_of, args.sets)), choose_device(args.device)
    args.device = str(device)
    every = cells_of(args, methods, sets)
    if len({cell.judged()[1] for cell in every}) > 1:  # also reports errors before training starts
        raise UserError("--methods: their recipes make different images of a set; score all samples at one size (--side)")
    if len({cell.prior() for cell in every}) > 1:
        raise UserError("--methods: some start from a prior and others from another or from nothing, so they are not ranked together")
    args.out.mkdir(parents=True, exist_ok=True)
    check_same(args, methods, sets)
    epochs = epochs_of(args.out, every, args.budget)
    curves = train(every, epochs, args.workers)
    results = {
        chosen.name: {name: [curves[cell] for cell in every if (cell.set, cell.method) == (chosen, name)] for name in methods}
        for chosen in sets
    }
    reals = {chosen.name: cells.reference_scores(next(cell for cell in every if cell.set == chosen)) for chosen in sets}
    command, revision = shlex.join(["python", "-m", "lab.fewshot", *words]), git_commit()
    counted = told(device, min(args.workers, len(every)))
    write_text(
        args.out / "results.json",
        json.dumps(
            {
                "command": command,
                "revision": revision,
                "device": counted,
                "budget": args.budget,
                "recipe": args.config.name,
                "samples": args.samples,
                "judge": args.features,
                "points": POINTS,
                "methods": {name: str(method) for name, method in methods.items()},
                "real images": reals,
                "curves": results,
            },
            indent=1,
        )
        + "\n",
    )
    text = heading(args.features, every, counted) + tables(results, methods, reals)
    write_text(args.out / "results.md", text)
    write_text(args.out / "leaderboard.md", leaderboard(results, reals, f"`{command}`, revision {revision or 'unknown'}, on {counted}"))
    draw_curves(results, args.out / "curves.png")
    for chosen in sets:
        rows = [cell for cell in every if cell.set == chosen and cell.seed == 0]
        draw_sheet({cell.method: Path(cell.folder) for cell in rows}, args.out / f"samples-{chosen.name}.png")
    print(text)


def cells_of(args: argparse.Namespace, methods: dict[str, Method], sets: list[ImageSet]) -> list[Cell]:
    """Return a cell for every seed, set and method."""
    return [
        Cell(
            method.recipe or str(args.config),
            chosen,
            name,
            method.settings,
            seed,
            args.samples,
            str(args.out / chosen.name / name / f"seed{seed}"),
            args.features,
            args.backtracking,
            args.side,
            args.device,
        )
        for seed in range(args.seeds)
        for chosen in sets
        for name, method in methods.items()
    ]


def check_same(args: argparse.Namespace, methods: dict[str, Method], sets: list[ImageSet]) -> None:
    """Raise UserError if --out holds runs with another recipe, budget, number of samples, judge or device, or another use of a name."""
    path = args.out / "asked.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    if any(args.out.rglob("curve.json")):
        before = {"judge": "effnet-lite0", "device": "cpu"} | before  # older folders do not record them
    asked = {
        "budget": args.budget,
        "samples": args.samples,
        "judge": args.features,
        "device": args.device,
        "recipe": args.config.read_text(),
    }
    asked |= {name: getattr(args, name) for name in ("backtracking", "side") if getattr(args, name)}
    asked |= {f"method {name}": asked_of(method) for name, method in methods.items()}
    asked |= {f"set {chosen.name}": [chosen.images, chosen.heldout, *filter(None, [chosen.number])] for chosen in sets}
    differ = [name for name in asked if before.get(name, asked[name]) != asked[name]]
    if differ:
        raise UserError(f"--out {args.out}: holds runs of another {' and '.join(differ)}; choose another folder, or another name")
    write_text(path, json.dumps(before | asked, indent=1))


def asked_of(method: Method) -> list[str]:
    """Return what makes two methods of one name the same: their settings, and the text of their own recipes."""
    return [*method.settings, *([Path(method.recipe).read_text()] if method.recipe else [])]


def epochs_of(out: Path, every: list[Cell], budget: float) -> dict[Cell, int]:
    """Return the number of epochs of each cell. Costs are measured once per method and number of images.

    Raises UserError if the first point of scoring comes before the end of an epoch.
    """
    path = out / "costs.json"
    costs = json.loads(path.read_text()) if path.exists() else {}
    numbers = {cell: str(len(cells.load(*cell.which())[0])) for cell in every}
    for number in dict.fromkeys(numbers.values()):
        first = {cell.method: cell for cell in reversed(every) if numbers[cell] == number}  # lowest seed
        known = costs.get(number, {})
        if not first.keys() <= known.keys():
            print(f"measuring the cost of an epoch with {number} images", flush=True)
            costs[number] = cells.epoch_costs(first, known)
            write_text(path, json.dumps(costs, indent=1))
    dearest = max(costs[numbers[cell]][cell.method] for cell in every)
    if POINTS[0] * budget < dearest:
        raise UserError(
            f"--budget {budget:g}: runs are first scored at {POINTS[0]:.1%} of the budget, which is less than an epoch; "
            f"give {math.ceil(dearest / POINTS[0])} seconds or more"
        )
    return {cell: round(budget / costs[numbers[cell]][cell.method]) for cell in every}


def train(every: list[Cell], epochs: dict[Cell, int], workers: int) -> dict[Cell, list[dict]]:
    """Train the cells in parallel, unless they are finished, and return their curves."""
    curves = {}
    with processes(workers) as pool:  # runs that end early resume from their last checkpoints
        for cell, curve in tqdm(pool.imap_unordered(curve_of, epochs.items()), total=len(every), unit="run"):
            tqdm.write(f"{cell.set.name} {cell.method} seed {cell.seed}: {curve[-1]['fd_heldout']:.1f} held-out")
            curves[cell] = curve
    return curves


def curve_of(job: tuple[Cell, int]) -> tuple[Cell, list[dict]]:
    """Return a cell and its curve, for a pool of processes."""
    return job[0], cells.run(*job)


def heading(judge: str, every: list[Cell], counted: str) -> str:
    """Return the line that names the scoring network, the methods that were trained on it, and what seconds are `counted` on."""
    taught = dict.fromkeys(cell.method for cell in every if cell.trained_on_judge())
    also = f", also the training loss of {', '.join(taught)}" if taught else ""
    return f"Scored in the features of {NETWORKS[judge].title}{also}. Seconds on {counted}.\n\n"


def tables(results: dict, methods: dict[str, Method], reals: dict[str, dict[str, float | None]]) -> str:
    """Return a table per set: scores of real images, and the final scores of each method, mean +- half of the 95% interval."""
    heads = [head for head, _ in COLUMNS.values()]
    lines = [f"`{name}`: {method}  " for name, method in methods.items()]
    lines.append("`real images`: distance of training to held-out images; copies and sharpness of held-out images.  ")
    lines.append(
        "`times real`: a method's FD held-out over that of real images. `fine power`: power of the finest octave over the training "
        "images'. `SWD`: distance of patches to the training images'."
    )
    for chosen, of_method in results.items():
        first = next(iter(of_method))
        lines += [
            "",
            f"### {chosen}",
            "",
            f"| method | {' | '.join(heads)} | held-out less {first}'s |",
            "|---" * (len(heads) + 2) + "|",
            f"| real images | {' | '.join(scores([reals[chosen]]))} | - |",
        ]
        for name, runs in of_method.items():
            pairs = [one[-1]["fd_heldout"] - other[-1]["fd_heldout"] for one, other in zip(runs, of_method[first])]
            lines.append(f"| {name} | {' | '.join(scores([run[-1] for run in runs]))} | {shown(pairs, 1) if name != first else '-'} |")
        lines += ["", *on_the_way(of_method)]
    return "\n".join(lines) + "\n"


def on_the_way(of_method: dict[str, list[list[dict]]]) -> list[str]:
    """Return the lines of a table of a set: each method's distance to held-out images and near copies at parts of the budget."""
    keys = ("fd_heldout", "copy_rate")
    heads = [f"{COLUMNS[key][0]} at {part:g}" for key in keys for part in POINTS]
    lines = [f"| part of the budget | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, runs in of_method.items():
        at = [dict(zip(COLUMNS, scores(list(points)))) for points in zip(*runs)]
        lines.append(f"| {name} | {' | '.join(point[key] for key in keys for point in at)} |")
    return lines


def leaderboard(results: dict, reals: dict[str, dict[str, float | None]], origin: str) -> str:
    """Return one table of all sets, each with its nearest method to held-out images first, and its `origin`."""
    lines = ["| set | method | seconds | FD held-out | times real | near copies | backtracking |", "|---" * 7 + "|"]
    for chosen, of_method in results.items():
        ends = {name: [run[-1] for run in runs] for name, runs in of_method.items()}
        for name in sorted(ends, key=lambda name: interval([end["fd_heldout"] for end in ends[name]])[0]):
            cells_of_row = dict(zip(COLUMNS, scores(ends[name])))
            cells_shown = [cells_of_row[key] for key in ("seconds", "fd_heldout", "times_real", "copy_rate", "backtracking")]
            lines.append(f"| {chosen} | {name} | {' | '.join(cells_shown)} |")
        real = dict(zip(COLUMNS, scores([reals[chosen]])))
        lines.append(f"| {chosen} | real images | - | {real['fd_heldout']} | 1 | {real['copy_rate']} | - |")
    return "\n".join([*lines, "", origin, ""])


def scores(points: list[dict]) -> list[str]:
    """Return the table cells for the scores of all seeds; a dash for a missing score."""
    return [
        shown([point[key] for point in points], digits) if points[0].get(key) is not None else "-" for key, (_, digits) in COLUMNS.items()
    ]


if __name__ == "__main__":
    run_as_command(main)
