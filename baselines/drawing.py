"""Sample from the checkpoints of the baselines. Needs only torch."""

import torch
from torch import Tensor

from baselines.denoiser import Denoiser, draw
from baselines.guidance import Guided, draw_guided
from baselines.prior import find_prior, same_prior
from baselines.sde import diffusion_of
from models.fastgan import Generator
from models.precision import true_fp32
from training import rng
from training.drawing import Drawing, drawing_of
from training.transform import sides

INVERTIBLE = "a diffusion model has no generator: its path from noise to image can invert any image, so searching it says nothing"


def build_fastgan(config: dict) -> Generator:
    """Return the untrained generator that a configuration (nested dicts) describes."""
    side, _ = sides(config["data"]["resolution"])
    return Generator(side, config["fastgan"]["width"], config["fastgan"]["latent_dim"])


def open_fastgan(config: dict, sampled: dict, device: torch.device) -> Drawing:
    """Return the EMA of a run of FastGAN, with weights `sampled`. Raises RuntimeError if they do not fit the configuration."""
    generator = build_fastgan(config)
    generator.load_state_dict(sampled)
    generator.to(device).eval().requires_grad_(False)
    return drawing_of(generator, generator.latent_dim, device)


def open_score_sde(config: dict, sampled: dict, device: torch.device) -> Drawing:
    """Return the EMA of a run of score-sde. Raises RuntimeError if the weights do not fit, and UserError without diffusers."""
    sde, sampling, shape = config["sde"], config["sampling"], (3, *sides(config["data"]["resolution"]))
    network = Denoiser(sampled["unet"], diffusion_of(sde["kind"], sde["sigma_max"]))
    network.load_state_dict({key: value.float() for key, value in sampled["weights"].items()})
    network.to(device).eval().requires_grad_(False)

    def bits(images: Tensor) -> Tensor:
        from baselines.likelihood import bits_per_dim  # needs scipy

        with true_fp32(device):
            return bits_per_dim(network, network.diffusion, images.to(device), lambda row: rng.generator(0, "bits", row))

    return Drawing(
        lambda seeds: draw(network, sampling["solver"], sampling["steps"], shape=shape, seeds=seeds, device=device),
        None,
        None,
        INVERTIBLE,
        bits,
        _told(sampled["prior"]),
    )


def open_crdi(config: dict, sampled: dict, device: torch.device) -> Drawing:
    """Return the guidance of a run of CRDI and its frozen denoiser. Raises MissingWeights, and UserError for another denoiser."""
    own, prior = config["crdi"], find_prior(config["crdi"]["prior"])
    same_prior(sampled["prior"], prior.record)
    network = prior.denoiser().to(device)
    images, guidance = sampled["images"].to(device), sampled["guidance"].to(device)
    guided = Guided(images, guidance, own["steps"], own["steps"] - own["window"][0], own["select"], own["anneal"])
    return Drawing(lambda seeds: draw_guided(network, guided, seeds, device), None, None, INVERTIBLE, None, _told(prior.record))


def _told(prior: dict | None) -> str:
    return f"{prior['name']} {prior['sha256']}" if prior else "none"
