"""CRDI: few-shot images from a frozen diffusion model by guidance that is computed (Cao & Gong, ECCV 2024, arXiv 2407.07249).

Each image i and each step of DDIM in a window get a guidance G, an image that changes the predicted noise,
eps' = eps - sigma G, and with it the predicted image, x0' = x0^ + c1 G with c1 = sigma^2 / alpha. The paper descends on

    |x0 - x0'|^2 + |x_(t-1) - x'_(t-1)|^2 + w |G - mean G|^2

by Adam. G never enters the network, so this is linear least squares, solved by forward passes alone:

    G_i = (k rho_i + w mean_j rho_j) / (k + w),   rho_i = E_noise[x0_i - x0^(x_t)] / c1,   k = c1^2 + c2^2,

where c2 is what G adds to the next x. A pass over the images adds one noise of every step to the mean in rho.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from baselines.guidance import Guided, closed_form, draw_guided, factors
from baselines.prior import find_prior, same_prior
from baselines.score_sde import FEATURES
from baselines.sde import noised
from baselines.solvers import clean
from errors import UserError
from models.perceptual import load_embedding, spatial_means
from models.pixels import to_float
from models.precision import true_fp32
from training import processes, rng
from training.guard import Diverged
from training.learner import Learner
from training.settings import Settings, setting
from training.trainer import Work


@dataclass(frozen=True)
class Section:
    """The method."""

    prior: str = setting(
        "",
        "the frozen denoiser: emoji-32, a run, checkpoint or export of score-sde, or a folder of diffusers",
        fixed=True,
    )
    steps: int = setting(25, "steps of DDIM from noise to image", least=2, most=1000, fixed=True)
    window: list[int] = setting(
        [20, 5], "steps before the image between which samples are guided; they start at the first", least=0, fixed=True
    )
    weight: float = setting(0.1, "w: how much the guidance of one image is pulled to that of all", least=0.0, fixed=True)
    solver: str = setting(
        "closed", "closed: the solution; adam: descend to it, with the settings of train", choices=("closed", "adam"), fixed=True
    )
    select: str = setting(
        "own", "own: a sample keeps to the guidance of one image; shuffle: every step takes that of another", choices=("own", "shuffle")
    )
    anneal: float = setting(0.0, "noise added to the guidance, in its own deviation; falls to 0 over the window", least=0.0)


@dataclass(frozen=True)
class Config(Settings):
    """All settings of a run of CRDI."""

    method: str = setting("crdi", "method to train", fixed=True)
    crdi: Section = field(default_factory=Section)

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        super().check()
        self.only_rgb()
        if self.train.start_from:
            raise UserError("train.start_from: crdi trains no network; name the denoiser that it guides as crdi.prior")
        window = self.crdi.window
        if not self.crdi.prior:
            raise UserError("crdi.prior: name a trained denoiser")
        if len(window) != 2 or not self.crdi.steps >= window[0] > window[1]:
            raise UserError(f"crdi.window: expected two falling numbers up to crdi.steps={self.crdi.steps}, such as [20,5], found {window}")


class Guidance(nn.Module):
    """The guidance (n, T, 3, H, W), for Adam."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.guidance = nn.Parameter(torch.zeros(shape))


