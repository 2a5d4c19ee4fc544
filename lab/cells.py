"""One cell of the few-shot experiment: a method trained on a set from one seed for a budget of seconds, and its scores.

On a CPU the budget is in CPU-seconds, which vary less than wall-clock time on a shared machine. The cost of an epoch is measured
first, with the methods taking turns and no other run; it gives the number of epochs and the end of the learning rate's schedule.
So runs that then share a GPU train as long as if they had it alone. Scoring is not part of the budget.
"""

import json
import statistics
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from operator import truediv
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import methods
from atomic import write_text
from data import Record, load_images, split_holdout
from errors import UserError
from lab.clock import now
from metrics import copying, frechet, prdc, sharpness
from metrics.backtracking import to_nearest
from metrics.features import FeaturePass
from metrics.measure import OFFLINE_JUDGES
from metrics.teacher import trained_on
from models.inversion import PIXEL_WEIGHT, invert
from models.perceptual import load_embedding
from models.pixels import to_uint8
from training import checkpoint
from training.device import choose_device
from training.folder import RunFolder
from training.runlog import RunLog
from training.settings import Settings, to_dict, to_yaml
from training.sheets import grid, save_png
from training.trainer import Trainer
from training.transform import transform

HELD_OUT = 0.25  # share held out of a set without held-out images
POINTS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # shares of the budget at which a run is scored
SAVES = 20  # checkpoints of a run


class Method(NamedTuple):
    """A method of the experiment: settings that change a recipe."""

    settings: tuple[str, ...] = ()
    recipe: str | None = None  # a YAML file; None: that of the experiment

    def __str__(self) -> str:
        return " ".join([*filter(None, [self.recipe]), *self.settings]) or "the recipe as it is"


METHODS = {
    "imle": Method(("imle.match=every", "imle.reject=none")),
    "imle-n": Method(("imle.match=every", "imle.reject=none", "imle.pool_factor=1")),
    "adaptive": Method(("imle.match=adaptive", "imle.reject=none")),
    "rs": Method(("imle.match=every", "imle.reject=share", "imle.rejected_fraction=0.1")),
    "rs-half": Method(("imle.match=every", "imle.reject=share", "imle.rejected_fraction=0.5")),
    "rs-quantile": Method(("imle.match=every", "imle.reject=quantile")),
    "rs-rank": Method(("imle.match=every", "imle.reject=rank")),
    "rs-median": Method(("imle.match=every", "imle.reject=median_rank")),
}


def method_of(word: str) -> tuple[str, Method]:
    """Return the method of a --methods word and its name: a name in METHODS, NAME:section.key=value;... or NAME=RECIPE.yaml.

    Raises UserError for an unknown name.
    """
    first, colon, settings = word.partition(":")
    name, sign, recipe = first.partition("=")
    if colon or sign:
        return name, Method(tuple(filter(None, settings.split(";"))), recipe or None)
    if name not in METHODS:
        raise UserError(
            f"--methods {name}: not one of {', '.join(METHODS)}; or write NAME:section.key=value;... or NAME=RECIPE.yaml for another recipe"
        )
    return name, METHODS[name]


@dataclass(frozen=True)
class ImageSet:
    """A folder of training images and one of held-out images; None: a quarter of the first is held out.

    With `number`, only so many images of the first folder are for training, and the others are held out.
    """

    name: str
    images: str
    heldout: str | None = None
    number: int | None = None

    def share(self, found: int) -> float:
        """Return the share that is held out of the `found` images of the first folder. Raises UserError."""
        if self.number is None:
            return 0.0 if self.heldout else HELD_OUT
        if self.number >= found:
            raise UserError(f"--sets {self.name}: {self.images} has {found} images; train on fewer of them than {self.number}")
        return 1 - self.number / found


def set_of(word: str) -> ImageSet:
    """Return the set of a --sets word: NAME=IMAGES, NAME=IMAGES,HELDOUT or NAME=IMAGES#NUMBER. Raises UserError."""
    name, sign, folders = word.partition("=")
    images, comma, heldout = folders.partition(",")
    images, hash_sign, number = images.partition("#")
    if not (name and sign and images) or bool(comma) != bool(heldout) or (hash_sign and (comma or not number.isdecimal())):
        raise UserError(f"--sets {word}: write NAME=IMAGES, NAME=IMAGES,HELDOUT or NAME=IMAGES#NUMBER")
    return ImageSet(name, images, heldout or None, int(number) if number else None)


