"""The training loop: refresh the matches when the objective asks, pull every match towards its image, average.

Loss and step are IMLE's (Li & Malik 2018, algorithm 1); what is chosen to be pulled is the business of imle.refresh.
"""

import math
import time
from typing import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from errors import UserError
from imle import checkpoint
from training import processes, rng
from training.clipping import Clipping
from training.compiling import telling_of_compilation
from imle.config import Config, to_dict
from training.device import send
from imle.distance import make_distance
from training.ema import Ema
from imle.features import SearchFeatures
from training.guard import Guard
from imle.objectives import OBJECTIVES
from imle.optimizer import make_optimizer, set_learning_rate
from imle.refresh import Refresher
from training.runlog import RunLog
from imle.sampling import build_generator, generate
from imle.scores import energy_distance, nearest_other
from imle.search import distances
from imle.targets import Targets, embed
from models.memory import memory_for
from models.perceptual import Embedding, load_embedding
from models.pixels import to_float, to_uint8
from models.stages import Staged, make_heads, shrunk, stage_maps

SHEET = 64  # samples on a sheet, of seeds 0 to 63: the pictures that sample.py gives for these seeds


class Trainer:
    """Train a generator on images, from step 0 or from a checkpoint."""

    def __init__(self, config: Config, images: Tensor, *, data: dict, device: torch.device, pretrained: bool = True):
        """Prepare to train on uint8 `images` (n, 3, H, W), which `data` describes in checkpoints.

        Raises MissingWeights.
        """
        self.config, self.data, self.device = config, data, device
        self.n = len(images)
        self.steps_per_epoch = math.ceil(self.n / config.train.batch_size)
        self.total_steps = config.train.epochs * self.steps_per_epoch
        torch.manual_seed(rng.generator(config.seed, "weights").initial_seed())
        self.generator, embedding, self.search_features = self.networks(pretrained)
        self.ema = Ema(self.generator, config.train.ema_decay)
        # Made after the generator, which so begins the same with heads and without.
        self.heads = make_heads(self.generator).to(device) if config.loss.stage_weight else None
        self.network = Staged(self.generator, self.heads) if self.heads else self.generator  # what a step runs and updates
        self.distance = make_distance(config.loss)
        self.optimizer = make_optimizer(self.network, config.train)
        self.clipping = Clipping(list(self.network.parameters()), config.train.clip) if config.train.clip else None
        self.guard = Guard(self.optimizer, device)
        self.targets = Targets(images.to(device), embedding, self.search_features, config.loss.cache_gb * 1e9)
        compiled = torch.compile if config.train.compile else lambda network: network
        self.parallel = processes.parallel(self.network)
        self.draw, self.embedding = compiled(self.parallel), compiled(embedding)  # of a step; a pool's are not compiled
        self.refresher = Refresher(config, self.targets.features)
        self.objective = OBJECTIVES[config.imle.match](config.imle, self.n, self.steps_per_epoch)
        self.latents = torch.zeros(self.n, config.model.latent_dim, device=device)
        self.losses = torch.zeros(self.n, device=device)  # every image's loss when it was last trained on
        self.order = -1, torch.empty(0)  # an epoch, and the numbers of the images in its order, int64 (n,)
        self.step, self.refreshes, self.best = 0, 0, math.inf
        self.saved_step: int | None = None  # of checkpoints/last.pt

    def networks(self, pretrained: bool) -> tuple[nn.Module, nn.Module, SearchFeatures]:
        """Return the untrained generator, the training embedding and the search features. Raises MissingWeights."""
        generator = build_generator(to_dict(self.config)).to(self.device)
        return generator, *load_embeddings(self.config, self.device, pretrained)

    def run(self, log: RunLog, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Train to the last step, or until `should_stop` in any process; save either way.

        Raises UserError when an update would not have been finite.
        """
        self.log, started = log, time.monotonic()
        progress = tqdm(total=self.total_steps, initial=self.step, unit="step", smoothing=0.05, mininterval=0.5,
                        disable=not processes.is_main())  # fmt: skip
        with progress:
            while self.step < self.total_steps and not processes.any_of(should_stop()):
                if self.step == 0:
                    self.show()
                self.rematch()
                with memory_for("a training step", self.remedy()):
                    self.train_step()
                progress.update()
                if self.step % self.steps_per_epoch == 0:
                    self.end_epoch(time.monotonic() - started, progress)
        self.save("last")

    def remedy(self) -> str:
        """Say what makes a step take less memory, first what this run can go on with."""
        settings = self.config.train
        at_once = settings.micro_batch or -(-min(settings.batch_size, self.n) // processes.count())
        smaller = f"set train.micro_batch={at_once // 2} (a step then takes {at_once // 2} images at once, with the same result), or "
        return (f"{smaller if at_once > 1 else ''}try train.precision=bf16; "
                f"a smaller train.batch_size (now {settings.batch_size}) needs a new run")  # fmt: skip

    def rematch(self) -> None:
        """Give a new latent to every image that asks for one."""
        asking = self.objective.asking(self.step, self.losses)
        if asking is None:
            return
        offers, started = None, time.monotonic()
        if self.objective.needs_pool(asking):
            with memory_for("the pool", f"lower imle.pool_batch (now {self.config.imle.pool_batch})"):
                matches = self.refresher.refresh(self.embed_latents, self.refreshes)
            offers, self.refreshes = matches.latents, self.refreshes + 1
            self.log.row("refresh", self.step, matches.diagnostics, time.monotonic() - started)
        self.latents[asking.to(self.device)] = self.objective.take(asking, offers).to(self.device)

    def train_step(self) -> None:
        """Pull one batch of matches towards their images, without waiting for a GPU."""
        index = self.batch(self.step)
        latents = self.latents[index]
        if self.config.imle.perturbation:
            noise = rng.normal(tuple(latents.shape), self.config.seed, "perturb", self.step)
            latents = latents + self.config.imle.perturbation * send(noise, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        distance = self.backward(index, latents)
        norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in self.network.parameters()]))
        self.guard.watch(norms.sum() + distance.sum(), self.step)
        if self.guard.at_once:
            self.check_finite()
        if self.clipping:
            self.clipping.clip(norms)
        set_learning_rate(self.optimizer, self.learning_rate(self.step))
        self.optimizer.step()
        self.ema.update(self.generator, self.step)
        self.losses[index] = distance
        self.step += 1

    def backward(self, index: Tensor, latents: Tensor) -> Tensor:
        """Add up the gradient of the mean distance of images `index` (B,) to what `latents` give; return distances (B,).

        Every process takes its share of them, and an image without weight where there are fewer than processes: all
        must take part in averaging the gradients.
        """
        share = slice(processes.rank(), None, processes.count())
        losses = torch.zeros(len(index), device=self.device)
        own, weight = (share, processes.count() / len(index)) if len(losses[share]) else (slice(1), 0.0)
        size = self.config.train.micro_batch or len(index)
        parts, found = list(zip(index[own].split(size), latents[own].split(size))), []
        for number, (images, z) in enumerate(parts, 1):
            with telling_of_compilation(), processes.kept_apart(self.parallel, number < len(parts)):
                distance, total = self.compare(images, z)
                (weight * total.sum()).backward()
            found.append(distance.detach().float())
        losses[share] = torch.cat(found)[: len(losses[share])]
        return processes.summed(losses)

    def compare(self, images: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances (B,) of images numbered `images` (B,) to what `z` give, without and with their stages."""
        with self.autocast(self.config.train.precision):
            drawn = self.draw(z)
            *stages, image = drawn if self.heads else [drawn]
            maps = self.embedding(image)
        distance = self.distance(maps, self.targets.maps(images))
        if not stages:
            return distance, distance
        targets = shrunk(to_float(self.targets.images[images]), stages)
        weight = self.config.loss.stage_weight / len(stages)
        return distance, distance + weight * self.distance(stage_maps(stages), stage_maps(targets))

    def check_finite(self) -> None:
        """Raise UserError if a step was not finite. Nothing has been updated since; the host waits for the device."""
        failed = self.guard.failed_at()
        if failed is not None:
            raise self.diverged("the loss or its gradient", failed)

    def end_epoch(self, seconds: float, progress: tqdm) -> None:
        """Log the epoch, and show and save when it is time."""
        self.check_finite()
        epoch, last = self.step // self.steps_per_epoch, self.step == self.total_steps
        loss = self.losses.mean().item()
        self.log.row("train", self.step, {"epoch": epoch, "loss": loss, "lr": self.learning_rate(self.step - 1)}, seconds)
        progress.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if epoch % self.config.log.sheet_epochs == 0 or last:
            self.show()
        if epoch % self.config.log.checkpoint_epochs == 0 and not last:
            self.save("last")

    @torch.no_grad()
    def show(self) -> None:
        """Save sheets at fixed latents, score the average, and keep it if it is the best so far; the main process does."""
        if not processes.is_main():
            return
        with memory_for("the sheets and the score", f"lower log.num_scored (now {self.config.log.num_scored})"):
            score = self.draw_and_score()
        if self.step and score < self.best:
            self.best = score
            self.save("best")

    def draw_and_score(self) -> float:
        """Save sheets at fixed latents, and return the energy distance of samples of the average to the training images."""
        samples = generate(self.ema.module, self.sample_latents(max(SHEET, self.config.log.num_scored)))
        self.log.sheet("samples", self.step, to_uint8(samples[:SHEET]).cpu(), 8)
        if self.step:
            pairs = torch.stack([self.targets.images[:32], to_uint8(generate(self.generator, self.latents[:32]))], dim=1)
            self.log.sheet("matches", self.step, pairs.flatten(0, 1).cpu(), 8)
        features = embed(self.search_features, to_uint8(samples[: self.config.log.num_scored]))  # as they are exported
        score = energy_distance(features, self.targets.features)
        self.log.row("score", self.step, {
            "energy_distance": score,
            "sample_to_nearest": distances(features, self.targets.features).amin(dim=1).median().item(),
            "image_to_nearest": nearest_other(self.targets.features).median().item(),
        }, 0.0)  # fmt: skip
        return score

    def save(self, name: str) -> None:
        """Write everything that the rest of the run depends on. Raises UserError for what is not finite."""
        self.check_finite()
        if not torch.isfinite(nn.utils.get_total_norm(self.network.parameters())):
            raise self.diverged("a weight", self.step)
        if processes.is_main():
            selected_by = {"selected_by": "energy_distance"} if name == "best" else {}
            checkpoint.save(self.state() | selected_by, self.log.folder / "checkpoints" / f"{name}.pt")
        if name == "last":
            self.saved_step = self.step

    def diverged(self, what: str, step: int) -> UserError:
        """Return the error to raise, with nothing updated or saved since, when `what` was not finite at `step`."""
        good = f"checkpoints/last.pt, of step {self.saved_step}, is good" if self.saved_step is not None else "nothing is saved yet"
        return UserError(f"{what} is not finite at step {step}, and the run was stopped before using it; {good}. "
                         "Lower train.learning_rate and run again, or begin anew with another --run")  # fmt: skip

    def state(self) -> dict:
        """Return everything that the rest of the run depends on."""
        return {
            "config": to_dict(self.config), "data": self.data, "step": self.step, "refreshes": self.refreshes,
            "generator": self.generator.state_dict(), "ema": self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(), "latents": self.latents, "losses": self.losses,
            "objective": self.objective.state_dict(), "best": self.best, "log_position": self.log.position(),
        } | ({"heads": self.heads.state_dict()} if self.heads else {}) \
          | ({"usual_norms": self.clipping.usual} if self.clipping else {})  # fmt: skip

    def load_state(self, state: dict) -> None:
        """Go on from what `state` returned, perhaps under settings that have changed since in a way that resume allows."""
        self.step, self.refreshes, self.best = state["step"], state["refreshes"], state["best"]
        self.saved_step = self.step
        self.generator.load_state_dict(state["generator"])
        self.ema.module.load_state_dict(state["ema"])
        if self.heads:
            self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:  # which the state brings as they were
            group["weight_decay"] = self.config.train.weight_decay
        if self.clipping and "usual_norms" in state:  # not where clipping was asked for later
            self.clipping.usual.copy_(state["usual_norms"])
        self.latents.copy_(state["latents"])
        self.losses.copy_(state["losses"])
        self.objective.load_state_dict(state["objective"])

    def batch(self, step: int) -> Tensor:
        """Return the numbers of the images in a step's batch."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self.order[0] != epoch:
            self.order = epoch, send(rng.permutation(self.n, self.config.seed, "order", epoch), self.device)
        size = self.config.train.batch_size
        return self.order[1][position * size : (position + 1) * size]

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        settings = self.config.train
        rate = settings.learning_rate * min(1.0, (step + 1) / (settings.warmup_steps + 1))
        if settings.schedule == "cosine":
            rate *= (1 + math.cos(math.pi * step / self.total_steps)) / 2
        elif settings.schedule == "step":
            rate *= settings.decay_factor ** (step // (settings.decay_epochs * self.steps_per_epoch))
        return rate

    def sample_latents(self, num: int) -> Tensor:
        """Return the latents of seeds 0 to `num`, (num, latent_dim)."""
        return rng.sample_latents(list(range(num)), self.config.model.latent_dim).to(self.device)

    def autocast(self, precision: str) -> torch.autocast:
        """Compute in bf16 where `precision` says so."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    @torch.inference_mode()
    def embed_latents(self, latents: Tensor) -> Tensor:
        """Return the search features (B, D) of the images of `latents`."""
        with self.autocast(self.config.train.precision):
            return self.search_features(self.generator(send(latents, self.device)).to(latents.dtype))


def load_embeddings(config: Config, device: torch.device, pretrained: bool = True) -> tuple[Embedding, SearchFeatures]:
    """Return the training embedding and the search features, which share it where `imle.features` is `loss`.

    Raises MissingWeights.
    """
    settings = config.imle
    embedding = load_embedding(config.loss.perceptual, config.loss.pixel_weight, pretrained)
    compared = embedding if settings.features == "loss" else load_embedding(settings.features, pretrained=pretrained)
    search_features = SearchFeatures(compared, sketch_dim=settings.sketch_dim, normalise=settings.normalise, seed=config.seed)
    embedding.to(device, memory_format=torch.channels_last)
    return embedding, search_features.to(device, memory_format=torch.channels_last)
