"""What sample.py writes: pictures, sheets and films."""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from errors import UserError
from models.interpolation import loop
from sampling.films import RATE, write_film
from sampling.latents import Latents, Word
from sampling.projection import file_name
from sampling.styles import mixing, style_based
from training.folder import RunFolder
from training.scores import distances
from training.sheets import grid, save_png, shown, to_pil

LARGEST = 1280  # side of a sheet in the film of the training; larger sheets are reduced


def write_samples(latents: Latents, words: list[Word], out: Path, *, batch_size: int, sheet: bool, training: Tensor | None) -> None:
    """Write one PNG per seed or name; with `sheet` also grid.png, and nearest.png if there are `training` images."""
    width, kept = max([4, *(len(str(word)) for word in words if isinstance(word, int))]), []
    for start, images in zip(range(0, len(words), batch_size), latents.batches(words, batch_size)):
        for word, image in zip(words[start:], images):
            save_png(image, out / (f"seed{word:0{width}d}.png" if isinstance(word, int) else file_name(word)))
        kept += [images] if sheet or training is not None else []
        print(f"\r{start + len(images)}/{len(words)} images", end="", file=sys.stderr)
    print(f" in {out}", file=sys.stderr)
    if sheet:
        columns = max(1, round(len(words) ** 0.5))
        save_png(grid(torch.cat(kept), columns), out / "grid.png")
    if training is not None:
        write_nearest(torch.cat(kept), training, out)


def write_nearest(samples: Tensor, images: Tensor, out: Path) -> None:
    """Write `nearest.png`: one row per sample, the sample first, then its nearest training images by pixels."""
    ids = distances(samples.flatten(1), images.flatten(1)).topk(min(3, len(images)), largest=False).indices  # (N, k)
    rows = torch.cat([samples[:, None], images[ids]], dim=1)  # (N, 1 + k, C, H, W)
    save_png(grid(rows.flatten(0, 1), rows.shape[1]), out / "nearest.png")
    print(f"{out}/nearest.png: each sample, then its nearest training images by pixels", file=sys.stderr)


def write_interpolation(latents: Latents, words: list[Word], frames: int, film: Path, *, batch_size: int) -> None:
    """Write a looping film through the latents of seeds and names, and its frames as PNGs beside it."""
    path = loop(latents.of(words), frames)
    pictures: list[Image.Image] = []
    for chunk in path.split(batch_size):
        images = latents.sampler.decode(chunk)
        for image, seen in zip(images, shown(images)):
            save_png(image, film.parent / f"frame{len(pictures):04d}.png")
            pictures.append(to_pil(seen))
        print(f"\r{len(pictures)}/{frames} frames", end="", file=sys.stderr)
    write_film(pictures, [1] * frames, film)
    print(f" in {film.parent}, and {film.name}", file=sys.stderr)


def write_mix(latents: Latents, coarse: list[Word], fine: list[Word], out: Path) -> None:
    """Write `mix.png`: the sample of row i and column j has the coarse styles of `coarse[i]` and the fine styles of `fine[j]`.

    The first column and the first row show the samples of `coarse` and of `fine`. Raises UserError if the generator has no styles.
    """
    sampler, network = latents.sampler, mixing(style_based(latents.sampler, "--mix"))
    rows, columns = latents.of(coarse), latents.of(fine)
    above = sampler.decode(columns)
    pictures = [torch.full_like(above[:1], 255), above]
    for done, row in enumerate(rows, 1):
        pairs = torch.stack([row.expand_as(columns), columns], dim=1)
        pictures += [sampler.decode(row[None]), sampler.decode(pairs, network)]
        print(f"\r{done}/{len(rows)} rows", end="", file=sys.stderr)
    save_png(grid(torch.cat(pictures), 1 + len(fine)), out / "mix.png")
    print(f"; {out}/mix.png: shapes of the first column, colours of the first row", file=sys.stderr)


def write_training(run: Path, film: Path) -> None:
    """Write a film of the sheets of samples in a run folder; the last sheet stays longest. Raises UserError if there are no sheets."""
    sheets = RunFolder(run).sheets("samples")
    if not sheets:
        raise UserError(f"--training-film: no samples/step-*.png in {run}; give the folder of a run that has begun")
    pictures = []
    for sheet in sheets:
        try:
            with Image.open(sheet) as opened:
                picture = opened.convert("RGB")
        except OSError as error:
            raise UserError(f"--training-film: {sheet} cannot be read ({error}); remove it") from None
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        pictures.append(picture)
    if len({picture.size for picture in pictures}) > 1:
        raise UserError(f"--training-film: the sheets in {run}/samples differ in size; remove those that do not belong to the run")
    write_film(pictures, [RATE // 4] * (len(sheets) - 1) + [2 * RATE], film)
    print(f"{film}: {sheets[0].stem} to {sheets[-1].stem}", file=sys.stderr)
