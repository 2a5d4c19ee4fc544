"""What a run costs on this machine: its jobs are timed, and the epochs that fit into some minutes follow."""

import gc
import math
import tempfile
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from errors import UserError
from training import processes
from training.runlog import RunLog
from training.settings import Settings
from training.trainer import Trainer

ENOUGH = 2.0  # seconds for which a job is repeated to time it
MOST_CALLS = 100
MOST = 10**7  # epochs

C = TypeVar("C", bound=Settings)


class Costs(NamedTuple):
    """The seconds of a run's jobs."""

    jobs: dict[str, tuple[float, float]]  # by name: the seconds of one, and how many there are in an epoch
    sheet: float  # for which training stands still for a sheet and its score
    save: float

    def of(self, config: Settings, epochs: int) -> dict[str, tuple[float, float]]:
        """Return the jobs of a run of so many epochs by name: the seconds of one, and how many there are."""
        costs = {name: (seconds, epochs * per_epoch) for name, (seconds, per_epoch) in self.jobs.items()}
        sheets = 1 + math.ceil(epochs / config.log.sheet_epochs)  # the first is of step 0
        costs["a sheet and its score"] = self.sheet, sheets
        training = sum(seconds * times for seconds, times in costs.values())
        # A sheet but the first may be the best so far.
        costs["a save"] = self.save, saves(config.log.checkpoint_minutes, training, epochs) + sheets - 1
        return costs

    def seconds(self, config: Settings, epochs: int) -> float:
        """Return the seconds of a run of so many epochs."""
        return sum(seconds * times for seconds, times in self.of(config, epochs).values())

    def epochs_in(self, config: Settings, seconds: float) -> int:
        """Return the most epochs that take at most so many seconds; 0 if one takes longer."""
        return bisect_right(range(1, MOST), seconds, key=lambda epochs: self.seconds(config, epochs))


def measure(trainer: Trainer) -> Costs:
    """Time the jobs of a trainer, whose method is spoilt by that."""
    jobs = {name: (_seconds(job, trainer.device) / part, per_epoch) for name, (job, per_epoch, part) in trainer.method.work().items()}
    trainer.step = 1  # step 0 has fewer sheets
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder))
        trainer.write_to(log)
        with trainer.writer:
            sheet = _seconds(trainer.draw_and_score, trainer.device, once=True)
            trainer.writer.wait()
            save = _seconds(lambda: trainer.save("last"), trainer.device, once=True)
        log.close()
    return Costs(jobs, sheet, save)


def planned(config: C, state: dict | None, trainer: Callable[[], Trainer], started: float) -> C:
    """Return the configuration with the epochs that fit into train.minutes, which began at `started` (time.monotonic()).

    Without train.minutes the configuration stays as it is. `trainer` makes a trainer to be timed. `state` is the checkpoint of a
    run that goes on: it keeps its epochs, and with other minutes has them in proportion. Raises UserError if no epoch fits.
    """
    minutes = config.train.minutes
    if not minutes:
        return config
    before = state["config"]["train"] if state else {}
    if before.get("minutes"):
        epochs = round(before["epochs"] * minutes / before["minutes"])
    else:
        costs = measure(trainer())
        gc.collect()  # a learner and its CUDA graph refer to each other, and hold the GPU's memory until then
        epochs = costs.epochs_in(config, 60 * minutes - (time.monotonic() - started))
        if processes.all_gather(torch.tensor(epochs))[0] < 1:
            raise UserError(f"train.minutes: {minutes:g} are too few, an epoch takes {costs.seconds(config, 1) / 60:.1f} here; give more")
    epochs = max(1, int(processes.all_gather(torch.tensor(epochs))[0]))  # as the main process found
    return replace(config, train=replace(config.train, epochs=epochs))


def settled(config: C) -> C:
    """Return the configuration without train.minutes, which gives the same epochs on any machine."""
    return replace(config, train=replace(config.train, minutes=0.0))


def saves(minutes: float, seconds: float, epochs: int) -> int:
    """Return how often a run of so many seconds and epochs writes last.pt, which it does every so many minutes; 0: every epoch."""
    return min(epochs, 1 + int(seconds / 60 / minutes)) if minutes else epochs


def _seconds(job: Callable[[], object], device: torch.device, once: bool = False) -> float:
    """Return the mean seconds of a call of `job` after a first one that does not count; with `once` those of one call alone.

    All processes call it equally often, because it may wait for the others.
    """
    if once:
        return _timed(job, device, 1)
    job()
    _wait(device)
    wanted = min(MOST_CALLS, ENOUGH / max(_timed(job, device, 1), 1e-6))
    calls = max(1, int(processes.all_gather(torch.tensor(wanted))[0]))  # as the main process found
    return _timed(job, device, calls) / calls


def _timed(job: Callable[[], object], device: torch.device, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        job()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
