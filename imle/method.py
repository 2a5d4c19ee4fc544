"""IMLE (Li & Malik 2018), Adaptive IMLE (Aghabozorgi et al. 2023) and RS-IMLE (Vashist et al. 2024): `step` is the algorithm.

imle.objectives decides which images take a new match, and when. imle.refresh draws a pool, rejects and matches.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imle.drawing import build_generator
from imle.features import SearchFeatures
from imle.objectives import OBJECTIVES
from imle.refresh import Refresher
from imle.search import PoolMatcher
from imle.settings import Config
from imle.targets import Targets, embed
from models.generator import Generator
from models.memory import memory_for
from models.perceptual import Embedding, load_embedding, squared_distance
from models.pixels import to_float, to_uint8
from models.precision import SIXTEEN_BITS, autocast, computing
from models.stages import Staged, make_heads, shrunk, stage_maps
from training import rng
from training.compiling import compiled
from training.device import send
from training.drawing import generate
from training.learner import Learner
from training.scores import detail_correlation, energy_distance
from training.settings import to_dict
from training.start import take
from training.trainer import Work
from training.transform import background

Networks = tuple[Generator, Embedding, SearchFeatures]  # generator, training embedding, search features


class Imle:
    """Train a generator: match every image to a latent, and pull the latent's sample towards the image."""

    log: Callable[[str, int, dict[str, float], float], None]
    chosen_by = "energy_distance"

    def __init__(
        self,
        config: Config,
        images: Tensor,
        *,
        device: torch.device,
        pretrained: bool = True,
        networks: Callable[[Config, torch.device, bool], Networks] | None = None,
    ):
        """Prepare to train on uint8 `images` (n, C, H, W). Raises MissingWeights.

        `networks` replaces `make_networks`.
        """
        self.config, self.device, n = config, device, len(images)
        torch.manual_seed(rng.generator(config.seed, "weights").initial_seed())
        self.generator, embedding, self.search_features = (networks or make_networks)(config, device, pretrained)
        # The heads come after the generator, so that its initial weights are the same with and without them.
        network = Staged(self.generator, make_heads(self.generator).to(device)) if config.loss.stage_weight else self.generator
        self.learner = Learner(network, config.train, n=n, device=device, averaged=self.generator)
        self.targets = Targets(images.to(device), embedding, self.search_features, config.loss.cache_gb)
        self.embedding = compiled(embedding) if config.train.compile else embedding  # for steps; a pool uses the plain networks
        self.refresher = Refresher(config, self.targets.features)
        self.objective = OBJECTIVES[config.imle.match](config.imle, n, self.learner.steps_per_epoch)
        self.latents = torch.zeros(n, config.model.latent_dim, device=device)  # z_sigma(i), the match of image i
        self.losses = torch.zeros(n, device=device)  # each image's loss at its last step
        self.maps_type = SIXTEEN_BITS.get(config.train.precision)  # of the generator's maps in steps and pools
        self.refreshes = 0

    @property
    def features(self) -> Tensor:
        """Return the search features (n, D) of the images."""
        return self.targets.features

    def step(self, index: Tensor, step: int) -> None:
        """Take step `step` on the batch S = `index` (B,) of images x_i: algorithm 1 of Vashist et al. 2024. Raises Diverged.

        Notation: n images x_i, generator G with weights theta, m latents z_j, rejection radius epsilon. The distance d
        compares search features in a refresh, and the training embedding's maps in an update.
        """
        # If a refresh is due:
        #   draw a pool              z_1, ..., z_m ~ N(0, I)
        #   reject near candidates   drop z_j if d(x_i, G(z_j)) < epsilon for any i = 1, ..., n   (other rules: imle.epsilon)
        #   match every image        sigma(i) = argmin over the remaining j of d(x_i, G(z_j))
        self.rematch(step)
        # Update the generator       theta <- theta - eta * gradient of (1 / B) * sum over i in S of d(x_i, G(z_sigma(i)))
        self.pull(index, step)

    def rematch(self, step: int) -> None:
        """Give a new match to every image that asks for one before step `step`."""
        asking = self.objective.asking(step, self.losses)
        if asking is None:
            return
        offers, started = None, time.monotonic()
        if self.objective.needs_pool(asking):
            with memory_for("the pool", f"lower imle.pool_batch (now {self.config.imle.pool_batch})"):
                matches = self.refresher.refresh(self.embed_latents, self.refreshes)
            offers, self.refreshes = matches.latents, self.refreshes + 1
            before = {"loss_before": self.losses.mean().item()} if step else {}  # of the old matches, each at its last step
            self.log("refresh", step, {**matches.diagnostics, **before}, time.monotonic() - started)
        self.latents[asking.to(self.device)] = self.objective.take(asking, offers).to(self.device)

    def pull(self, index: Tensor, step: int) -> None:
        """Take a gradient step that pulls the matches' samples towards the images numbered `index` (B,)."""
        latents = self.latents[index]
        if self.config.imle.perturbation:
            noise = rng.normal(tuple(latents.shape), self.config.seed, "perturb", step)
            latents = latents + self.config.imle.perturbation * send(noise, self.device)
        batch: tuple[Tensor, ...] = index, latents
        if self.targets.transparent:  # over a colour that says nothing, so that colours and opacity must both be right
            levels = torch.rand(len(index), 3, generator=rng.generator(self.config.seed, "background", step))
            batch = *batch, send(2 * levels - 1, self.device)
        with computing(self.config.train.precision):
            self.losses[index] = self.learner.step(batch, self.loss, step)

    def loss(self, index: Tensor, z: Tensor, *background: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distances (B,) between the images numbered `index` (B,) and the samples of `z` (B, latent_dim).

        If they are transparent, both lie over a tensor `background` of colours (B, 3) in [-1, 1]. Two tensors: the distance to minimise,
        which includes the stages' errors, and the distance to report, without them.
        """
        drawn = self.learner.forward(z, self.maps_type)
        *stages, image = drawn if isinstance(self.learner.network, Staged) else [drawn]
        with autocast(self.config.train.precision, self.device):
            maps = self.embedding(image, *background)
        distance = squared_distance(maps, self.targets.maps(index, *background))
        if not stages:
            return distance, distance
        targets = shrunk(to_float(self.targets.images[index]), stages)
        weight = self.config.loss.stage_weight / len(stages)
        return distance + weight * squared_distance(stage_maps(stages), stage_maps(targets)), distance

    @torch.inference_mode()
    def embed_latents(self, latents: Tensor) -> Tensor:
        """Return the search features (B, D) of the generator's images of `latents` (B, latent_dim)."""
        with computing(self.config.train.precision):
            images = self.generator(send(latents, self.device), self.maps_type)
            with autocast(self.config.train.precision, self.device):
                return self.search_features(images)

    def draw(self, seeds: list[int]) -> Tensor:
        """Generate float images (N, C, H, W) with the EMA, one per seed."""
        return generate(self.learner.ema.module, rng.sample_latents(seeds, self.config.model.latent_dim).to(self.device))

    def embed(self, images: Tensor) -> Tensor:
        """Return the search features (N, D) of uint8 images (N, C, H, W)."""
        return embed(self.search_features, images)

    def watch(self, most: int, heldout: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return a sheet of the first 32 images, each followed by its match's sample, and scores of the first `most` matches.

        Beside the samples' energy distance, that of the matches says what fitting has reached. It can be negative, because
        matches are not independent of the images.
        """
        images = self.targets.images[:most]
        matched = to_uint8(generate(self.generator, self.latents[:most]))
        pairs = torch.stack([images[:32], matched[:32]], dim=1)
        scores = {
            "matched_energy_distance": energy_distance(self.embed(matched), self.features),
            "matched_detail": detail_correlation(matched, images),
        }
        return {"matches": pairs.flatten(0, 1).cpu()}, scores

    def numbers(self, step: int) -> dict[str, float]:
        """Return the mean loss, and the learning rate of the step before `step`."""
        return {"loss": self.losses.mean().item(), "lr": self.learner.learning_rate(step - 1)}

    def facts(self) -> dict[str, str]:
        """Return the sizes of the generator, the pool and the targets' maps."""
        with FlopCounterMode(display=False) as counter:
            self.generator(self.latents[:1])
        most = f"{self.targets.most_bytes / 1e9:.2f} GB (loss.cache_gb={self.config.loss.cache_gb})"
        over = "" if self.targets.cached else f", more than {most}: each step embeds its images again"
        size = f"{self.targets.map_bytes / 1e9:.2f} GB{over}"
        return {
            "parameters": f"{sum(p.numel() for p in self.generator.parameters()):,}",
            "an image": f"{counter.get_total_flops() / 2e9:.3f} GMAC forward",
            "a pool": f"{self.refresher.pool_size:,} candidates",
            "cached targets": "none: every step lays its images over other colours" if self.targets.transparent else size,
        }

    def work(self) -> dict[str, Work]:
        """Return two jobs: a step without a refresh, and one batch of a refresh's pool."""
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
        """Raise Diverged if a step before `step`, or with `weights` a weight, is not finite."""
        self.learner.check(step, weights)

    def start(self, source: dict) -> dict[str, str]:
        """Take the weights that fit from the content of a checkpoint or an export; return what became of each part."""
        theirs = build_generator(source["config"])
        theirs.load_state_dict(source["sampled"])
        fates = take(self.generator.parts(), theirs.parts())
        self.learner.ema.module.load_state_dict(self.generator.state_dict())
        return fates

    def state_dict(self) -> dict:
        """Return everything that the next steps depend on, except the EMA."""
        return {
            "learner": self.learner.state_dict(),
            "latents": self.latents,
            "losses": self.losses,
            "refreshes": self.refreshes,
            "objective": self.objective.state_dict(),
        }

    def sampled(self) -> dict:
        """Return the weights of the EMA."""
        return self.learner.ema.module.state_dict()

    def load_state_dict(self, state: dict, sampled: dict) -> None:
        """Restore what `state_dict` and `sampled` returned."""
        self.learner.load_state_dict(state["learner"], sampled)
        self.latents.copy_(state["latents"])
        self.losses.copy_(state["losses"])
        self.refreshes = state["refreshes"]
        self.objective.load_state_dict(state["objective"])


def make_networks(config: Config, device: torch.device, pretrained: bool = True) -> Networks:
    """Return the untrained generator, the training embedding and the search features. Raises MissingWeights.

    If `imle.features` is `loss`, the search features use the training embedding.
    """
    settings = config.imle
    generator = build_generator(to_dict(config)).to(device)
    under = background(to_dict(config))
    embedding = load_embedding(config.loss.perceptual, config.loss.pixel_weight, pretrained, under)
    compared = embedding if settings.features == "loss" else load_embedding(settings.features, 0.0, pretrained, under)
    search_features = SearchFeatures(compared, sketch_dim=settings.sketch_dim, normalise=settings.normalise, seed=config.seed)
    for network in (embedding, search_features):
        network.to(device).to(memory_format=torch.channels_last)
    return generator, embedding, search_features
