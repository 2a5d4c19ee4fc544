"""Sampling from a trained generator's average (EMA). Needs torch and numpy alone."""

from pathlib import Path
from typing import Iterator, Sequence

import torch
from torch import Tensor

from errors import UserError
from imle import checkpoint
from training import rng
from models.generator import Generator
from models.memory import memory_for
from models.pixels import to_uint8

# A GPU always runs the generator on this many latents, the last group filled up, and a CPU on one: in batches of another
# shape, and with some processors' kernels in another place of the batch, an image's last bits differ, enough to change a
# byte here and there.
GROUP = 8


def resolution_of(config: dict) -> tuple[int, int]:
    """Return the height and width of the images that a configuration describes."""
    side = config["data"]["resolution"]
    return (side, side) if isinstance(side, int) else tuple(side)


def build_generator(config: dict) -> Generator:
    """Return the untrained generator that a configuration (nested dicts) describes."""
    model, (height, width) = config["model"], resolution_of(config)
    scale = 2 ** (len(model["channels"]) - 1)
    return Generator(**model, start=(height // scale, width // scale))


@torch.inference_mode()
def generate(generator: Generator, latents: Tensor) -> Tensor:
    """Return float images (B, 3, H, W) for latents (B, latent_dim), the same whatever they are batched with."""
    images, size = [], 1 if latents.device.type == "cpu" else GROUP
    for group in latents.split(size):
        filled = torch.cat([group, group[-1:].expand(size - len(group), -1)])
        images.append(generator(filled)[: len(group)])
    return torch.cat(images)


class Sampler:
    """Draw images from a run folder, a checkpoint or an export."""

    def __init__(self, path: str | Path, device: str | torch.device = "cpu"):
        """Load it. Raises UserError when there is nothing to load or it does not fit together."""
        self.checkpoint_path = checkpoint.find(Path(path))
        state = checkpoint.load(self.checkpoint_path)
        self.device = torch.device(device)
        with checkpoint.unpacking(self.checkpoint_path):
            self.config: dict = state["config"]
            self.data: dict = state["data"]  # fingerprint, names and held-out names of the images it was trained on
            self.step: int = state["step"]
            self.selected_by: str | None = state.get("selected_by")  # the score that chose this among checkpoints
            self.generator = build_generator(self.config)
            self.generator.load_state_dict(state["ema"])
        self.generator.to(self.device).eval().requires_grad_(False)

    @property
    def latent_dim(self) -> int:
        return self.generator.latent_dim

    @property
    def resolution(self) -> tuple[int, int]:
        return resolution_of(self.config)

    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 images (B, 3, H, W) on the CPU for latents (B, latent_dim). Raises UserError for broken weights."""
        images = generate(self.generator, latents.to(self.device))
        if not images.isfinite().all():
            raise UserError(f"{self.checkpoint_path}: gives images that are not finite; its weights are broken, take another checkpoint")
        return to_uint8(images).cpu()

    def batches(self, seeds: Sequence[int], batch_size: int = 64) -> Iterator[Tensor]:
        """Yield uint8 images, `batch_size` at a time, one per seed; its size changes no image."""
        for start in range(0, len(seeds), batch_size):
            with memory_for("drawing samples", f"lower --batch-size (now {batch_size}), or take --device cpu"):
                images = self.decode(rng.sample_latents(list(seeds[start : start + batch_size]), self.latent_dim))
            yield images

    def images(self, seeds: Sequence[int], batch_size: int = 64) -> Tensor:
        """Return uint8 images (len(seeds), 3, H, W) on the CPU, one per seed."""
        return torch.cat(list(self.batches(seeds, batch_size)))

    def export(self, path: Path) -> None:
        """Write the EMA generator and what it needs to be sampled and scored, without the training state.

        Raises UserError where it cannot be written, or would replace the checkpoint that it is taken from.
        """
        if path.exists() and path.samefile(self.checkpoint_path):
            raise UserError(f"{path}: is the checkpoint itself, which training needs whole; choose another file")
        state = {"config": self.config, "data": self.data, "step": self.step, "selected_by": self.selected_by,
                 "ema": self.generator.state_dict()}  # fmt: skip
        checkpoint.save(state, path)