@dataclass(frozen=True)
class Cell:
    """One run of the experiment: what is trained and scored, and its folder."""

    recipe: str  # a YAML file
    set: ImageSet
    method: str
    settings: tuple[str, ...]  # that change the recipe
    seed: int
    samples: int  # number of samples to score
    folder: str  # of the run
    judge: str = OFFLINE_JUDGES[0]  # the network that scores it
    backtracked: int = 0  # number of held-out images that are searched for in the end
    side: int | None = None  # pixels at which samples are scored; None: their own
    device: str = "cpu"

    def config(self, epochs: int = 1) -> Settings:
        """Return the complete configuration. Raises UserError."""
        return methods.load_config(
            self.recipe, [f"data.path={self.set.images}", *self.settings, f"seed={self.seed}", f"train.epochs={epochs}"]
        )

    def prior(self) -> str:
        """Return the pretrained model that the run starts from; empty: none."""
        sections = [section for section in to_dict(self.config()).values() if isinstance(section, dict)]
        return next(filter(None, (section.get("prior") or section.get("start_from") for section in sections)), "")

    def trained_on_judge(self) -> bool:
        """Return whether the run is trained on the network that scores it."""
        return bool(trained_on(self.judge, to_dict(self.config())))

    def which(self) -> tuple[ImageSet, tuple]:
        """Return the arguments of `load`."""
        return self.set, tuple(transform(to_dict(self.config())).items())

    def judged(self) -> tuple[ImageSet, tuple]:
        """Return the arguments of `load` for the real images that samples are compared with."""
        chosen, transformed = self.which()
        return chosen, tuple((dict(transformed) | ({"resolution": (self.side, self.side)} if self.side else {})).items())

    def trainer(self, epochs: int = 1) -> Trainer:
        """Return a new trainer. Raises UserError."""
        config, device = self.config(epochs), choose_device(self.device)
        images, _, data = load(*self.which())
        return Trainer(config, methods.make(config, images, device=device), len(images), data=data, device=device)


@lru_cache(maxsize=4)
def load(chosen: ImageSet, transformed: tuple) -> tuple[Tensor, Tensor, dict]:
    """Return a set's training and held-out images, uint8 (N, 3, H, W), and their record for checkpoints.

    `transformed` holds the items of a transform. Raises UserError.
    """
    found = load_images(chosen.images, **dict(transformed), minimum=2)
    train, held = split_holdout(found.names, chosen.share(len(found.names)), 0)
    heldout = found.images[held]
    if chosen.heldout:
        heldout = load_images(chosen.heldout, **dict(transformed), minimum=2).images
    return found.images[train], heldout, Record.of(found, train, held)._asdict()


def epoch_costs(cells: dict[str, Cell], known: dict[str, float]) -> dict[str, float]:
    """Return the seconds of an epoch of each method's cell.

    `known` costs stay unchanged. New costs are scaled to them, because the machine may be slower than when they were measured.
    """
    trainers = {name: cell.trainer() for name, cell in cells.items()}
    works = {(name, job): work for name, trainer in trainers.items() for job, work in trainer.method.work().items()}
    found = dict.fromkeys(cells, 0.0)
    device = next(iter(trainers.values())).device
    for (name, job), seconds in by_turns({key: work.job for key, work in works.items()}, 81, device).items():
        found[name] += seconds / works[name, job].part * works[name, job].per_epoch
    ratios = [known[name] / found[name] for name in cells if name in known]
    ratio = statistics.median(ratios) if ratios else 1.0
    return known | {name: cost * ratio for name, cost in found.items() if name not in known}


