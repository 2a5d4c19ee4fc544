"""IMLE (Li & Malik 2018), Adaptive IMLE (Aghabozorgi et al. 2023) and RS-IMLE (Vashist et al. 2024): `step` is the algorithm.

Which images take a new match, and when, is in imle.objectives; how a pool is drawn, rejected and matched in imle.refresh.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imle.distance import make_distance
from imle.drawing import build_generator
from imle.features import SearchFeatures
from imle.objectives import OBJECTIVES
from imle.refresh import Refresher
from imle.search import PoolMatcher
from imle.settings import Config
from imle.targets import Targets, embed
from models.generator import Generator
from models.memory import memory_for
from models.perceptual import Embedding, load_embedding
from models.pixels import to_float, to_uint8
from models.stages import Staged, make_heads, shrunk, stage_maps
from training import rng
from training.device import send
from training.learner import Learner
from training.sampling import generate
from training.settings import to_dict
from training.trainer import Work

Networks = tuple[Generator, Embedding, SearchFeatures]  # generator, training embedding, search features


class Imle:
    """Pull the match of every image towards it."""

    log: Callable[[str, int, dict[str, float], float], None]

    def __init__(
        self,
        config: Config,
        images: Tensor,
        *,
        device: torch.device,
        pretrained: bool = True,
        networks: Callable[[Config, torch.device, bool], Networks] | None = None,
    ):
        """Prepare to learn uint8 `images` (n, 3, H, W). Raises MissingWeights.

        `networks` makes others than the settings ask for.
        """
        self.config, self.device, n = config, device, len(images)
        torch.manual_seed(rng.generator(config.seed, "weights").initial_seed())
        self.generator, embedding, self.search_features = (networks or make_networks)(config, device, pretrained)
        # Heads are made after the generator, which so begins the same with them and without.
        network = Staged(self.generator, make_heads(self.generator).to(device)) if config.loss.stage_weight else self.generator
        self.learner = Learner(network, config.train, n=n, device=device, averaged=self.generator)
        self.distance = make_distance(config.loss)
        self.targets = Targets(images.to(device), embedding, self.search_features, config.loss.cache_gb * 1e9)
        self.embedding = torch.compile(embedding) if config.train.compile else embedding  # of a step; the pool's are not compiled
        self.refresher = Refresher(config, self.targets.features)
        self.objective = OBJECTIVES[config.imle.match](config.imle, n, self.learner.steps_per_epoch)
        self.latents = torch.zeros(n, config.model.latent_dim, device=device)  # z*, every image's match
        self.losses = torch.zeros(n, device=device)  # every image's loss when it was last trained on
        self.refreshes = 0

    @property
    def features(self) -> Tensor:
        """Return the search features (n, D) of the images."""
        return self.targets.features

    def step(self, index: Tensor, step: int) -> None:
        """Take step number `step` on the images numbered `index` (B,), x_i. Vashist et al. 2024, algorithm 1.

        Raises Diverged.
        """
        self.rematch(step)  # where it is time: draw z_1 ... z_m, reject T(z_j) within epsilon of any x_i, sigma(i) = nearest of the rest
        self.pull(index, step)  # theta <- theta - eta * gradient of the sum over i of d(x_i, T_theta(z_sigma(i)))

    def rematch(self, step: int) -> None:
        """Give a new latent to every image that asks for one."""
        asking = self.objective.asking(step, self.losses)
        if asking is None:
            return
        offers, started = None, time.monotonic()
        if self.objective.needs_pool(asking):
            with memory_for("the pool", f"lower imle.pool_batch (now {self.config.imle.pool_batch})"):
                matches = self.refresher.refresh(self.embed_latents, self.refreshes)
            offers, self.refreshes = matches.latents, self.refreshes + 1
            self.log("refresh", step, matches.diagnostics, time.monotonic() - started)
        self.latents[asking.to(self.device)] = self.objective.take(asking, offers).to(self.device)

    def pull(self, index: Tensor, step: int) -> None:
        """Pull the matches of the images numbered `index` (B,) towards these."""
        latents = self.latents[index]
        if self.config.imle.perturbation:
            noise = rng.normal(tuple(latents.shape), self.config.seed, "perturb", step)
            latents = latents + self.config.imle.perturbation * send(noise, self.device)
        self.losses[index] = self.learner.step((index, latents), self.loss, step)

    def loss(self, index: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances (B,) of images numbered `index` (B,) to what `z` give, with and without their stages."""
        with self.autocast():
            drawn = self.learner.forward(z)
            *stages, image = drawn if isinstance(self.learner.network, Staged) else [drawn]
            maps = self.embedding(image)
        distance = self.distance(maps, self.targets.maps(index))
        if not stages:
            return distance, distance
        targets = shrunk(to_float(self.targets.images[index]), stages)
        weight = self.config.loss.stage_weight / len(stages)
        return distance + weight * self.distance(stage_maps(stages), stage_maps(targets)), distance

    @torch.inference_mode()
    def embed_latents(self, latents: Tensor) -> Tensor:
        """Return the search features (B, D) of the images of `latents`."""
        with self.autocast():
            return self.search_features(self.generator(send(latents, self.device)).to(latents.dtype))

    def autocast(self) -> torch.autocast:
        """Compute in bf16 where `train.precision` says so."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.train.precision == "bf16")

    def draw(self, seeds: list[int]) -> Tensor:
        """Return float images (N, 3, H, W) of the average, one per seed."""
        return generate(self.learner.ema.module, rng.sample_latents(seeds, self.config.model.latent_dim).to(self.device))

    def embed(self, images: Tensor) -> Tensor:
        """Return the search features (N, D) of uint8 images (N, 3, H, W)."""
        return embed(self.search_features, images)

    def sheets(self) -> dict[str, Tensor]:
        """Return the first images, each beside what its match gives."""
        pairs = torch.stack([self.targets.images[:32], to_uint8(generate(self.generator, self.latents[:32]))], dim=1)
        return {"matches": pairs.flatten(0, 1).cpu()}

    def numbers(self, step: int) -> dict[str, float]:
        """Return the mean loss and the last learning rate."""
        return {"loss": self.losses.mean().item(), "lr": self.learner.learning_rate(step - 1)}

    def facts(self) -> dict[str, str]:
        """Return the size of the generator, and of the targets' maps."""
        with FlopCounterMode(display=False) as counter:
            self.generator(self.latents[:1])
        over = "" if self.targets.cached else ", over loss.cache_gb: embedded again at each step"
        return {
            "parameters": f"{sum(p.numel() for p in self.generator.parameters()):,}",
            "an image": f"{counter.get_total_flops() / 2e9:.3f} GMAC forward",
            "a pool": f"{self.refresher.pool_size:,} candidates",
            "cached targets": f"{self.targets.map_bytes / 1e9:.2f} GB{over}",
        }

    def work(self) -> dict[str, Work]:
        """Return a step without a refresh, and one batch of a refresh's pool."""
        settings = self.config.imle
        latents = torch.randn(settings.pool_batch, self.config.model.latent_dim)
        index = torch.arange(min(self.config.train.batch_size, len(self.latents)), device=self.device)

        def match() -> None:
            PoolMatcher(self.features, torch.zeros(()), settings.search).offer(self.embed_latents(latents), 0)

        epochs = max(1, settings.staleness if settings.match == "adaptive" else settings.refresh_epochs)
        return {
            "a step": Work(lambda: self.pull(index, 0), self.learner.steps_per_epoch),
            "a refresh": Work(match, 1 / epochs, settings.pool_batch / self.refresher.pool_size),
        }

    def check(self, step: int, weights: bool = False) -> None:
        """Raise Diverged if something was not finite before `step`, with `weights` also in the weights."""
        self.learner.check(step, weights)

    def state_dict(self) -> dict:
        """Return all that the next steps depend on, but for the average."""
        return {
            "learner": self.learner.state_dict(),
            "latents": self.latents,
            "losses": self.losses,
            "refreshes": self.refreshes,
            "objective": self.objective.state_dict(),
        }

    def sampled(self) -> dict:
        """Return the weights of the average."""
        return self.learner.ema.module.state_dict()

    def load_state_dict(self, state: dict, sampled: dict) -> None:
        """Go on from what the two returned."""
        self.learner.load_state_dict(state["learner"], sampled)
        self.latents.copy_(state["latents"])
        self.losses.copy_(state["losses"])
        self.refreshes = state["refreshes"]
        self.objective.load_state_dict(state["objective"])


def make_networks(config: Config, device: torch.device, pretrained: bool = True) -> Networks:
    """Return the untrained generator, the training embedding and the search features, which share it where `imle.features` is `loss`.

    Raises MissingWeights.
    """
    settings = config.imle
    generator = build_generator(to_dict(config)).to(device)
    embedding = load_embedding(config.loss.perceptual, config.loss.pixel_weight, pretrained)
    compared = embedding if settings.features == "loss" else load_embedding(settings.features, pretrained=pretrained)
    search_features = SearchFeatures(compared, sketch_dim=settings.sketch_dim, normalise=settings.normalise, seed=config.seed)
    for network in (embedding, search_features):
        network.to(device).to(memory_format=torch.channels_last)
    return generator, embedding, search_features
