"""The 2-D experiment of lab.toy: train every objective on twenty points of the infinity symbol (Vashist et al. 2024).

Trainer, method, refresh, matcher and epsilon are those of the project. Only the points, a small generator from the plane to the
plane, and the identity as embedding are defined here. Scores use samples of the EMA, as everywhere. Matches and distance laws
use the generator, as a refresh does.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imle.features import SearchFeatures
from imle.method import Imle, Networks
from imle.refresh import latent_gap
from imle.search import distances
from imle.settings import Config
from methods import from_dict
from training import rng
from training.trainer import Trainer

NUM_POINTS, SCALE, WIDTH = 20, 1.16, 64
POOL_FACTOR, REFRESH_STEPS = 40, 10  # m = 800
FAR, NEAR = 0.2, 0.1  # a sample farther than FAR from all points is off the curve; a point nearer than NEAR to a sample is reached
NUM_SAMPLES = 10_000  # to score
NUM_SNAPSHOTS, NUM_SHOWN = 48, 1200  # snapshots of a run, and samples in a snapshot
LAW_REFRESHES, LAW_DRAWS = 50, 50_000  # pools and fresh latents for measuring the distance laws
LAW_GRID = np.geomspace(1e-3, 3, 240)  # distances at which the laws are evaluated

METHODS = {
    "IMLE": {"reject": "none"},
    "IMLE, m = n": {"reject": "none", "pool_factor": 1},
    "Adaptive IMLE": {"match": "adaptive", "reject": "none"},
    "RS-IMLE, epsilon 0.09": {"reject": "fixed", "epsilon": 0.09},
    "RS-IMLE, half rejected": {"reject": "share", "rejected_fraction": 0.5},
    "RS-IMLE, quantile": {"reject": "quantile"},
    "RS-IMLE, rank prior": {"reject": "rank"},
    "RS-IMLE, median rank": {"reject": "median_rank"},
}


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after the first step that follows a refresh."""

    step: int  # steps taken
    samples: np.ndarray  # (NUM_SHOWN, 2) of the EMA, always for the same latents
    matches: np.ndarray  # (20, 2) output of the generator for the selected latents


@dataclass(frozen=True)
class Laws:
    """Distribution functions, at LAW_GRID, of distances from an image to samples of the final generator; means over images."""

    fresh: np.ndarray  # F: share of fresh samples nearer than a distance
    least_of_m: np.ndarray  # 1 - (1 - F)^m: the law that IMLE selects
    least_of_n: np.ndarray  # 1 - (1 - F)^n: the law of selected samples that are distributed like fresh ones
    selected: np.ndarray  # share of the matches from LAW_REFRESHES pools nearer than a distance


@dataclass
class Run:
    """The results of one method with one seed; `snapshots` and `laws` are for pictures, empty without them."""

    method: str
    seed: int
    scores: dict[str, float] = field(default_factory=dict)
    refreshes: list[dict[str, float]] = field(default_factory=list)  # diagnostics, each with its step
    latents: list[np.ndarray] = field(default_factory=list)  # (20, 2) selected, every REFRESH_STEPS
    snapshots: list[Snapshot] = field(default_factory=list)
    laws: Laws | None = None

    def row(self, kind: str, step: int, values: dict[str, float], seconds: float) -> None:
        """Record a refresh; the trainer uses the run as its log, and logs nothing else here."""
        self.refreshes.append({"step": step, **values})


class PlaneGenerator(nn.Module):
    """Map latents (B, 2) to points (B, 2, 1, 1), images of one pixel."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = nn.Linear(2, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, latents: Tensor, dtype: None = None) -> Tensor:
        """Return the points of `latents`; `dtype`, the type of an image generator's maps, is always None here."""
        for layer in (self.first, self.second, self.third):
            latents = F.leaky_relu(layer(latents), 0.2)
        return self.last(latents)[:, :, None, None]


