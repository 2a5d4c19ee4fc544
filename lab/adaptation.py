"""Compare ways to ten images from one diffusion model: python -m lab.adaptation --out runs/adaptation

All start from the same ten images of a set and are scored on its other images, in EfficientNet-Lite2, on which nothing trains. The
same command goes on where it was stopped. --out then holds results.json, results.md, curves.png and a sheet of every set and seed.
"""

import argparse
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import methods
from atomic import write_text
from data import load_images, split_holdout
from errors import UserError, run_as_command
from lab import plots
from lab.cells import features_of
from lab.clock import now, told
from lab.intervals import interval, shown
from lab.parallel import processes
from metrics import frechet
from metrics.document import git_commit
from metrics.measure import OFFLINE_JUDGES
from metrics.neighbours import NeighbourPass, intra_distance
from models.perceptual import load_embedding
from models.pixels import to_uint8
from training.device import choose_device
from training.scores import distances
from training.sheets import grid, save_png
from training.trainer import Trainer

IMAGES = 10  # to adapt to
RESOLUTION = 32
STEPS, WINDOW = 25, (20, 5)  # of DDIM, and those of them that CRDI guides
DESCENT = 120  # passes of CRDI's descent, as published
MARKS = (100, 300, 1000, 3000)  # steps at which training is scored
JUDGE = OFFLINE_JUDGES[0]
PERCEPTUAL = OFFLINE_JUDGES[1]  # of intra-LPIPS; no system here trains on it
SHEET = 16  # samples of each system
COLUMNS = {  # key of a score: its heading and its digits
    "seconds": ("seconds", 0),
    "fd_heldout": ("FD held-out", 1),
    "nearest": ("held-out to nearest sample", 2),
    "intra_lpips": ("intra-LPIPS", 3),
    "to_training": ("sample to nearest training image", 2),  # a rate of copies would need more than ten images
    "train_bits_per_dim": ("bits, training", 2),
    "heldout_bits_per_dim": ("bits, held-out", 2),
}


class Ten(NamedTuple):
    """Ten images of a set, and the others."""

    images: Tensor  # uint8 (N, 3, H, W)
    others: Tensor
    features: Tensor  # (N, D) of both, in the judge
    features_of_others: Tensor


def systems(prior: str, ten: Ten, seed: int, steps: int, device: torch.device) -> Iterator[tuple[str, Trainer, float]]:
    """Yield every system as a name, its trainer, and the seconds that it has taken; a trainer that trains on comes several times."""
    frozen = ["method=crdi", f"crdi.prior={prior}", f"crdi.steps={STEPS}", f"crdi.window={list(WINDOW)}", "train.batch_size=10"]
    yield "noised images, no guidance", made(ten, seed, device, *frozen), 0.0
    descent = ["crdi.solver=adam", "train.learning_rate=0.05", "train.weight_decay=0", "train.ema_decay=0"]
    for name, passes, words in (("CRDI, closed form", 2, []), ("CRDI, Adam", DESCENT, descent)):
        trainer = made(ten, seed, device, *frozen, f"train.epochs={passes}", *words)
        yield name, trainer, advanced(trainer, passes)
    diffusion = ["method=score-sde", f"sampling.steps={STEPS}", "train.batch_size=10", f"train.epochs={steps}"]
    diffusion += ["train.schedule=constant", "train.ema_decay=0.99"]
    for name, words in (
        ("fine-tuned", [f"denoiser.prior={prior}", "train.learning_rate=2e-4"]),
        ("from scratch", ["denoiser.channels=[32,64,96]", "train.learning_rate=1e-3"]),
    ):
        trainer, spent = made(ten, seed, device, *diffusion, *words), 0.0
        if name == "fine-tuned":
            yield "the prior itself", trainer, 0.0
        for mark in (mark for mark in MARKS if mark <= steps):
            spent += advanced(trainer, mark)
            yield f"{name}, {mark:,} steps", trainer, spent


