"""FastGAN (Liu et al., ICLR 2021, arXiv 2101.04775): a light GAN whose discriminator also reconstructs the real images.

Written from the paper. The critic's loss is the hinge loss with random margins plus the reconstruction's perceptual distance
(equations 2 and 3), the painter's is minus the critic's logits (equation 4).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.augment import CHANGES, augment
from baselines.drawing import build_fastgan
from errors import UserError
from models.fastgan import Discriminator, Generator, Pair, cut, shrunk
from models.perceptual import TEACHERS, load_embedding, spatial_means, squared_distance
from models.pixels import to_float
from models.precision import autocast, computing, true_fp32
from training import processes, rng
from training.drawing import generate
from training.learner import Learner
from training.settings import Settings, resolution, setting
from training.start import Parts, take
from training.trainer import Work

SIDES = (32, 64, 128, 256, 512)
MARGINS = 0.8, 1.0  # between which the margin of every logit is drawn
SETTLING = 512  # latents over which the statistics of batch norm are taken
CHUNK = 64


@dataclass(frozen=True)
class Section:
    """The method."""

    latent_dim: int = setting(256, "length of a latent z", least=1, fixed=True)
    width: int = setting(64, "width of the generator's maps of 128 pixels; all other widths follow", least=4, most=512, fixed=True)
    perceptual: str = setting("lpips-vgg", "network that compares reconstructions with real images", choices=TEACHERS, fixed=True)
    augment: list[str] = setting(["colour", "translation"], f"changes of DiffAugment, of {', '.join(CHANGES)}", fixed=True)


@dataclass(frozen=True)
class Config(Settings):
    """All settings of a run of FastGAN."""

    method: str = setting("fastgan", "method to train", fixed=True)
    fastgan: Section = field(default_factory=Section)

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        super().check()
        self.only_rgb()
        height, width = resolution(self)
        if height != width or height not in SIDES:
            raise UserError(f"data.resolution: FastGAN draws squares of {', '.join(map(str, SIDES))} pixels, not {height} x {width}")
        for name in self.fastgan.augment:
            if name not in CHANGES:
                raise UserError(f"fastgan.augment: {name!r} is not one of {', '.join(CHANGES)}")
        if self.train.micro_batch:
            raise UserError("train.micro_batch: batch norm needs the whole batch, so FastGAN cannot split it; set it to 0")


class FastGan:
    """Train a generator, the painter, against a discriminator, the critic."""

    log: Callable[[str, int, dict[str, float], float], None]
    chosen_by = "energy_distance"

    def __init__(self, config: Config, images: Tensor, *, device: torch.device, pretrained: bool = True):
        """Prepare to train on uint8 `images` (n, 3, H, W). Raises MissingWeights, and UserError for several processes."""
        if processes.count() > 1:
            raise UserError("method: fastgan trains in one process, because batch norm needs the whole batch; leave out --processes")
        self.config, self.device, n = config, device, len(images)
        self.images, side = images.to(device), images.shape[-1]
        torch.manual_seed(rng.generator(config.seed, "weights").initial_seed())
        self.generator = Generator(side, config.fastgan.width, config.fastgan.latent_dim).to(device)
        self.discriminator = Discriminator(side, config.fastgan.width).to(device)
        self.painter = Learner(Pair(self.generator).to(device), config.train, n=n, device=device, averaged=self.generator)
        self.critic = Learner(self.discriminator, config.train, n=n, device=device, averaged=nn.Identity())
        self.painter.moved = self.critic.moved = self.painter.moved + self.critic.moved  # each loss goes through both networks
        self.embedding = load_embedding(config.fastgan.perceptual, pretrained=pretrained).to(device).to(memory_format=torch.channels_last)
        self.features = self.embed(self.images)
        self.losses, self.logits = torch.zeros(n, device=device), torch.zeros(n, device=device)  # of each image's last step
        self.settled = False  # whether the EMA's batch norms have its own statistics

    def step(self, index: Tensor, step: int) -> None:
        """Take step `step` of the critic and of the painter on the images numbered `index` (B,). Raises Diverged."""
        torch.manual_seed(rng.generator(self.config.seed, "step", step).initial_seed())  # of all that this step draws
        self.settled = False
        z = torch.randn(len(index), self.config.fastgan.latent_dim, device=self.device)
        with computing(self.config.train.precision):
            self.losses[index] = self.critic.step((to_float(self.images[index]), z), self.critic_loss, step)
            self.discriminator.requires_grad_(False)  # the painter's step leaves no gradients there
            self.logits[index] = self.painter.step((z,), self.painter_loss, step)
            self.discriminator.requires_grad_(True)

    def critic_loss(self, real: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the critic's losses (B,), twice: hinge losses of real images and those of `z`, and the reconstruction's distances."""
        with torch.no_grad(), autocast(self.config.train.precision, self.device):
            drawn, second = (images.float() for images in self.painter.forward(z))
        changes, side = self.config.fastgan.augment, second.shape[-1]
        row, column = torch.randint(2, (2,), device=real.device)
        real = augment(real, changes)
        small = shrunk(real, side)
        with autocast(self.config.train.precision, self.device):
            logits, maps, last = self.critic.forward(real, small)
            decoded = self.discriminator.reconstructed(maps, last, (row, column))
            of_drawn, _, _ = self.critic.forward(augment(drawn, changes), augment(second, changes))
            targets = (small, shrunk(cut(real, (row, column)), side), small)
            distances = [self.distance(ours.float(), theirs) for ours, theirs in zip(decoded, targets)]
        losses = hinge(logits.float()) + hinge(-of_drawn.float()) + sum(distances)
        return losses, losses

    def painter_loss(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return minus the critic's mean logits (B,) of the images of latents `z` (B, latent_dim), twice."""
        with autocast(self.config.train.precision, self.device):
            images, seconds = (augment(each, self.config.fastgan.augment) for each in self.painter.forward(z))
            logits, _, _ = self.discriminator(images, seconds)
        losses = -logits.float().mean(dim=1)
        return losses, losses

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the perceptual distance (B,) between images `a`, which get a gradient, and `b`."""
        with torch.no_grad():
            maps = self.embedding(b)
        return squared_distance(self.embedding(a), maps)

    @torch.no_grad()
    def settle(self) -> None:
        """Give the EMA's batch norms the statistics of its own maps over fixed latents, so that a latent is one image."""
        if self.settled:
            return
        generator = self.painter.ema.module.eval()
        norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
            norm.train()
        with true_fp32(self.device):
            for latents in rng.normal((SETTLING, self.config.fastgan.latent_dim), self.config.seed, "settle").to(self.device).split(CHUNK):
                generator(latents)
        for norm, momentum in zip(norms, usual):
            norm.momentum = momentum
            norm.eval()
        self.settled = True

    def draw(self, seeds: list[int]) -> Tensor:
        """Generate float images (N, 3, H, W) with the EMA, one per seed."""
        self.settle()
        return generate(self.painter.ema.module, rng.sample_latents(seeds, self.config.fastgan.latent_dim).to(self.device))

    def embed(self, images: Tensor) -> Tensor:
        """Return the spatial means (N, D) of the perceptual maps of uint8 images (N, 3, H, W)."""
        return spatial_means(self.embedding, images, self.device)

    def watch(self, most: int, heldout: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return no further sheets and no further scores."""
        return {}, {}

    def numbers(self, step: int) -> dict[str, float]:
        """Return the mean losses of critic and painter, and the learning rate of the step before `step`."""
        rate = self.critic.learning_rate(step - 1)
        return {"loss": self.losses.mean().item(), "painter_loss": self.logits.mean().item(), "lr": rate}

    def facts(self) -> dict[str, str]:
        """Return the sizes of the networks."""
        networks = {"parameters": self.generator, "discriminator": self.discriminator}
        return {name: f"{sum(p.numel() for p in network.parameters()):,}" for name, network in networks.items()}

    def work(self) -> dict[str, Work]:
        """Return the job of a step."""
        index = torch.arange(min(self.config.train.batch_size, len(self.images)), device=self.device)
        return {"a step": Work(lambda: self.step(index, 0), self.config.train.steps_per_epoch(len(self.images)))}

    def check(self, step: int, weights: bool = False) -> None:
        """Raise Diverged if a step before `step`, or with `weights` a weight, is not finite."""
        self.critic.check(step, weights)
        self.painter.check(step, weights)

    def start(self, source: dict) -> dict[str, str]:
        """Take the weights that fit from the content of a checkpoint or an export; return what became of each part.

        The discriminator, which an export lacks, is taken whole or not at all: it judges images of one size.
        """
        theirs = build_fastgan(source["config"])
        theirs.load_state_dict(source["sampled"])
        parts = theirs.parts()
        if kept := source.get("method"):
            parts |= opponent(kept["painter"]["network"], kept["critic"]["network"])
        ours = self.generator.parts() | opponent(self.painter.network.state_dict(), self.discriminator.state_dict())
        fates = take(ours, parts)
        self.painter.ema.module.load_state_dict(self.generator.state_dict())
        return fates

    def state_dict(self) -> dict:
        """Return everything that the next steps depend on, except the EMA."""
        learners = {"painter": self.painter.state_dict(), "critic": self.critic.state_dict()}
        return learners | {"losses": self.losses, "logits": self.logits}

    def sampled(self) -> dict:
        """Return the weights of the EMA, with its batch norms' own statistics."""
        self.settle()
        return self.painter.ema.module.state_dict()

    def load_state_dict(self, state: dict, sampled: dict) -> None:
        """Restore what `state_dict` and `sampled` returned."""
        self.painter.load_state_dict(state["painter"], sampled)
        self.critic.load_state_dict(state["critic"], {})
        self.losses.copy_(state["losses"])
        self.logits.copy_(state["logits"])
        self.settled = True


def opponent(painter: dict[str, Tensor], critic: dict[str, Tensor]) -> Parts:
    """Return as one part what is for training only: the discriminator, and the painter's layer that makes the second image."""
    return {("discriminator",): critic | {name: weight for name, weight in painter.items() if not name.startswith("generator.")}}


def hinge(logits: Tensor) -> Tensor:
    """Return the mean hinge loss (B,) of logits (B, K) that should be above a margin, which is drawn for each."""
    low, high = MARGINS
    margins = low + (high - low) * torch.rand_like(logits)
    return F.relu(margins - logits).mean(dim=1)
