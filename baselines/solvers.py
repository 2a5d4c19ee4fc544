"""Sampling from a denoiser: predictor-corrector, probability-flow ODE (Song et al., ICLR 2021), DDIM (Song, Meng & Ermon, ICLR 2021).

Every step is the same for all rows, and noise is a function of the row's own seed: a row does not depend on the others.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from baselines.sde import Diffusion

Denoiser = Callable[[Tensor, Tensor], Tensor]  # x(t) (B, 3, H, W), t (B,) -> the predicted noise eps
Noise = Callable[[str, int], Tensor]  # a purpose and a step -> standard normal numbers (B, 3, H, W)
LAST = 1e-3  # the time at which samplers stop (appendix C)
SOLVERS = ("ddim", "pc", "ode")


def sample(solver: str, denoiser: Denoiser, diffusion: Diffusion, noise: Noise, steps: int) -> Tensor:
    """Return samples (B, 3, H, W) near [-1, 1] by one of SOLVERS in so many steps, and one more evaluation that removes the last noise."""
    if solver == "pc":
        return predictor_corrector(denoiser, diffusion, noise, steps=steps)
    x = noise("start", 0)
    grid = times(steps, x)
    x = x * diffusion.sigma(grid[0])
    x = ddim(denoiser, diffusion, x, grid, clip=True) if solver == "ddim" else probability_flow(denoiser, diffusion, x, grid)
    return clean(denoiser, diffusion, x, grid[-1])


def times(steps: int, like: Tensor) -> Tensor:
    """Return steps + 1 times from 1 to LAST, equally spaced."""
    return torch.linspace(1, LAST, steps + 1, dtype=like.dtype, device=like.device)


def predictor_corrector(denoiser: Denoiser, diffusion: Diffusion, noise: Noise, *, steps: int, snr: float = 0.16) -> Tensor:
    """Return samples by Euler steps of the reverse diffusion, each followed by a step of Langevin dynamics (algorithm 1).

    `snr` sets the size of a Langevin step (appendix G); 0 leaves it out. The last step adds no noise, so that it removes it.
    """
    x = noise("start", 0)
    grid = times(steps, x)
    x = x * diffusion.sigma(grid[0])
    for step, (t, after) in enumerate(pairwise(grid)):
        score, length = _score(denoiser, diffusion, x, t), t - after
        g2 = diffusion.g2(t)
        mean = x - length * (diffusion.f(t) * x - g2 * score)  # equation 6, backwards
        x = mean + (g2 * length).sqrt() * noise("predict", step) if step < steps - 1 or snr else mean
        if snr:
            score, random = _score(denoiser, diffusion, x, after), noise("correct", step)
            ratio = _norm(random) / _norm(score)
            size = 2 * diffusion.alpha(after) ** 2 * (snr * ratio) ** 2  # algorithms 4 and 5
            mean = x + size * score
            x = mean + (2 * size).sqrt() * random
    return mean


def probability_flow(denoiser: Denoiser, diffusion: Diffusion, x: Tensor, grid: Tensor) -> Tensor:
    """Move x (B, 3, H, W) along the probability-flow ODE (equation 13) from time grid[0] to grid[-1], with Runge-Kutta's fourth order.

    A falling grid samples, a rising one encodes.
    """
    for t, after in pairwise(grid):
        h = after - t
        k1 = flow(denoiser, diffusion, x, t)
        k2 = flow(denoiser, diffusion, x + h / 2 * k1, t + h / 2)
        k3 = flow(denoiser, diffusion, x + h / 2 * k2, t + h / 2)
        k4 = flow(denoiser, diffusion, x + h * k3, after)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def flow(denoiser: Denoiser, diffusion: Diffusion, x: Tensor, t: Tensor) -> Tensor:
    """Return dx/dt of the probability-flow ODE at time t ()."""
    return diffusion.f(t) * x - diffusion.g2(t) / 2 * _score(denoiser, diffusion, x, t)


def ddim(denoiser: Denoiser, diffusion: Diffusion, x: Tensor, grid: Tensor, clip: bool = False) -> Tensor:
    """Return samples by deterministic DDIM steps (equation 12 of arXiv 2010.02502, eta = 0) from x (B, 3, H, W) at time grid[0].

    With `clip` the image that a step expects is clipped to [-1, 1]: in the first steps a small error of the denoiser is a large
    one of that image, and would colour the sample.
    """
    for t, after in pairwise(grid):
        x = ddim_step(diffusion, x, denoiser(x, t.expand(len(x))), t, after, clip)
    return x


def ddim_step(diffusion: Diffusion, x: Tensor, eps: Tensor, t: Tensor, after: Tensor, clip: bool = False) -> Tensor:
    """Return x (B, 3, H, W) at time `after` () from x and its noise `eps` at time t ()."""
    image = _clean(diffusion, x, eps, t)
    if clip:
        image = image.clamp(-1, 1)
        eps = (x - diffusion.alpha(t) * image) / diffusion.sigma(t)
    return diffusion.alpha(after) * image + diffusion.sigma(after) * eps


def clean(denoiser: Denoiser, diffusion: Diffusion, x: Tensor, t: Tensor) -> Tensor:
    """Return the expected image of x (B, 3, H, W) at time t ()."""
    return _clean(diffusion, x, denoiser(x, t.expand(len(x))), t)


def _clean(diffusion: Diffusion, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    return (x - diffusion.sigma(t) * eps) / diffusion.alpha(t)


def _score(denoiser: Denoiser, diffusion: Diffusion, x: Tensor, t: Tensor) -> Tensor:
    return -denoiser(x, t.expand(len(x))) / diffusion.sigma(t)


def _norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm of each row, (B, 1, 1, 1)."""
    return x.flatten(1).norm(dim=1)[:, None, None, None]
