"""Score-based diffusion models (Song et al., ICLR 2021, arXiv 2011.13456), from scratch or from a prior that a few images adapt.

A prior learns ten images by heart in a few hundred steps, and stopping early is then the whole method: a run with held-out
images (data.holdout) chooses best.pt by their bits per dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from baselines.denoiser import Denoiser, draw
from baselines.likelihood import bits_per_dim
from baselines.prior import find_prior, same_prior
from baselines.sde import EARLIEST, KINDS, diffusion_of, noised, score_matching
from baselines.solvers import SOLVERS
from errors import UserError
from models.perceptual import load_embedding, spatial_means
from models.pixels import to_float
from models.precision import autocast, computing, true_fp32
from models.unet import HEAD, architecture
from training import rng
from training.learner import Learner
from training.settings import Settings, setting
from training.trainer import Work

FEATURES = "effnet-lite0"  # network of the score that chooses best.pt without held-out images
WATCHED = 4  # images of each kind whose bits per dimension are logged


@dataclass(frozen=True)
class Network:
    """The denoiser."""

    prior: str = setting(
        "",
        "trained denoiser to start from: emoji-32, a run, checkpoint or export of score-sde, or a folder of diffusers; empty: none",
        fixed=True,
    )
    channels: list[int] = setting(
        [], f"widths from the full resolution down, multiples of {HEAD}; empty: the prior's", least=HEAD, fixed=True
    )

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        if self.prior and self.channels:
            raise UserError("denoiser.channels: the prior has its own widths; leave this setting out")
        if not self.prior and not self.channels:
            raise UserError(
                f"denoiser.channels: give widths, such as denoiser.channels=[{HEAD},{2 * HEAD}], or start from a denoiser.prior"
            )
        if odd := [width for width in self.channels if width % HEAD]:
            raise UserError(f"denoiser.channels: {odd[0]} is not a multiple of {HEAD}")


@dataclass(frozen=True)
class Noising:
    """The diffusion, and how it is trained."""

    kind: str = setting("vp", "variance preserving, variance exploding, or sub-variance preserving", choices=KINDS, fixed=True)
    sigma_max: float = setting(50.0, "standard deviation of ve's most noise, for pixels in [0, 1]", least=1.0, most=1e4, fixed=True)
    likelihood_weighting: bool = setting(False, "weight the loss so that it bounds the likelihood")


@dataclass(frozen=True)
class Sampling:
    """How a sample is made."""

    solver: str = setting(
        "ddim", "ddim; pc: predictor-corrector, which needs hundreds of steps; ode: probability flow by Runge-Kutta", choices=SOLVERS
    )
    steps: int = setting(25, "steps from noise to image; ode evaluates the network four times in each, pc twice", least=1, most=10_000)


@dataclass(frozen=True)
class Config(Settings):
    """All settings of a run of score-sde."""

    method: str = setting("score-sde", "method to train", fixed=True)
    denoiser: Network = field(default_factory=Network)
    sde: Noising = field(default_factory=Noising)
    sampling: Sampling = field(default_factory=Sampling)

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        super().check()
        self.only_rgb()
        if self.train.start_from:
            raise UserError("train.start_from: score-sde starts from a denoiser.prior; name the run there")
        self.denoiser.check()


class ScoreSde:
    """Train a denoiser on noised images."""

    log: Callable[[str, int, dict[str, float], float], None]
    chosen_by = "heldout_bits_per_dim"

    def __init__(self, config: Config, images: Tensor, *, device: torch.device, pretrained: bool = True):
        """Prepare to train on uint8 `images` (n, 3, H, W). Raises MissingWeights, and UserError for a prior that does not fit."""
        self.config, self.device, n = config, device, len(images)
        self.images = images.to(device)
        self.diffusion = diffusion_of(config.sde.kind, config.sde.sigma_max)
        self.prior: dict[str, str] | None = None
        torch.manual_seed(rng.generator(config.seed, "weights").initial_seed())
        if config.denoiser.prior:
            prior = find_prior(config.denoiser.prior)
            prior.check(config.sde.kind, config.sde.sigma_max)
            self.unet, self.prior = prior.unet, prior.record
            network = Denoiser(self.unet, self.diffusion)
            network.load_state_dict(prior.weights)
        else:
            self.unet = architecture(max(images.shape[2:]), config.denoiser.channels, exploding=config.sde.kind == "ve")
            network = Denoiser(self.unet, self.diffusion)
        network.check(images.shape[2:])
        self.learner = Learner(network.to(device), config.train, n=n, device=device)
        self.embedding = load_embedding(FEATURES, pretrained=pretrained).to(device).to(memory_format=torch.channels_last)
        self.features = self.embed(self.images)
        self.losses = torch.zeros(n, device=device)  # of each image's last step

    def step(self, index: Tensor, step: int) -> None:
        """Take step `step` on the images numbered `index` (B,): equation 7, with a time and a noise for each. Raises Diverged."""
        random = rng.generator(self.config.seed, "step", step)
        t = EARLIEST + (1 - EARLIEST) * torch.rand(len(index), generator=random)
        eps = torch.randn(len(index), *self.images.shape[1:], generator=random)
        with computing(self.config.train.precision):
            batch = to_float(self.images[index]), t.to(self.device), eps.to(self.device)
            self.losses[index] = self.learner.step(batch, self.loss, step)

    def loss(self, images: Tensor, t: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the denoising losses (B,) of images (B, 3, H, W) at times `t` (B,) with noise `eps`, twice."""
        with autocast(self.config.train.precision, self.device):
            predicted = self.learner.forward(noised(self.diffusion, images, t, eps), t)
        losses = score_matching(self.diffusion, predicted.float(), eps, t, self.config.sde.likelihood_weighting)
        return losses, losses

    @property
    def average(self) -> Denoiser:
        """Return the EMA."""
        assert isinstance(self.learner.ema.module, Denoiser)
        return self.learner.ema.module

    def draw(self, seeds: list[int]) -> Tensor:
        """Generate float images (N, 3, H, W) with the EMA, one per seed."""
        sampling = self.config.sampling
        shape = self.images.shape[1:]
        return draw(self.average, sampling.solver, sampling.steps, shape=shape, seeds=seeds, device=self.device)

    def embed(self, images: Tensor) -> Tensor:
        """Return the spatial means (N, D) of the perceptual maps of uint8 images (N, 3, H, W)."""
        return spatial_means(self.embedding, images, self.device)

    def watch(self, most: int, heldout: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return no further sheets, and the EMA's bits per dimension of some training and held-out images."""
        kinds = {"train_bits_per_dim": self.images, "heldout_bits_per_dim": heldout}
        return {}, {name: self.bits(images[: min(most, WATCHED)]) for name, images in kinds.items() if len(images)}

    def bits(self, images: Tensor) -> float:
        """Return the mean bits per dimension of uint8 images (N, 3, H, W)."""
        with true_fp32(self.device):
            found = bits_per_dim(self.average, self.diffusion, images.to(self.device), lambda row: rng.generator(0, "bits", row))
        return found.mean().item()

    def numbers(self, step: int) -> dict[str, float]:
        """Return the mean loss, and the learning rate of the step before `step`."""
        return {"loss": self.losses.mean().item(), "lr": self.learner.learning_rate(step - 1)}

    def facts(self) -> dict[str, str]:
        """Return the size of the network, and what it starts from."""
        return {
            "parameters": f"{sum(p.numel() for p in self.learner.network.parameters()):,}",
            "prior": self.prior["name"] if self.prior else "none",
        }

    def work(self) -> dict[str, Work]:
        """Return the job of a step."""
        index = torch.arange(min(self.config.train.batch_size, len(self.images)), device=self.device)
        return {"a step": Work(lambda: self.step(index, 0), self.config.train.steps_per_epoch(len(self.images)))}

    def check(self, step: int, weights: bool = False) -> None:
        """Raise Diverged if a step before `step`, or with `weights` a weight, is not finite."""
        self.learner.check(step, weights)

    def state_dict(self) -> dict:
        """Return everything that the next steps depend on, except the EMA."""
        return {"learner": self.learner.state_dict(), "losses": self.losses}

    def sampled(self) -> dict:
        """Return the EMA of the denoiser: the settings and weights of its U-Net, and the prior that it started from."""
        return {"unet": self.unet, "weights": self.average.state_dict(), "prior": self.prior}

    def load_state_dict(self, state: dict, sampled: dict) -> None:
        """Restore what `state_dict` and `sampled` returned. Raises UserError if the prior is another by now."""
        same_prior(sampled["prior"], self.prior)
        self.learner.load_state_dict(state["learner"], sampled["weights"])
        self.losses.copy_(state["losses"])
