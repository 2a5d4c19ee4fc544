"""The denoiser of a diffusion model, and samples of it. Needs only torch and, for the network, diffusers."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.sde import Diffusion, wide
from baselines.solvers import Noise, sample
from errors import UserError
from models.precision import true_fp32
from models.unet import make_unet
from training import rng
from training.drawing import GROUP

TIMES = 999  # DDPM's last time, which is 1 here


class Denoiser(nn.Module):
    """Predict the noise in an image x(t) of a diffusion, by a U-Net."""

    def __init__(self, unet: dict[str, Any], diffusion: Diffusion):
        """Build the U-Net that has the settings `unet`, with random weights. Raises UserError without diffusers."""
        super().__init__()
        self.unet, self.diffusion = make_unet(unet), diffusion
        self.least = 2 ** (len(unet["block_out_channels"]) - 1)  # sides are multiples of this, because the U-Net halves its maps so often
        self.exploding = unet.get("time_embedding_type") == "fourier"

    def check(self, side: Sequence[int]) -> None:
        """Raise UserError for images of `side` (height, width) that the U-Net cannot halve as often as it does."""
        if any(length % self.least for length in side):
            found = " x ".join(map(str, side))
            raise UserError(f"data.resolution: this denoiser needs sides that are multiples of {self.least}, not {found}")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return eps (B, 3, H, W) of x(t) (B, 3, H, W) at times t (B,)."""
        if self.exploding:  # NCSN++ returns the score of pixels in [0, 1], given the deviation of their noise
            sigma = self.diffusion.sigma(t) / 2
            return -wide(sigma) * self.unet((x + 1) / 2, sigma).sample
        return self.unet(x, t * TIMES).sample


@torch.inference_mode()
def draw(network: Denoiser, solver: str, steps: int, *, shape: tuple[int, ...], seeds: list[int], device: torch.device) -> Tensor:
    """Return float images (N, *shape) of a denoiser, one per seed, in true float32. An image does not depend on the others."""
    size, images = 1 if device.type == "cpu" else GROUP, []
    with true_fp32(device):
        for first in range(0, len(seeds), size):
            group = seeds[first : first + size]
            noise = _noise([*group, *[group[-1]] * (size - len(group))], shape, device)
            images.append(sample(solver, network, network.diffusion, noise, steps)[: len(group)])
    return torch.cat(images)


def _noise(seeds: list[int], shape: tuple[int, ...], device: torch.device) -> Noise:
    """Return the noise of the solvers: it depends on the seed, the purpose and the step."""
    return lambda purpose, step: torch.stack([rng.normal(shape, seed, f"sde {purpose}", step) for seed in seeds]).to(device)