def by_turns(jobs: dict[Hashable, Callable], rounds: int, device: torch.device) -> dict[Hashable, float]:
    """Return the seconds of each job: its median share of a round, times the median round. The jobs take turns in a round.

    A disturbance affects all jobs of a round alike, or only a few rounds. The first round is a warm-up and does not count.
    """
    seconds: dict[Hashable, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            started = now(device)
            job()
            seconds[name].append(now(device) - started)
    whole = [statistics.fmean(turns) for turns in zip(*seconds.values())][1:]
    return {name: statistics.median(map(truediv, turns[1:], whole)) * statistics.median(whole) for name, turns in seconds.items()}


def run(cell: Cell, epochs: int) -> list[dict]:
    """Train a cell to its end, resuming if it was stopped, and return its scores at POINTS."""
    torch.set_num_threads(1)
    folder = Path(cell.folder)
    run_folder, curve_path = RunFolder(folder), folder / "curve.json"
    curve = [named(point) for point in json.loads(curve_path.read_text())] if curve_path.exists() else []
    if len(curve) == len(POINTS):
        return curve
    trainer, spent, position = cell.trainer(epochs), 0.0, (0, 0)
    if run_folder.last.exists():
        state = named(methods.load(run_folder.last))
        trainer.load_state(state)
        spent, position = state["seconds"], (state["log_position"], state["step"])
    else:
        trainer.start(methods.source(trainer.config))
    log = RunLog(folder, *position)
    trainer.write_to(log)
    write_text(run_folder.config, to_yaml(trainer.config))
    total = trainer.total_steps
    stops = sorted({round(total * part) for part in (*POINTS, *((i + 1) / SAVES for i in range(SAVES)))})
    for stop in stops:
        started = now(trainer.device)
        while trainer.step < stop:
            trainer.advance()
        trainer.check()
        spent += now(trainer.device) - started
        if stop in [round(total * part) for part in POINTS[len(curve) :]]:
            backtracked = backtrack(cell, trainer) if stop == total and cell.backtracked else {}
            curve.append({"seconds": spent, "step": trainer.step, **score(cell, trainer), **backtracked, **state_of_matching(folder)})
        if trainer.step == stop:
            log.sync()
            checkpoint.save(trainer.state() | {"seconds": spent}, run_folder.last)
            write_text(curve_path, json.dumps(curve, indent=1))
    log.close()
    return curve


def named(kept: dict) -> dict:
    """Return what a run kept, with its seconds under their present name; earlier revisions called them cpu_seconds."""
    return {"seconds" if name == "cpu_seconds" else name: value for name, value in kept.items()}


def score(cell: Cell, trainer: Trainer) -> dict[str, float | None]:
    """Return the scores of a trainer's EMA, and write a sheet of its samples."""
    drawn = to_uint8(trainer.method.draw(list(range(cell.samples)))).cpu()
    save_png(grid(drawn[:96], columns=16), Path(cell.folder) / "samples.png")
    drawn = resized(drawn, cell.side) if cell.side else drawn
    real, held = references(cell.judge, cell.device, *cell.judged())
    fake = features_of(drawn, cell.judge, cell.device)
    similarity = prdc.prdc(real, fake)
    return {
        "fd_heldout": frechet.frechet_distance(held, fake),
        "times_real": frechet.frechet_distance(held, fake) / frechet.frechet_distance(held, real),
        "fd_train": frechet.frechet_distance(real, fake),
        "precision": similarity["precision"],
        "recall": similarity["recall"],
        "coverage": similarity["coverage"],
        "copy_rate": copying.copy_rate(real, fake),
        **sharpness_of(drawn, cell),
        **trainer.method.watch(len(real), trainer.heldout)[1],
        "loss": trainer.method.numbers(trainer.step)["loss"],
    }


def backtrack(cell: Cell, trainer: Trainer) -> dict[str, float]:
    """Return the mean distance in the judge of held-out images to the nearest samples that descent finds, and to the nearest training
    images, which a copier reaches; nothing for a method without a generator.
    """
    drawing, device = methods.open_drawing(trainer.state(), trainer.device), trainer.device
    if drawing.generator is None or drawing.latent_dim is None:
        return {}
    real, heldout, _ = load(*cell.which())
    chosen, embed = heldout[: cell.backtracked], load_embedding(cell.judge, PIXEL_WEIGHT).to(device)
    found = invert(
        drawing.generator, embed, images=chosen.to(device), latent_dim=drawing.latent_dim, seed=cell.seed, advance=lambda _: None
    )
    nearest = to_nearest(embed, chosen, real, device)
    return {"backtracking": found.distances.mean().item(), "backtracking_of_copies": nearest.mean().item()}


def sharpness_of(images: Tensor, cell: Cell) -> dict[str, float | None]:
    """Return the power of the finest octave and the patch distance of uint8 images, against the cell's training images."""
    real = {name: references(name, "cpu", *cell.judged())[0] for name in ("spectrum", "patches")}
    patches = [each for each in sharpness.patch_distances(real["patches"], features_of(images, "patches")) if each is not None]
    power = sharpness.power_ratio(real["spectrum"].double()[:, 0], features_of(images, "spectrum").double()[:, 0], sharpness.OCTAVES[0])
    return {"fine_power": power.value, "swd": sum(patches) if patches else None}


def resized(images: Tensor, side: int) -> Tensor:
    """Return uint8 images (N, 3, H, W) as squares of another side (bicubic, with antialiasing)."""
    return F.interpolate(images.float(), size=(side, side), mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)


def features_of(images: Tensor, judge: str, device: str = "cpu") -> Tensor:
    """Return a network's features (N, D) of uint8 images, as in evaluate.py."""
    taken = FeaturePass(judge, device)
    for batch in images.split(16):
        taken.add(batch)
    return taken.result()["features"]


@lru_cache(maxsize=12)  # a judge and two measures of sharpness, for four sets
def references(judge: str, device: str, *which) -> tuple[Tensor, Tensor]:
    """Return a network's features of a set's training and held-out images; `which` are the arguments of `load`."""
    images, heldout, _ = load(*which)
    return features_of(images, judge, device), features_of(heldout, judge, device)


def reference_scores(cell: Cell) -> dict[str, float | None]:
    """Return scores of real images: distance of training to held-out images, and copy rate and sharpness of held-out images."""
    real, held = references(cell.judge, cell.device, *cell.judged())
    return {
        "fd_heldout": frechet.frechet_distance(held, real),
        "copy_rate": copying.copy_rate(real, held),
        **sharpness_of(load(*cell.judged())[1], cell),
    }


def state_of_matching(folder: Path) -> dict[str, float]:
    """Return the diagnostics that a run logged at its last refresh; empty for a method without refreshes."""
    rows = [json.loads(line) for line in RunFolder(folder).metrics.read_text().splitlines()]
    last = [row for row in rows if row["kind"] == "refresh"][-1:]
    names = ("matched_level", "rejected_share", "pit", "unique_matches", "latent_gap", "train_test_gap")
    losses = ("loss_before", "loss_after", "loss_fresh")  # absent if the search features do not compare what the loss compares
    return {name: row[name] for row in last for name in names} | {name: row[name] for row in last for name in losses if name in row}