class Crdi:
    """Find the guidance that leads a frozen denoiser back to each image."""

    log: Callable[[str, int, dict[str, float], float], None]
    chosen_by = "energy_distance"

    def __init__(self, config: Config, images: Tensor, *, device: torch.device, pretrained: bool = True):
        """Prepare for uint8 `images` (n, 3, H, W). Raises MissingWeights, and UserError for a prior that does not fit."""
        if processes.count() > 1:
            raise UserError("method: crdi runs in one process, and needs no more; leave out --processes")
        self.config, self.device = config, device
        self.images, own = images.to(device), config.crdi
        prior = find_prior(own.prior)
        self.prior = prior.record
        self.network = prior.denoiser().to(device)
        self.network.check(images.shape[2:])
        shape = len(images), own.window[0] - own.window[1], *images.shape[1:]
        self.missing = torch.zeros(shape, device=device)  # summed over noises: the images less the predicted images, over c1
        self.noises = torch.zeros(len(images), device=device)
        self.errors = torch.zeros(len(images), device=device)  # of the predicted images with the guidance before the last step
        grid = Guided(self.images, self.missing, own.steps, own.steps - own.window[0], own.select, own.anneal).grid()
        self.window = list(pairwise(grid[: shape[1] + 1]))
        c1, c2 = zip(*(factors(self.network.diffusion, *pair) for pair in self.window))
        self.c1, self.c2 = torch.stack(c1), torch.stack(c2)  # (T,)
        settings = config.train
        self.learner = Learner(Guidance(shape).to(device), settings, n=len(images), device=device) if own.solver == "adam" else None
        self.embedding = load_embedding(FEATURES, pretrained=pretrained).to(device).to(memory_format=torch.channels_last)
        self.features = self.embed(self.images)

    @torch.no_grad()
    def step(self, index: Tensor, step: int) -> None:
        """Noise the images numbered `index` (B,) to every time of the window, and add what the denoiser misses. Raises Diverged."""
        images, found = to_float(self.images[index]), []
        with true_fp32(self.device):
            for number, (t, _) in enumerate(self.window):
                eps = rng.normal(tuple(images.shape), self.config.seed, "crdi noise", step, number).to(self.device)
                x = noised(self.network.diffusion, images, t.expand(len(images)), eps)
                found.append((images - clean(self.network, self.network.diffusion, x, t)) / self.c1[number])
            rho = torch.stack(found, dim=1)  # (B, T, 3, H, W)
            self.errors[index] = (self.c1[:, None, None, None] * (rho - self.guidance()[index])).square().flatten(1).mean(dim=1)
        if self.learner:
            with torch.enable_grad():
                self.learner.step((rho, index), self.loss, step)
        else:
            self.missing[index] += rho
            self.noises[index] += 1

    def loss(self, rho: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the paper's loss (B,) of the images numbered `index` (B,), twice; `rho` (B, T, 3, H, W) is of one noise."""
        assert self.learner and isinstance(self.learner.network, Guidance)
        guidance = self.learner.network.guidance
        missed = (rho - guidance[index]).square().mean(dim=(2, 3, 4)) * self.k
        apart = (guidance[index] - guidance.mean(dim=0)).square().mean(dim=(2, 3, 4)) * self.config.crdi.weight
        losses = (missed + apart).sum(dim=1)
        return losses, losses

    @property
    def k(self) -> Tensor:
        """Return the weight (T,) of the missing image in the loss."""
        return self.c1.square() + self.c2.square()

    def guidance(self) -> Tensor:
        """Return the guidance found so far (n, T, 3, H, W)."""
        if self.learner:
            assert isinstance(self.learner.ema.module, Guidance)
            return self.learner.ema.module.guidance.detach()
        return closed_form(self.missing / self.noises.clamp(min=1)[:, None, None, None, None], self.k, self.config.crdi.weight)

    def draw(self, seeds: list[int]) -> Tensor:
        """Generate float images (N, 3, H, W), one per seed."""
        own = self.config.crdi
        guided = Guided(self.images, self.guidance(), own.steps, own.steps - own.window[0], own.select, own.anneal)
        return draw_guided(self.network, guided, seeds, self.device)

    def embed(self, images: Tensor) -> Tensor:
        """Return the spatial means (N, D) of the perceptual maps of uint8 images (N, 3, H, W)."""
        return spatial_means(self.embedding, images, self.device)

    def watch(self, most: int, heldout: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return no further sheets and no further scores."""
        return {}, {}

    def numbers(self, step: int) -> dict[str, float]:
        """Return the mean squared error of the predicted images."""
        return {"loss": self.errors.mean().item()}

    def facts(self) -> dict[str, str]:
        """Return the size of the guidance, and the prior."""
        return {"parameters": f"{self.missing.numel():,}", "prior": self.prior["name"]}

    def work(self) -> dict[str, Work]:
        """Return the job of a step."""
        index = torch.arange(min(self.config.train.batch_size, len(self.images)), device=self.device)
        return {"a step": Work(lambda: self.step(index, 0), self.config.train.steps_per_epoch(len(self.images)))}

    def check(self, step: int, weights: bool = False) -> None:
        """Raise Diverged if what was found before `step` is not finite."""
        if self.learner:
            self.learner.check(step, weights)
        if not self.errors.isfinite().all():
            raise Diverged("a predicted image", step)

    def state_dict(self) -> dict:
        """Return everything that the next steps depend on, except Adam's guidance."""
        state = {"errors": self.errors}
        return state | ({"learner": self.learner.state_dict()} if self.learner else {"missing": self.missing, "noises": self.noises})

    def sampled(self) -> dict:
        """Return the guidance and the images, and the name and sha256 of the denoiser that they need."""
        return {"guidance": self.guidance(), "images": self.images, "prior": self.prior}

    def load_state_dict(self, state: dict, sampled: dict) -> None:
        """Restore what `state_dict` and `sampled` returned. Raises UserError if the prior is another by now."""
        same_prior(sampled["prior"], self.prior)
        self.errors.copy_(state["errors"])
        if self.learner:
            self.learner.load_state_dict(state["learner"], {"guidance": sampled["guidance"]})
        else:
            self.missing.copy_(state["missing"])
            self.noises.copy_(state["noises"])
