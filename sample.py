"""Sample images from a trained run, one per seed; a seed always gives the same image. Needs only torch, numpy and pillow."""

import argparse
import os
import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from atomic import written
from data import load_images
from errors import UserError, run_as_command
from methods import open_sampler
from models.interpolation import loop
from training.device import choose_device
from training.sampling import Sampler
from training.scores import distances
from training.sheets import grid, save_png, to_pil
from training.transform import transform

MOST = 1_000_000  # most seeds or frames in one command; more is probably a typing error


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run folder, a checkpoint or an export")
    parser.add_argument("--out", type=Path, help="folder for the images (not needed with --export alone)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--num", type=int, help="number of samples, from seed 0 on (default: 64)")
    which.add_argument("--seeds", type=parse_seeds, help="seeds of the samples, for example 0-63 or 3,8,12-20")
    which.add_argument("--interpolate", type=parse_seeds, metavar="SEEDS", help="write a looping film through these seeds instead")
    parser.add_argument("--batch-size", type=int, default=64, help="images in memory at once (default: 64); changes no image")
    parser.add_argument("--grid", action="store_true", help="also write all samples as one sheet, grid.png")
    parser.add_argument("--frames", type=int, default=60, help="frames of the film (default: 60)")
    parser.add_argument("--nearest", type=Path, metavar="IMAGES", help="also write nearest.png: each sample with 3 nearest training images")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write only the generator, to a small file")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    args = parser.parse_args(words)
    if args.out is None and (not args.export or args.interpolate or args.grid or args.nearest or args.num or args.seeds):
        parser.error("--out is needed")
    if args.interpolate and (args.grid or args.nearest):
        parser.error("--interpolate makes a film, without --grid or --nearest; use another command for those")
    for name in ("num", "batch_size", "frames"):
        if getattr(args, name) is not None and not 1 <= getattr(args, name) <= MOST:
            parser.error(f"--{name.replace('_', '-')} must be between 1 and {MOST}")
    return args


def parse_seeds(text: str) -> list[int]:
    """Read seeds such as `3,8,12-20`."""
    seeds = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            span = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a seed nor a range such as 0-63") from None
        if not span:
            raise argparse.ArgumentTypeError(f"{part!r} names no seed; a range goes upwards, such as 0-63")
        if span[-1] - span[0] >= MOST - len(seeds):
            raise argparse.ArgumentTypeError(f"{part!r} makes more than {MOST} seeds; use several commands")
        seeds += span
    return seeds


def main(words: list[str]) -> None:
    args = parse(words)
    sampler = open_sampler(args.source, choose_device(args.device))
    if args.export:
        sampler.export(args.export)
        print(f"{args.export}: {os.path.getsize(args.export) / 1e6:.1f} MB, sampled like a run: python sample.py {args.export} --out DIR")
    if args.out is None:
        return
    training = training_images(sampler, args.nearest) if args.nearest else None
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.interpolate:
            write_film(sampler, args.interpolate, args.frames, args.out, args.batch_size)
        else:
            write_samples(sampler, args, training=training)
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot write there ({error.strerror or error})") from None


def training_images(sampler: Sampler, path: Path) -> Tensor:
    """Return the images at `path`, uint8 (n, 3, H, W), decoded as for the sampler's run. Raises UserError."""
    return load_images(path, **transform(sampler.config)).images


def write_samples(sampler: Sampler, args: argparse.Namespace, *, training: Tensor | None) -> None:
    """Write one PNG per seed, and the sheets of --grid and --nearest."""
    seeds = args.seeds or list(range(args.num or 64))
    width, kept = max(4, len(str(max(seeds)))), []
    for start, images in zip(range(0, len(seeds), args.batch_size), sampler.batches(seeds, args.batch_size)):
        for seed, image in zip(seeds[start:], images):
            save_png(image, args.out / f"seed{seed:0{width}d}.png")
        kept += [images] if args.grid or training is not None else []
        print(f"\r{start + len(images)}/{len(seeds)} images", end="", file=sys.stderr)
    print(f" in {args.out}", file=sys.stderr)
    if args.grid:
        columns = max(1, round(len(seeds) ** 0.5))
        save_png(grid(torch.cat(kept), columns), args.out / "grid.png")
    if training is not None:
        write_nearest(torch.cat(kept), training, out=args.out)


def write_nearest(samples: Tensor, images: Tensor, *, out: Path) -> None:
    """Write `nearest.png`: one row per sample, the sample first, then its nearest training images by pixels."""
    ids = distances(samples.flatten(1), images.flatten(1)).topk(min(3, len(images)), largest=False).indices  # (N, k)
    rows = torch.cat([samples[:, None], images[ids]], dim=1)  # (N, 1 + k, 3, H, W)
    save_png(grid(rows.flatten(0, 1), rows.shape[1]), out / "nearest.png")
    print(f"{out}/nearest.png: each sample, then its nearest training images by pixels", file=sys.stderr)


def write_film(sampler: Sampler, seeds: list[int], frames: int, out: Path, batch_size: int) -> None:
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


if __name__ == "__main__":
    run_as_command(main)
