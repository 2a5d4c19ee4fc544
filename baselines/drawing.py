"""Sample from the checkpoints of the baselines. Needs only torch."""

import torch

from models.fastgan import Generator
from training import rng
from training.sampling import Drawing, generate
from training.transform import sides


def open_fastgan(config: dict, sampled: dict, device: torch.device) -> Drawing:
    """Return the EMA of a run of FastGAN, with weights `sampled`. Raises RuntimeError if they do not fit the configuration."""
    own, (side, _) = config["fastgan"], sides(config["data"]["resolution"])
    generator = Generator(side, own["width"], own["latent_dim"])
    generator.load_state_dict(sampled)
    generator.to(device).eval().requires_grad_(False)

    def draw(seeds: list[int]) -> torch.Tensor:
        return generate(generator, rng.sample_latents(seeds, generator.latent_dim).to(device))

    return Drawing(draw, generator, generator.latent_dim)
