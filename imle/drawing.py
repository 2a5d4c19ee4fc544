"""Sample from an IMLE run's checkpoint. Needs only torch."""

import torch

from models.generator import Generator
from models.pixels import CHANNELS
from training.drawing import Drawing, drawing_of
from training.transform import channels, sides


def build_generator(config: dict) -> Generator:
    """Return the untrained generator that a configuration (nested dicts) describes."""
    model, (height, width) = config["model"], sides(config["data"]["resolution"])
    scale = 2 ** (len(model["channels"]) - 1)
    return Generator(**model, start=(height // scale, width // scale), outputs=CHANNELS[channels(config)])


def open_drawing(config: dict, sampled: dict, device: torch.device) -> Drawing:
    """Return the EMA of a run, with weights `sampled`. Raises RuntimeError if they do not fit the configuration."""
    generator = build_generator(config)
    generator.load_state_dict(sampled)
    generator.to(device).eval().requires_grad_(False)
    return drawing_of(generator, generator.latent_dim, device)
