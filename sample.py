"""Sample images from a trained run, one per seed; a seed always gives the same image. Needs only torch, numpy and pillow."""

import argparse
import os
from pathlib import Path

from torch import Tensor

from data import load_images
from errors import UserError, run_as_command
from methods import open_sampler
from sampling.exports import write_export
from sampling.page import write_page
from sampling.pictures import write_film, write_samples
from training.device import choose_device
from training.drawing import Sampler
from training.transform import transform

MOST = 1_000_000  # most seeds or frames in one command; more is probably a typing error


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run folder, a checkpoint or an export")
    parser.add_argument("--out", type=Path, help="folder for the images (not needed with --export or --page alone)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--num", type=int, help="number of samples, from seed 0 on (default: 64)")
    which.add_argument("--seeds", type=parse_seeds, help="seeds of the samples, for example 0-63 or 3,8,12-20")
    which.add_argument("--interpolate", type=parse_seeds, metavar="SEEDS", help="write a looping film through these seeds instead")
    parser.add_argument("--batch-size", type=int, default=64, help="images in memory at once (default: 64); changes no image")
    parser.add_argument("--grid", action="store_true", help="also write all samples as one sheet, grid.png")
    parser.add_argument("--frames", type=int, default=60, help="frames of the film (default: 60)")
    parser.add_argument("--nearest", type=Path, metavar="IMAGES", help="also write nearest.png: each sample with 3 nearest training images")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write only the generator, to a small file (.onnx: for other programs; .safetensors: with a model card, to share)",
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page (.html) that runs the generator in a browser, offline")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    args = parser.parse_args(words)
    if args.out is None and (not (args.export or args.page) or args.interpolate or args.grid or args.nearest or args.num or args.seeds):
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
        write_export(sampler, args.export)
    if args.page:
        write_page(sampler, args.page)
        print(f"{args.page}: {os.path.getsize(args.page) / 1e6:.1f} MB, opens in any browser, also on a phone")
    if args.out is None:
        return
    training = training_images(sampler, args.nearest) if args.nearest else None
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.interpolate:
            write_film(sampler, args.interpolate, args.frames, args.out, batch_size=args.batch_size)
        else:
            seeds = args.seeds or list(range(args.num or 64))
            write_samples(sampler, seeds, args.out, batch_size=args.batch_size, sheet=args.grid, training=training)
    except OSError as error:
        raise UserError(f"--out {args.out}: cannot write there ({error.strerror or error})") from None


def training_images(sampler: Sampler, path: Path) -> Tensor:
    """Return the images at `path`, uint8 (n, 3, H, W), decoded as for the sampler's run. Raises UserError."""
    return load_images(path, **transform(sampler.config)).images


if __name__ == "__main__":
    run_as_command(main)
