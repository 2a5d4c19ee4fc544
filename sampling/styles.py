"""Styles: what the generator's mapping network makes of a latent, and what steering changes (Karras et al. 2019, sections 3 and 4)."""

import torch
from torch import Tensor

from errors import UserError
from models.generator import Generator
from models.precision import true_fp32
from training import rng
from training.drawing import Sampler

NUM_AVERAGED = 4096  # latents behind the mean style


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