def made(ten: Ten, seed: int, device: torch.device, *words: str) -> Trainer:
    """Return an untrained trainer on the ten images."""
    config = methods.load_config(None, [f"data.resolution={RESOLUTION}", f"seed={seed}", *words])
    method = methods.make(config, ten.images, device=device)
    return Trainer(config, method, len(ten.images), data={}, device=device, heldout=ten.others)


def advanced(trainer: Trainer, step: int) -> float:
    """Train up to a step; return the seconds: of the process on a CPU, of the clock on a GPU."""
    started = now(trainer.device)
    while trainer.step < step:
        trainer.advance()
    trainer.check(weights=True)
    return now(trainer.device) - started


def scores(trainer: Trainer, ten: Ten, samples: int) -> tuple[dict[str, float | None], Tensor]:
    """Return the scores of a trainer's samples, and uint8 samples (SHEET, 3, H, W) for the sheet."""
    drawn = to_uint8(trainer.method.draw(list(range(samples)))).cpu()
    real, held, fake = ten.features, ten.features_of_others, features_of(drawn, JUDGE, str(trainer.device))
    around = NeighbourPass(load_embedding(PERCEPTUAL), str(trainer.device), ten.images, len(ten.images))
    for batch in drawn.split(16):
        around.add(batch)
    found = around.result()
    return {
        "fd_heldout": frechet.frechet_distance(held, fake),
        "nearest": distances(held, fake).amin(dim=1).mean().item(),
        "intra_lpips": intra_distance(found["spread"], found["members"]).value,
        "to_training": distances(fake, real).amin(dim=1).mean().item(),
        **trainer.method.watch(samples, ten.others)[1],
    }, drawn[:SHEET]


def set_of(word: str) -> tuple[str, str]:
    """Return the name and the folder of a --sets word. Raises UserError."""
    name, sign, path = word.partition("=")
    if not (name and sign and path):
        raise UserError(f"--sets {word}: write NAME=IMAGES")
    return name, path


def ten_of(path: str, seed: int) -> Ten:
    """Return ten images of the folder at `path`, which follow from the seed, and the others. Raises UserError."""
    found = load_images(path, resolution=(RESOLUTION, RESOLUTION), fit="crop", background="white", minimum=2 * IMAGES)
    train, held = split_holdout(found.names, 1 - IMAGES / len(found.names), seed)
    images, others = found.images[train], found.images[held]
    return Ten(images, others, features_of(images, JUDGE), features_of(others, JUDGE))


def of_real_images(ten: Ten) -> dict[str, dict[str, float | None]]:
    """Return the scores of a perfect copier, and of the held-out images themselves."""
    real, held = ten.features, ten.features_of_others
    copier = {
        "fd_heldout": frechet.frechet_distance(held, real),
        "nearest": distances(held, real).amin(dim=1).mean().item(),
        "to_training": 0.0,
    }
    return {"the ten images": copier, "the held-out images": {"to_training": copier["nearest"]}}


class Asked(NamedTuple):
    """What is the same for every set and seed."""

    prior: str
    steps: int
    samples: int
    out: Path
    device: str | None
    workers: int


def run(asked: Asked, name: str, path: str, seed: int) -> dict[str, Any]:
    """Return `scores` of all systems on a set from one seed, by the system's name, and the `device` of their seconds.

    They come from the file of an earlier call if there is one.
    """
    kept = asked.out / name / f"seed{seed}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    torch.set_num_threads(1)
    device, ten, sheet = choose_device(asked.device), ten_of(path, seed), []
    found = of_real_images(ten)
    kept.parent.mkdir(parents=True, exist_ok=True)
    for system, trainer, spent in systems(asked.prior, ten, seed, asked.steps, device):
        found[system], drawn = scores(trainer, ten, asked.samples)
        found[system] = {"seconds": spent, **found[system]}
        sheet.append(drawn)
        print(f"{name}, seed {seed}: | {system} | {' | '.join(cells([found[system]]))} |", flush=True)
    save_png(grid(torch.cat([*sheet, ten.images, ten.others[: SHEET - IMAGES]]), SHEET), asked.out / name / f"seed{seed}.png")
    result = {"device": told(device, asked.workers), "scores": found}
    write_text(kept, json.dumps(result, indent=1))
    return result


