"""What a run would cost: parameters, arithmetic, memory and time, from a few real steps on this machine."""

import sys
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from errors import MissingWeights
from imle.config import Config, resolution
from imle.trainer import Trainer


def dry_run(config: Config, device: torch.device, num_images: int = 100) -> str:
    """Return a report from two steps on noise in place of `num_images` images.

    Weights that are missing are named, and random ones timed in their place: they cost the same.
    """
    images = torch.randint(256, (num_images, 3, *resolution(config)), dtype=torch.uint8)
    warning = ""
    try:
        trainer = Trainer(config, images, data={}, device=device)
    except MissingWeights as error:
        warning = f"\nmissing, and timed with random weights in their place:\n{error}\n"
        trainer = Trainer(config, images, data={}, device=device, pretrained=False)
    trainer.latents.normal_()
    latent = trainer.latents[:1]
    with FlopCounterMode(display=False) as counter:
        trainer.generator(latent)
    batch = config.imle.pool_batch
    forward = _seconds(lambda: trainer.embed_latents(trainer.latents[:batch]), device) / min(batch, num_images)
    step = _seconds(trainer.train_step, device)
    adaptive = config.imle.match == "adaptive"  # at the most; how often its images ask is not known beforehand
    refreshes = -(-config.train.epochs // max(1, config.imle.staleness if adaptive else config.imle.refresh_epochs))
    pool = trainer.refresher.pool_size
    hours = (trainer.total_steps * step + refreshes * pool * forward) / 3600
    parameters = sum(p.numel() for p in trainer.generator.parameters())
    return f"""{num_images} images assumed
parameters        {parameters:,}
an image          {counter.get_total_flops() / 2e9:.3f} GMAC forward, {1000 * forward:.1f} ms with its search features
a step            {step:.3f} s for {config.train.batch_size} images{f", {config.train.micro_batch} at a time" if config.train.micro_batch else ""}
a refresh         {pool * forward:.1f} s for a pool of {pool}
the run           {trainer.total_steps} steps and {refreshes} refreshes, about {hours:.1f} hours on this {device.type}
cached targets    {trainer.targets.map_bytes / 1e9:.2f} GB{'' if trainer.targets.cached else ', over loss.cache_gb: embedded again at each step'}
peak memory       {_peak_memory(device)} on {device.type}
{warning}"""


def _seconds(job, device: torch.device) -> float:
    """Time `job` once, after a first time that warms up."""
    for _ in range(2):
        started = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _peak_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB"
    if sys.platform == "win32":
        return "not measured"
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB"
