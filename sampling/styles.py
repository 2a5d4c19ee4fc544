"""Styles: what the generator's mapping network makes of a latent, and what steering changes (Karras et al. 2019, sections 3 and 4)."""

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from errors import UserError
from models.generator import Generator
from models.precision import true_fp32
from training import rng
from training.drawing import Sampler, drawing_of

NUM_AVERAGED = 4096  # latents behind the mean style
MOST_PSI = 2.0
# Resolutions with the styles of a mix's second latent. With two the mix has the shape of the first sample and the colours of the second,
# at 64 and at 128 pixels; one more or less muddles them.
NUM_FINE = 2


def psi(text: str) -> float:
    """Read the word after --truncation: 0 is the mean style, 1 no truncation. Raises ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_PSI:  # NaN neither
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 (every sample is the mean) over 1 (off) to {MOST_PSI:g}")
    return value


def style_based(sampler: Sampler, wanted: str) -> Generator:
    """Return the sampler's generator. Raises UserError, which names the option `wanted`, if it has no styles."""
    generator = sampler.drawing.generator
    if not isinstance(generator, Generator):
        why = sampler.drawing.why or "its generator maps latents to images without styles"
        raise UserError(f"{wanted}: {sampler.checkpoint_path} has no styles to steer: {why}")
    return generator


@torch.inference_mode()
def mean_style(generator: Generator) -> Tensor:
    """Return the mean style (style_dim,) of a fixed set of latents: truncation pulls styles towards it."""
    device = generator.constant.device
    with true_fp32(device):
        latents = rng.normal((NUM_AVERAGED, generator.latent_dim), 0, "mean style").to(device)
        return generator.mapping(latents).double().mean(0).float()


class Truncated(nn.Module):
    """A mapping network with its styles moved towards the mean: w' = mean + psi (w - mean) (Karras et al. 2019, appendix B)."""

    def __init__(self, mapping: nn.Module, mean: Tensor, psi: float):
        super().__init__()
        self.mapping, self.mean, self.psi = mapping, mean, psi

    def forward(self, z: Tensor) -> Tensor:
        """Return styles (B, style_dim) for latents `z` (B, latent_dim)."""
        return torch.lerp(self.mean, self.mapping(z), self.psi)


def truncated(sampler: Sampler, psi: float) -> Sampler:
    """Return a sampler with truncation `psi`; with 1 the sampler itself. Raises UserError if its generator has no styles."""
    if psi == 1:
        return sampler
    generator = copy.deepcopy(style_based(sampler, "--truncation"))
    generator.mapping = Truncated(generator.mapping, mean_style(generator), psi)
    steered = copy.copy(sampler)
    steered.drawing = drawing_of(generator, generator.latent_dim, sampler.device)._replace(prior=sampler.drawing.prior)
    return steered


def mixing(generator: Generator) -> Callable[[Tensor], Tensor]:
    """Return a network that maps pairs of latents (B, 2, latent_dim) to images (B, C, H, W).

    Maps up to a quarter of the image's side have the styles of a pair's first latent, larger ones those of its second (style
    mixing, Karras et al. 2019, section 3.1).
    """
    levels = torch.tensor([block.upsample for block in generator.blocks]).cumsum(0)  # of every block
    coarse = (levels <= max(0, int(levels[-1]) - NUM_FINE)).to(generator.constant.device)

    def network(pairs: Tensor) -> Tensor:
        first, second = (generator.mapping(latents)[:, None] for latents in pairs.unbind(1))  # (B, 1, style_dim)
        return generator.synthesise(torch.where(coarse[:, None], first, second))

    return network
