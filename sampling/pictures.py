"""What sample.py writes: pictures, sheets and films."""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from atomic import written
from models.interpolation import loop
from training.drawing import Sampler
from training.scores import distances
from training.sheets import grid, save_png, to_pil


def write_samples(sampler: Sampler, seeds: list[int], out: Path, *, batch_size: int, sheet: bool, training: Tensor | None) -> None:
    """Write one PNG per seed; with `sheet` also grid.png, and nearest.png if there are `training` images."""
    width, kept = max(4, len(str(max(seeds)))), []
    for start, images in zip(range(0, len(seeds), batch_size), sampler.batches(seeds, batch_size)):
        for seed, image in zip(seeds[start:], images):
            save_png(image, out / f"seed{seed:0{width}d}.png")
        kept += [images] if sheet or training is not None else []
        print(f"\r{start + len(images)}/{len(seeds)} images", end="", file=sys.stderr)
    print(f" in {out}", file=sys.stderr)
    if sheet:
        columns = max(1, round(len(seeds) ** 0.5))
        save_png(grid(torch.cat(kept), columns), out / "grid.png")
    if training is not None:
        write_nearest(torch.cat(kept), training, out)


def write_nearest(samples: Tensor, images: Tensor, out: Path) -> None:
    """Write `nearest.png`: one row per sample, the sample first, then its nearest training images by pixels."""
    ids = distances(samples.flatten(1), images.flatten(1)).topk(min(3, len(images)), largest=False).indices  # (N, k)
    rows = torch.cat([samples[:, None], images[ids]], dim=1)  # (N, 1 + k, 3, H, W)
    save_png(grid(rows.flatten(0, 1), rows.shape[1]), out / "nearest.png")
    print(f"{out}/nearest.png: each sample, then its nearest training images by pixels", file=sys.stderr)


def write_film(sampler: Sampler, seeds: list[int], frames: int, out: Path, *, batch_size: int) -> None:
    """Write a looping film through the seeds as film.gif and frame PNGs."""
    latents = loop(sampler.latents(seeds), frames)
    pictures: list[Image.Image] = []
    for chunk in latents.split(batch_size):
        for image in sampler.decode(chunk):
            save_png(image, out / f"frame{len(pictures):04d}.png")
            pictures.append(to_pil(image))
        print(f"\r{len(pictures)}/{frames} frames", end="", file=sys.stderr)
    with written(out / "film.gif") as part:
        pictures[0].save(part, format="GIF", save_all=True, append_images=pictures[1:], duration=50, loop=0)
    print(f" in {out}, and film.gif", file=sys.stderr)