class Plane(nn.Module):
    """The identity as embedding: distances are those of the plane."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


def networks(config: Config, device: torch.device, pretrained: bool) -> Networks:
    """Return the small generator, and the identity as embedding for training and for search."""
    plane = Plane()
    return PlaneGenerator(), plane, SearchFeatures(plane, sketch_dim=0, normalise=False, seed=config.seed)


def infinity_symbol() -> Tensor:
    """Return the training points (20, 2) on SCALE (cos t, sin t cos t), with t equally spaced."""
    t = torch.arange(NUM_POINTS) * (2 * math.pi / NUM_POINTS)
    return SCALE * torch.stack([t.cos(), t.sin() * t.cos()], dim=1)


def settings(method: str, seed: int, steps: int) -> Config:
    """Return the configuration of a run, with one step per epoch; other settings keep their defaults."""
    return from_dict(
        {
            "seed": seed,
            "model": {"latent_dim": 2},
            "imle": {"pool_factor": POOL_FACTOR, "pool_batch": 1024, "refresh_epochs": REFRESH_STEPS, **METHODS[method]},
            "train": {
                "epochs": steps,
                "batch_size": NUM_POINTS,
                "learning_rate": 1e-3,
                "betas": [0.9, 0.999],
                "weight_decay": 0.0,
                "warmup_steps": 0,
                "schedule": "constant",
            },
        }
    )


def make_trainer(config: Config, run: Run) -> Trainer:
    """Return a trainer on the infinity symbol that logs every refresh to `run`."""
    images = 127.5 * (infinity_symbol()[:, :, None, None] + 1)  # scaled like uint8 images, but not rounded
    device = torch.device("cpu")
    trainer = Trainer(config, Imle(config, images, device=device, networks=networks), NUM_POINTS, data={}, device=device)
    trainer.write_to(run)
    return trainer


def train(method: str, seed: int, steps: int, pictured: bool) -> Run:
    """Train and score a method; if `pictured`, keep snapshots and laws for the pictures."""
    run = Run(method, seed)
    trainer = make_trainer(settings(method, seed, steps), run)
    moments = snapshot_steps(steps) if pictured else set()
    for step in range(steps):
        trainer.advance()
        if step % REFRESH_STEPS == 0:
            run.latents.append(trainer.method.latents.numpy().copy())
        if step in moments:
            run.snapshots.append(snapshot(trainer))
    run.scores = score(trainer, run)
    if pictured:
        run.laws = measure_laws(trainer.method)
    return run


def samples(method: Imle, num: int) -> Tensor:
    """Return `num` samples (num, 2) of the EMA, always for the same latents."""
    average = PlaneGenerator()
    average.load_state_dict(method.sampled())
    with torch.inference_mode():
        return average(rng.normal((NUM_SAMPLES, 2), method.config.seed, "fresh")[:num]).flatten(1)


def snapshot_steps(steps: int) -> set[int]:
    """Return the steps of the snapshots, all with a refresh; they are denser early, when most changes."""
    last = (steps - 1) // REFRESH_STEPS
    return {round(last * (k / (NUM_SNAPSHOTS - 1)) ** 2) * REFRESH_STEPS for k in range(NUM_SNAPSHOTS)}


def snapshot(trainer: Trainer) -> Snapshot:
    """Return the current state for the pictures."""
    matches = trainer.method.embed_latents(trainer.method.latents)  # the embedding is the identity
    return Snapshot(trainer.step, samples(trainer.method, NUM_SHOWN).numpy(), matches.numpy())


def score(trainer: Trainer, run: Run) -> dict[str, float]:
    """Return the scores for the table, from the final samples and the refreshes in the last tenth of the steps.

    The latent gap uses all latents selected in these steps, because the 20 latents of one refresh always leave gaps.
    """
    between = distances(samples(trainer.method, NUM_SAMPLES), trainer.method.features).double()  # (samples, n)
    nearest = between.amin(dim=1)
    begin = 0.9 * trainer.step
    last = [row for row in run.refreshes if row["step"] >= begin] or run.refreshes[-1:]
    return {
        "far_share": (nearest > FAR).double().mean().item(),
        "sample_distance": nearest.mean().item(),
        "reached_share": (between.amin(dim=0) < NEAR).double().mean().item(),
        "latent_gap": pooled_gap(run, begin, trainer.step),
        "pit": float(np.mean([row["pit"] for row in last])),
        "train_test_gap": float(np.mean([row["train_test_gap"] for row in last])),
    }


def pooled_gap(run: Run, begin: float, end: float) -> float:
    """Return the latent gap of all latents selected at steps `begin` to `end`, or of the last ones before `begin`."""
    first, last = math.ceil(begin / REFRESH_STEPS), math.ceil(end / REFRESH_STEPS)
    selected = np.concatenate(run.latents[min(first, last - 1) : last])
    return latent_gap(torch.from_numpy(selected), run.seed, first)


def measure_laws(method: Imle) -> Laws:
    """Return the laws of distances to samples of the final generator, and to the samples that the method selects."""
    fresh = method.embed_latents(rng.normal((LAW_DRAWS, 2), method.config.seed, "laws"))
    columns = distances(fresh, method.features).T.sort(dim=1).values.numpy()  # (n, draws)
    below = np.stack([np.searchsorted(column, LAW_GRID) for column in columns]) / LAW_DRAWS  # (n, grid)
    pools = range(method.refreshes, method.refreshes + LAW_REFRESHES)  # new to training
    refresh = method.refresher.refresh
    selected = np.sort(torch.cat([refresh(method.embed_latents, pool).distance for pool in pools]).numpy())
    return Laws(
        fresh=below.mean(0),
        least_of_m=(1 - (1 - below) ** (POOL_FACTOR * NUM_POINTS)).mean(0),
        least_of_n=(1 - (1 - below) ** NUM_POINTS).mean(0),
        selected=np.searchsorted(selected, LAW_GRID) / len(selected),
    )