def cells(rows: list[dict[str, float | None]]) -> list[str]:
    """Return the cells of a table's row: the mean of every score over seeds, with its 95% interval; a dash for a missing score."""
    return [
        "-" if any(row.get(key) is None for row in rows) else shown([row[key] for row in rows], digits)
        for key, (_, digits) in COLUMNS.items()
    ]


def table(found: dict[str, list[dict[str, dict]]], device: str) -> str:
    """Return the results as Markdown: a table for each set, of means over seeds with 95% intervals."""
    lines = [f"Seconds on {device}.", ""]
    for name, seeds in found.items():
        lines += [
            f"### {name}",
            "",
            f"| system | {' | '.join(heading for heading, _ in COLUMNS.values())} |",
            "|" + "---|" * (len(COLUMNS) + 1),
        ]
        for system in seeds[0]:
            lines.append(f"| {system} | {' | '.join(cells([each[system] for each in seeds]))} |")
        lines.append("")
    return "\n".join(lines)


def draw_curves(found: dict[str, list[dict[str, dict]]], path: Path) -> None:
    """Plot the bits per dimension of the fine-tuned model, and its distance to held-out images, against its steps."""
    with plots.canvas() as pyplot:
        figure, panels = pyplot.subplots(2, len(found), figsize=(1 + 4.5 * len(found), 6), sharex=True, squeeze=False)
        for (top, bottom), (name, seeds) in zip(panels.T, found.items()):
            marks = [mark for mark in MARKS if f"fine-tuned, {mark:,} steps" in seeds[0]]
            names = ["the prior itself", *(f"fine-tuned, {mark:,} steps" for mark in marks)]
            for panel, keys in ((top, ("train_bits_per_dim", "heldout_bits_per_dim")), (bottom, ("fd_heldout",))):
                for number, key in enumerate(keys):
                    means, halves = zip(*(interval([each[system][key] for each in seeds]) for system in names))
                    bars = halves if len(seeds) > 1 else None
                    panel.errorbar([10, *marks], means, bars, color=plots.COLORS[number], label=COLUMNS[key][0], marker="o", capsize=2)
                panel.legend()
            top.set_title(name)
            bottom.set(xscale="log", xlabel="steps (at 10: none)")
        plots.save(figure, path)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lab.adaptation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--prior", default="emoji-32", help="prior at 32 pixels: its name, a run or an export of score-sde (%(default)s)")
    parser.add_argument("--sets", nargs="+", default=["faces=data/fluent_faces", "animals=datasets/fluent_animals"], metavar="NAME=IMAGES")
    parser.add_argument("--seeds", type=int, default=3, help="runs of every system, each with its own ten images (%(default)s)")
    parser.add_argument("--steps", type=int, default=MARKS[-1], help="most steps of training (%(default)s)")
    parser.add_argument("--samples", type=int, default=100, help="samples to score (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="parallel runs, with one thread each (all cores)")
    args = parser.parse_args(words)
    sets = dict(map(set_of, args.sets))
    every = [(name, path, seed) for name, path in sets.items() for seed in range(args.seeds)]
    workers = min(args.workers, len(every))
    one = partial(run, Asked(args.prior, args.steps, args.samples, args.out, args.device, workers))
    with processes(workers) if workers > 1 else nullcontext() as pool:
        rows = pool.starmap(one, every, chunksize=1) if pool else list(starmap(one, every))
    found = {name: [row["scores"] for (of, *_), row in zip(every, rows) if of == name] for name in sets}
    device = " and ".join(dict.fromkeys(row["device"] for row in rows))
    command = shlex.join(["python", "-m", "lab.adaptation", *words])
    results = {"command": command, "revision": git_commit(), "device": device, "scores": found}
    write_text(args.out / "results.json", json.dumps(results, indent=1))
    write_text(args.out / "results.md", table(found, device))
    draw_curves(found, args.out / "curves.png")
    print(table(found, device))


if __name__ == "__main__":
    run_as_command(main)
