"""Projection: the sample nearest to a picture, and its latent."""

import sys
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from data import load_images, load_picture
from errors import UserError
from models.inversion import PIXEL_WEIGHT, invert, passes
from models.memory import memory_for
from models.perceptual import load_embedding
from sampling.latents import save
from training.drawing import Sampler
from training.sheets import grid, save_png
from training.transform import background, transform

# One network for all runs, so that their distances can be compared; it needs no download.
NETWORK = "effnet-lite0"
SEED = 0  # of the random latents from which the search starts


def read_pictures(sampler: Sampler, paths: list[Path]) -> dict[str, Tensor]:
    """Return the pictures, uint8 (C, H, W) each, of files, folders and .zips, decoded like training images, by their file's name.

    A folder's name, and a comma, which separates words of a command line, become underscores. Raises UserError if a picture cannot
    be read, or if two of them would be written to the same file.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        if path.is_dir() or zipfile.is_zipfile(path):
            images = load_images(path, **transform(sampler.config))
            print(f"{path}: {images.report[0]}", file=sys.stderr)
            pairs = list(zip(images.names, images.images))
        else:
            pairs = [(path.name, load_picture(path, **transform(sampler.config)))]
        for name, picture in pairs:
            name = name.replace("/", "_").replace(",", "_")
            if file_name(name) in map(file_name, found):
                raise UserError(f"--project {path}: two pictures would be written to {file_name(name)}; rename one of them")
            found[name] = picture
    return found


def file_name(name: str) -> str:
    """Return the name of the file with the nearest sample of the picture `name`."""
    return f"projected-{Path(name).stem}.png"


def project(sampler: Sampler, pictures: dict[str, Tensor], out: Path) -> None:
    """Find the nearest sample of each picture; write it, `projected.png` with both, and the latents as `latents.pt`.

    Raises UserError if the sampler's method has no generator, and MissingWeights.
    """
    generator, latent_dim = sampler.generator, sampler.drawing.latent_dim
    assert latent_dim is not None
    images = torch.stack(list(pictures.values()))
    embed = load_embedding(NETWORK, PIXEL_WEIGHT, background=background(sampler.config))
    embed.to(sampler.device).to(memory_format=torch.channels_last)
    total, done = passes(len(images)), 0

    def advance(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if 100 * before // total < 100 * done // total:
            print(f"\r{100 * done // total}% of the search", end="", file=sys.stderr, flush=True)

    with memory_for("projecting pictures", "use --device cpu"):
        found = invert(generator, embed, images=images.to(sampler.device), latent_dim=latent_dim, seed=SEED, advance=advance)
    print(f" for {len(images)} pictures", file=sys.stderr)
    samples = sampler.decode(found.latents)
    for name, sample, distance in zip(pictures, samples, found.distances.tolist()):
        save_png(sample, out / file_name(name))
        print(f"{name}: distance {distance:.3f}")
    columns = max(1, round((len(images) / 2) ** 0.5))  # pairs, two pictures each
    save_png(grid(torch.stack([images, samples], dim=1).flatten(0, 1), 2 * columns), out / "projected.png")
    save(out / "latents.pt", sampler, dict(zip(pictures, found.latents)), found.distances)
    print(f"{out}/projected.png: each picture and its nearest sample; {out}/latents.pt: their latents, for --latents", file=sys.stderr)
