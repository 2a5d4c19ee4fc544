"""Exact likelihoods of a diffusion model by its probability-flow ODE (Song et al., ICLR 2021, section 4.3 and appendix D.2).

Bytes become continuous by uniform dequantisation, so that the bits are those of the bytes and comparable with published ones.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from baselines.sde import EARLIEST, Diffusion
from baselines.solvers import Denoiser, flow

TOLERANCE = 1e-3  # of the solver, absolute and relative: on trained models 0.003 bits from the published 1e-5, at a sixth of its cost


def log_likelihood(denoiser: Denoiser, diffusion: Diffusion, x: Tensor, probe: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Return the estimated natural log-density (B,), float64, of x (B, 3, H, W) at time EARLIEST, by equation 39.

    The divergence of the flow is estimated with one `probe` (B, 3, H, W) of +-1 (Hutchinson; equation 40).
    """
    size, shape = x[0].numel(), x.shape

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        at = torch.as_tensor(state[: x.numel()], dtype=x.dtype, device=x.device).view(shape).requires_grad_()
        with torch.enable_grad():
            moved = flow(denoiser, diffusion, at, torch.tensor(t, dtype=x.dtype, device=x.device))
            (gradient,) = torch.autograd.grad((moved * probe).sum(), at)
        divergence = (gradient * probe).flatten(1).sum(dim=1)
        return torch.cat([moved.detach().flatten(), divergence]).double().cpu().numpy()

    start = np.concatenate([x.double().flatten().cpu().numpy(), np.zeros(len(x))])
    found = solve_ivp(slope, (EARLIEST, 1.0), start, method="RK45", rtol=tolerance, atol=tolerance).y[:, -1]
    end, change = torch.from_numpy(found[: x.numel()]).view(len(x), size), torch.from_numpy(found[x.numel() :])
    scale = diffusion.sigma(torch.ones((), dtype=torch.float64)).item()
    return change - end.square().sum(dim=1) / (2 * scale**2) - size * (math.log(scale) + math.log(2 * math.pi) / 2)


def bits_per_dim(
    denoiser: Denoiser, diffusion: Diffusion, images: Tensor, random: Callable[[int], torch.Generator], tolerance: float = TOLERANCE
) -> Tensor:
    """Return the bits (B,), float64, per byte of uint8 `images` (B, 3, H, W). `random` gives each row's generator."""
    generators = [random(row) for row in range(len(images))]
    uniform = torch.stack([torch.rand(images[0].shape, generator=each) for each in generators])
    probe = torch.stack([torch.randint(2, images[0].shape, generator=each) * 2.0 - 1 for each in generators])
    x = (images.cpu() + uniform) / 128 - 1  # [-1, 1): a byte is 1 / 128 wide
    x, probe = x.to(images.device), probe.to(images.device)
    return to_bits(log_likelihood(denoiser, diffusion, x, probe, tolerance), images[0].numel())


def to_bits(log_density: Tensor, size: int) -> Tensor:
    """Return bits per number of images in [-1, 1) with natural log-densities (B,): a byte's width, 1 / 128, counts 7 bits."""
    return -log_density / (size * math.log(2)) + 7
