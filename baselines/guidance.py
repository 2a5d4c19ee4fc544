"""The guidance of CRDI: its weights in a step of DDIM, the closed form, and guided samples. Needs only torch."""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from baselines.denoiser import Denoiser
from baselines.sde import Diffusion, noised
from baselines.solvers import clean, ddim_step, times
from models.pixels import to_float
from models.precision import true_fp32
from training import rng
from training.drawing import GROUP


class Guided(NamedTuple):
    """What guides samples: some images, and for each of them and each step of a window one guidance."""

    images: Tensor  # uint8 (n, 3, H, W)
    guidance: Tensor  # (n, T, 3, H, W)
    steps: int  # of DDIM, from noise to image
    first: int  # the window's first step
    select: str  # own: a sample keeps to one image; shuffle: every step takes the guidance of another
    anneal: float  # deviation of the noise that is added to the guidance, in that of the guidance; it falls to 0 over the window

    def grid(self) -> Tensor:
        """Return the times of the steps from the window's first one to the image."""
        return times(self.steps, self.guidance)[self.first :]


def factors(diffusion: Diffusion, t: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Return c1 and c2: how much a guidance adds to the predicted image at time t (), and to x at time `after` ()."""
    c1 = diffusion.sigma(t).square() / diffusion.alpha(t)
    return c1, diffusion.alpha(after) * c1 - diffusion.sigma(after) * diffusion.sigma(t)


def closed_form(rho: Tensor, k: Tensor, weight: float) -> Tensor:
    """Return the best guidance (n, T, 3, H, W) for rho (n, T, 3, H, W), the mean missing image over c1, and k (T,) = c1^2 + c2^2."""
    k = k[:, None, None, None]
    return (k * rho + weight * rho.mean(dim=0)) / (k + weight)


@torch.inference_mode()
def draw_guided(network: Denoiser, guided: Guided, seeds: list[int], device: torch.device) -> Tensor:
    """Return float images (N, 3, H, W), one per seed, in true float32. An image does not depend on the others."""
    size, images = 1 if device.type == "cpu" else GROUP, []
    with true_fp32(device):
        for first in range(0, len(seeds), size):
            group = seeds[first : first + size]
            images.append(_draw(network, guided, [*group, *[group[-1]] * (size - len(group))])[: len(group)])
    return torch.cat(images)


def _draw(network: Denoiser, guided: Guided, seeds: list[int]) -> Tensor:
    """Start from noised images at the window's first time, take steps of DDIM, and remove the last noise."""
    diffusion, grid, length = network.diffusion, guided.grid(), guided.guidance.shape[1]
    images = to_float(guided.images[_choice(guided, seeds, "target")])
    x = noised(diffusion, images, grid[:1].expand(len(seeds)), _normal(images, seeds, "start"))
    for number, (t, after) in enumerate(pairwise(grid)):
        eps = network(x, t.expand(len(x)))
        if number < length:
            eps = eps - diffusion.sigma(t) * _chosen(guided, seeds, number)
        x = ddim_step(diffusion, x, eps, t, after, clip=True)
    return clean(network, diffusion, x, grid[-1])


def _chosen(guided: Guided, seeds: list[int], number: int) -> Tensor:
    """Return the guidance (N, 3, H, W) of a step of the window."""
    at_step = guided.guidance[:, number]
    chosen = at_step[_choice(guided, seeds, "target", *([number] if guided.select == "shuffle" else []))]
    if guided.anneal:
        share = 1 - number / guided.guidance.shape[1]
        chosen = chosen + guided.anneal * share * at_step.std() * _normal(chosen, seeds, "anneal", number)
    return chosen


def _choice(guided: Guided, seeds: list[int], purpose: str, *index: int) -> list[int]:
    """Choose one image for each seed."""
    n = len(guided.images)
    return [int(torch.randint(n, (), generator=rng.generator(seed, f"crdi {purpose}", *index))) for seed in seeds]


def _normal(like: Tensor, seeds: list[int], purpose: str, *index: int) -> Tensor:
    return torch.stack([rng.normal(tuple(like.shape[1:]), seed, f"crdi {purpose}", *index) for seed in seeds]).to(like)
