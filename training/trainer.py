"""The training loop: it orders the images, takes steps, logs, scores, saves and stops. It knows no method."""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from errors import UserError
from models.memory import memory_for
from models.pixels import CHANNELS, to_uint8
from training import checkpoint, processes, rng
from training.device import send
from training.guard import Diverged
from training.runlog import RunLog
from training.scores import distances, energy_distance, nearest_other
from training.settings import Settings, resolution, to_dict
from training.start import NEW, Source, table
from training.writer import Writer

ENERGY = "energy_distance"  # the score that chooses best.pt, unless the method has a better one
SHEET = 64  # samples on a sheet: seeds 0 to 63, the same images that sample.py writes for these seeds


class Work(NamedTuple):
    """A recurring job of training, to be timed."""

    job: Callable[[], None]
    per_epoch: float  # times per epoch; the most, if the number depends on the run
    part: float = 1.0  # the share of the work that one call of `job` does


class Method(Protocol):
    """What a run trains."""

    features: Tensor  # (n, D), `embed` of the training images
    log: Callable[[str, int, dict[str, float], float], None]  # RunLog.row, set before the first step
    chosen_by: str  # the score that chooses best.pt, lower is better; if `watch` returns none of this name, the energy distance

    def step(self, index: Tensor, step: int) -> None:
        """Take step `step` on the images numbered `index` (B,), without host synchronisation. Raises Diverged."""

    def draw(self, seeds: list[int]) -> Tensor:
        """Generate float images (N, C, H, W) with the EMA, one per seed; the other seeds do not change an image."""

    def embed(self, images: Tensor) -> Tensor:
        """Return the features (N, D) of uint8 images (N, C, H, W); the score that chooses best.pt compares them."""

    def watch(self, most: int, heldout: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return further sheets and further scores, which take at most `most` images.

        `heldout` are the run's held-out images, uint8 (h, C, H, W); h may be 0.
        A sheet is uint8 images (N, C, H, W) that stay as they are, shown in eight columns; its name is a folder's.
        """

    def numbers(self, step: int) -> dict[str, float]:
        """Return the numbers to log for the epoch that ends at `step`; the progress bar shows "loss"."""

    def facts(self) -> dict[str, str]:
        """Return what `--dry-run` prints about the networks; every run prints "parameters" when it starts."""

    def work(self) -> dict[str, Work]:
        """Return the jobs of an epoch by name, for the dry run, budgets and benchmarks."""

    def check(self, step: int, weights: bool = False) -> None:
        """Raise Diverged if a step before `step`, or with `weights` a weight, is not finite."""

    def start(self, source: dict) -> dict[str, str]:
        """Take the weights that fit from the content of a checkpoint or an export of the same method; return `training.start.take`'s.

        Only before the first step. A method whose Config refuses train.start_from has no such function.
        """

    def state_dict(self) -> dict:
        """Return everything that the next steps depend on, except what `sampled` returns."""

    def sampled(self) -> dict:
        """Return the weights to sample from: the EMA."""

    def load_state_dict(self, state: dict, sampled: dict) -> None:
        """Restore what `state_dict` and `sampled` returned."""


class Trainer:
    """Train a method on n images, from step 0 or from a checkpoint."""

    def __init__(self, config: Settings, method: Method, n: int, *, data: dict, device: torch.device, heldout: Tensor | None = None):
        """Prepare to train on `n` images; `data` describes the images in checkpoints, `heldout` are uint8 (h, C, H, W)."""
        self.config, self.method, self.n, self.data, self.device = config, method, n, data, device
        self.steps_per_epoch = config.train.steps_per_epoch(n)
        none = torch.empty(0, CHANNELS[config.data.channels], *resolution(config), dtype=torch.uint8)
        self.heldout = none if heldout is None else heldout
        self.order = -1, torch.empty(0)  # an epoch and its order of the images, int64 (n,)
        self.step, self.best = 0, math.inf
        self.started_from: dict[str, str] | None = None  # name and sha256 of the file whose weights the run started from
        self.writer = Writer()
        self.saved_at = 0.0  # time.monotonic() of the latest checkpoint to resume from, or of the start
        self.saved_step: int | None = None  # the step of checkpoints/last.pt on the disk; only the main process knows it

    @property
    def total_steps(self) -> int:
        """Return the number of steps of the whole run."""
        return self.config.train.epochs * self.steps_per_epoch

    def start(self, source: Source | None) -> list[str]:
        """Take the weights that fit from `source`, if there is one; return lines that say what is taken and what is new.

        Raises UserError if nothing fits.
        """
        if source is None:
            return []
        with checkpoint.unpacking(source.path):
            fates = self.method.start(source.state)
            told = f"train.start_from: {source.record['name']}, of step {source.state['step']}"
        if {*fates.values()} == {NEW}:
            raise UserError(f"{told}, has nothing that fits this run; give this run its model settings, or leave train.start_from out")
        self.started_from = source.record
        return [f"{told}; the optimiser starts anew", *table(fates)]

    def write_to(self, log: RunLog) -> None:
        """Use `log` from now on."""
        self.log = log
        self.method.log = log.row

    def run(self, log: RunLog, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the last step, or until `should_stop` returns True in any process; then save.

        All files are written when this ends, also by an error. Raises UserError before an update that is not finite.
        """
        self.write_to(log)
        started, cpu_started = time.monotonic(), time.process_time()
        self.saved_at = started
        progress = tqdm(
            total=self.total_steps, initial=self.step, unit="step", smoothing=0.05, mininterval=0.5, disable=not processes.is_main()
        )
        with self.writer:
            with progress:
                while self.step < self.total_steps and not processes.any_of(should_stop()):
                    if self.step == 0:
                        self.show()
                    self.advance()
                    progress.update()
                    if self.step % self.steps_per_epoch == 0:
                        self.end_epoch(time.monotonic() - started, time.process_time() - cpu_started, progress)
            self.save("last")

    def advance(self) -> None:
        """Take one step. Raises UserError if the step is not finite; on a GPU `end_epoch` does."""
        try:
            with memory_for("a training step", self.remedy()):
                self.method.step(self.batch(self.step), self.step)
        except Diverged as error:
            raise self.stopped(error) from None
        self.step += 1

    def batch(self, step: int) -> Tensor:
        """Return the numbers (B,) of the images in a step's batch; the last one of an epoch is filled up from the epoch's first images."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self.order[0] != epoch:
            self.order = epoch, send(rng.permutation(self.n, self.config.seed, "order", epoch), self.device)
        size = min(self.config.train.batch_size, self.n)
        return self.order[1].roll(-position * size)[:size]

    def end_epoch(self, seconds: float, cpu_seconds: float, progress: tqdm) -> None:
        """Log the epoch, `seconds` and `cpu_seconds` of this process after `run` began; show and save when due."""
        self.check()
        self.writer.check()
        epoch, last = self.step // self.steps_per_epoch, self.step == self.total_steps
        numbers = self.method.numbers(self.step)
        self.log.row("train", self.step, {"epoch": epoch, **numbers, "cpu_seconds": round(cpu_seconds, 3)}, seconds)
        progress.set_postfix(loss=f"{numbers['loss']:.4f}", refresh=False)
        # Sheets come by epochs and not by time: the score made with them chooses best.pt, which must not depend on the machine.
        if epoch % self.config.log.sheet_epochs == 0 or last:
            self.show()
        if processes.any_of(time.monotonic() - self.saved_at >= 60 * self.config.log.checkpoint_minutes) and not last:
            self.save("last")

    @torch.no_grad()
    def show(self) -> None:
        """Save sheets and score the EMA; save best.pt if the score is the best so far. Only the main process does this."""
        if not processes.is_main():
            return
        with memory_for("the sheets and the score", f"lower log.num_scored (now {self.config.log.num_scored})"):
            scores = self.draw_and_score()
        chosen_by = self.method.chosen_by if self.method.chosen_by in scores else ENERGY
        if self.step and scores[chosen_by] < self.best:
            self.best = scores[chosen_by]
            self.save("best", chosen_by)

    def draw_and_score(self) -> dict[str, float]:
        """Save sheets of fixed seeds; return the scores of the EMA, of which one is its energy distance to the training images."""
        samples = self.method.draw(list(range(max(SHEET, self.config.log.num_scored))))
        sheets, scores = self.method.watch(self.config.log.num_scored, self.heldout) if self.step else ({}, {})
        for name, images in {"samples": to_uint8(samples[:SHEET]).cpu(), **sheets}.items():
            self.writer.add(name, partial(self.log.sheet, name, self.step, images, 8))
        features = self.method.embed(to_uint8(samples[: self.config.log.num_scored]))  # rounded to bytes, as sample.py writes them
        scores = {
            ENERGY: energy_distance(features, self.method.features),
            "sample_to_nearest": distances(features, self.method.features).amin(dim=1).median().item(),
            "image_to_nearest": nearest_other(self.method.features).median().item(),
            **scores,
        }
        self.log.row("score", self.step, scores, 0.0)
        return scores

    def save(self, name: str, chosen_by: str | None = None) -> None:
        """Begin to write the checkpoint `name` ("last" or "best"); `chosen_by` is the score that chose it.

        Raises UserError if a loss, gradient or weight is not finite, or if something could not be written before.
        """
        self.check(weights=True)
        if processes.is_main():
            self.writer.make_room("checkpoint")  # before the copy, which takes memory
            selected_by = {"selected_by": chosen_by} if chosen_by else {}
            self.writer.add("checkpoint", partial(self.write, name, checkpoint.snapshot(self.state() | selected_by)))
        if name == "last":
            self.saved_at = time.monotonic()

    def write(self, name: str, state: dict) -> None:
        """Write the checkpoint `name`, in the writer's thread. Raises UserError."""
        self.log.sync()
        checkpoint.save(state, self.log.folder.checkpoint(name))
        if name == "last":
            self.saved_step = state["step"]

    def check(self, weights: bool = False) -> None:
        """Raise UserError if a step, or with `weights` a weight, is not finite."""
        try:
            self.method.check(self.step, weights)
        except Diverged as error:
            raise self.stopped(error) from None

    def stopped(self, error: Diverged) -> UserError:
        """Return the UserError for a divergence; nothing has been updated or saved since."""
        self.writer.wait()
        good = "process 0 tells what is saved"
        if processes.is_main():
            good = f"checkpoints/last.pt, of step {self.saved_step}, is good" if self.saved_step is not None else "nothing is saved yet"
        exact = "" if self.config.train.precision in ("tf32", "fp32") else ", or set train.precision=tf32,"
        return UserError(
            f"{error}, and the run was stopped before using it; {good}. "
            f"Lower train.learning_rate{exact} and give the same command again, or start over with another --run"
        )

    def remedy(self) -> str:
        """Return advice to make a step take less memory; settings that a resumed run may change come first."""
        settings = self.config.train
        at_once = settings.micro_batch or -(-min(settings.batch_size, self.n) // processes.count())
        smaller = f"set train.micro_batch={at_once // 2} (a step then takes {at_once // 2} images at once, with the same result), or "
        return (
            f"{smaller if at_once > 1 else ''}try train.precision=fp16; "
            f"a smaller train.batch_size (now {settings.batch_size}) needs another --run"
        )

    def state(self) -> dict:
        """Return the content of a checkpoint: everything that the rest of the run depends on."""
        return {
            "config": to_dict(self.config),
            "data": self.data,
            "step": self.step,
            "best": self.best,
            "log_position": self.log.position(),
            "method": self.method.state_dict(),
            "sampled": self.method.sampled(),
            **({"started_from": self.started_from} if self.started_from else {}),
        }

    def load_state(self, state: dict) -> None:
        """Restore what `state` returned; training.resume checks which settings may have changed since."""
        self.step, self.best, self.started_from = state["step"], state["best"], state.get("started_from")
        self.saved_step = self.step
        self.method.load_state_dict(state["method"], state["sampled"])
