"""Sampling from a run's EMA. Needs only torch, numpy and pillow."""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from data import Record
from errors import UserError
from models.memory import memory_for
from models.pixels import coloured, over, to_float, to_uint8
from models.precision import true_fp32
from training import checkpoint, rng
from training.transform import background, channels, sides

# A GPU always runs the generator on this many latents (the last group is padded), a CPU on one. In a batch of another
# size, and on some processors at another position in the batch, an image's last bits differ, which can change a byte.
GROUP = 8


class Drawing(NamedTuple):
    """A method's EMA on a device, as sample.py and evaluate.py use it."""

    draw: Callable[[list[int]], Tensor]  # seeds -> float images (N, C, H, W); a seed always gives the same image
    generator: nn.Module | None  # latents (B, latent_dim) -> images, with gradients; None if the method has none
    latent_dim: int | None
    why: str = ""  # if there is no generator: why, and what is therefore not possible
    bits_per_dim: Callable[[Tensor], Tensor] | None = None  # uint8 images (N, C, H, W) -> bits (N,), if there is a likelihood
    prior: str = "none"  # name and sha256 of the pretrained weights that the run started from


@torch.inference_mode()
def generate(generator: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """Return float images (B, C, H, W) for latents (B, ...), or for styles if `generator` maps those, in true float32.

    An image does not depend on the others in the batch.
    """
    images, size = [], 1 if latents.device.type == "cpu" else GROUP
    with true_fp32(latents.device):
        for group in latents.split(size):
            filled = torch.cat([group, group[-1:].expand(size - len(group), *group.shape[1:])])
            images.append(generator(filled)[: len(group)])
    return torch.cat(images)


def drawing_of(generator: nn.Module, latent_dim: int, device: torch.device) -> Drawing:
    """Return the drawing of a generator on `device` that maps latents (B, latent_dim) to images."""
    return Drawing(lambda seeds: generate(generator, rng.sample_latents(seeds, latent_dim).to(device)), generator, latent_dim)


class Sampler:
    """Sample images from a run folder, a checkpoint or an export."""

    def __init__(self, path: Path, state: dict, drawing: Drawing, device: torch.device):
        """Sample with `drawing`; the checkpoint at `path` has the content `state`."""
        self.checkpoint_path, self.drawing, self.device = path, drawing, device
        self.config: dict = state["config"]
        self.data = Record(**state["data"])  # the training images
        self.step: int = state["step"]
        self.selected_by: str | None = state.get("selected_by")  # the score that chose this among checkpoints
        self.sampled: dict = state["sampled"]
        self.started_from: dict[str, str] | None = state.get("started_from")
        self.under: tuple[int, int, int] | None = None  # the colour that transparent images are laid over; None: they stay transparent

    @property
    def name(self) -> str:
        """Return the name of the checkpoint's run folder; of an export, the file's name without its suffix."""
        checkpoint = self.checkpoint_path.resolve()
        name = checkpoint.parent.parent.name if checkpoint.parent.name == "checkpoints" else checkpoint.stem
        return name.encode(errors="replace").decode()  # a file's name may hold bytes that no character has

    @property
    def resolution(self) -> tuple[int, int]:
        """Return (height, width) of the images."""
        return sides(self.config["data"]["resolution"])

    @property
    def channels(self) -> str:
        """Return the data.channels of the run."""
        return channels(self.config)

    @property
    def generator(self) -> nn.Module:
        """Return the generator, a map from latents to images. Raises UserError if the method has none."""
        if self.drawing.generator is None:
            raise UserError(f"{self.checkpoint_path}: has no generator: {self.drawing.why}")
        return self.drawing.generator

    def latents(self, seeds: list[int]) -> Tensor:
        """Return the latents (N, latent_dim) of seeds. Raises UserError if the method has no generator."""
        assert self.generator and self.drawing.latent_dim is not None
        return rng.sample_latents(seeds, self.drawing.latent_dim)

    def decode(self, latents: Tensor, network: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return uint8 images (B, C, H, W) on the CPU for `latents` (B, latent_dim), or for the inputs (B, ...) of another `network`.

        Raises UserError if an image is not finite.
        """
        return self._bytes(generate(network or self.generator, latents.to(self.device)))

    def _bytes(self, images: Tensor) -> Tensor:
        if not images.isfinite().all():
            raise UserError(f"{self.checkpoint_path}: gives images that are not finite; its weights are broken, use another checkpoint")
        drawn = to_uint8(images).cpu()
        return over(drawn, self.under) if self.under else drawn

    def batches(self, seeds: Sequence[int], batch_size: int = 64) -> Iterator[Tensor]:
        """Yield uint8 images (B, C, H, W) on the CPU, one per seed; `batch_size` changes no image."""
        for start in range(0, len(seeds), batch_size):
            with memory_for("generating samples", f"lower --batch-size (now {batch_size}), or use --device cpu"):
                images = self._bytes(self.drawing.draw(list(seeds[start : start + batch_size])))
            yield images

    def images(self, seeds: Sequence[int], batch_size: int = 64) -> Tensor:
        """Return uint8 images (len(seeds), C, H, W) on the CPU, one per seed."""
        return torch.cat(list(self.batches(seeds, batch_size)))

    def export(self, path: Path) -> None:
        """Write an export: the EMA and what sampling and scoring need, without the training state.

        Raises UserError if it cannot be written, or if it would replace the checkpoint itself.
        """
        self.spare(path)
        checkpoint.save(self.content, path)

    def spare(self, path: Path) -> None:
        """Raise UserError if `path` is the checkpoint itself."""
        if path.exists() and path.samefile(self.checkpoint_path):
            raise UserError(f"{path}: is the checkpoint itself, which training needs whole; choose another file")

    @property
    def content(self) -> dict:
        """Return the content of an export."""
        return {
            "config": self.config,
            "data": self.data._asdict(),
            "step": self.step,
            "selected_by": self.selected_by,
            "sampled": self.sampled,
            **({"started_from": self.started_from} if self.started_from else {}),
        }


class Flattened(nn.Module):
    """A generator whose images are laid over a colour (levels)."""

    def __init__(self, generator: nn.Module, under: tuple[int, int, int]):
        super().__init__()
        self.generator, self.under = generator, under

    def forward(self, z: Tensor) -> Tensor:
        """Return RGB images (B, 3, H, W), float, about [-1, 1] and not clipped, for latents `z` (B, latent_dim)."""
        return coloured(self.generator(z), to_float(torch.tensor(self.under, device=z.device)))


def flattened(sampler: Sampler) -> Sampler:
    """Return a sampler of RGB images, as they look over the run's data.background; if they are RGB, the sampler itself."""
    if sampler.channels == "rgb":
        return sampler
    flat = copy.copy(sampler)
    flat.under = background(sampler.config)
    if generator := sampler.drawing.generator:
        flat.drawing = sampler.drawing._replace(generator=Flattened(generator, flat.under))
    return flat
