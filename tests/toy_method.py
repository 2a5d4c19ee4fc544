"""A second method, as small as one can be: a fixed latent for every image, and a linear map from latents to images."""

from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from models.pixels import to_float
from training import rng
from training.drawing import Drawing, drawing_of, generate
from training.learner import Learner
from training.settings import Settings, setting
from training.start import take
from training.trainer import Work
from training.transform import sides


@dataclass(frozen=True)
class Toy:
    """The method."""

    latent_dim: int = setting(6, "length of a latent", least=1, fixed=True)


@dataclass(frozen=True)
class Config(Settings):
    """All settings of a run."""

    method: str = setting("toy", "what is trained", fixed=True)
    toy: Toy = field(default_factory=Toy)


def network(latent_dim: int, side: int | list[int]) -> nn.Module:
    return nn.Sequential(nn.Linear(latent_dim, 3 * prod(sides(side))), nn.Unflatten(1, (3, *sides(side))))


class Linear:
    chosen_by = "energy_distance"

    def __init__(self, config: Config, images: Tensor, *, device: torch.device, pretrained: bool = True):
        torch.manual_seed(config.seed)
        self.images, self.dim = to_float(images.to(device)), config.toy.latent_dim
        self.latents = rng.sample_latents(list(range(len(images))), self.dim).to(device)
        self.learner = Learner(network(self.dim, config.data.resolution).to(device), config.train, n=len(images), device=device)
        self.losses, self.features = torch.zeros(len(images), device=device), self.embed(images.to(device))

    def loss(self, images: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        errors = (self.learner.forward(z) - images).square().mean(dim=(1, 2, 3))
        return errors, errors

    def step(self, index: Tensor, step: int) -> None:
        self.losses[index] = self.learner.step((self.images[index], self.latents[index]), self.loss, step)

    def draw(self, seeds: list[int]) -> Tensor:
        return generate(self.learner.ema.module, rng.sample_latents(seeds, self.dim).to(self.losses.device))

    def embed(self, images: Tensor) -> Tensor:
        return to_float(images).flatten(1)

    def watch(self, most: int, heldout: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        return {}, {}

    def numbers(self, step: int) -> dict[str, float]:
        return {"loss": self.losses.mean().item()}

    def facts(self) -> dict[str, str]:
        return {"parameters": str(sum(p.numel() for p in self.learner.network.parameters()))}

    def work(self) -> dict[str, Work]:
        return {"a step": Work(lambda: self.step(torch.arange(2), 0), self.learner.steps_per_epoch)}

    def check(self, step: int, weights: bool = False) -> None:
        self.learner.check(step, weights)

    def start(self, source: dict) -> dict[str, str]:
        fates = take({("network",): self.learner.network.state_dict()}, {("network",): source["sampled"]})
        self.learner.ema.module.load_state_dict(self.learner.network.state_dict())
        return fates

    def state_dict(self) -> dict:
        return {"learner": self.learner.state_dict(), "losses": self.losses}

    def sampled(self) -> dict:
        return self.learner.ema.module.state_dict()

    def load_state_dict(self, state: dict, sampled: dict) -> None:
        self.learner.load_state_dict(state["learner"], sampled)
        self.losses.copy_(state["losses"])


def open_drawing(config: dict, sampled: dict, device: torch.device) -> Drawing:
    drawn = network(config["toy"]["latent_dim"], config["data"]["resolution"])
    drawn.load_state_dict(sampled)
    drawn.to(device).requires_grad_(False)
    return drawing_of(drawn, config["toy"]["latent_dim"], device)
