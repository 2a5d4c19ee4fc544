"""Sample images from a trained run, one per seed; a seed always gives the same image. Needs only torch, numpy and pillow."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from data import load_images
from errors import UserError, run_as_command
from methods import open_sampler
from sampling import films
from sampling.exports import write_export
from sampling.latents import MOST, Latents, words_of
from sampling.page import write_page
from sampling.pictures import write_interpolation, write_mix, write_samples, write_training
from sampling.projection import project, read_pictures
from sampling.styles import psi, truncated
from training.device import choose_device
from training.drawing import Sampler
from training.transform import transform

FILES = ("export", "page")  # options that need no --out
GO_WITH = {  # what a command makes -> the options that go with it, besides --out, --batch-size and --device
    "samples": ("num", "seeds", "latents", "truncation", "grid", "nearest", *FILES),
    "interpolate": ("latents", "truncation", "frames", "format", *FILES),
    "mix": ("latents", "truncation", *FILES),
    "project": FILES,
    "training_film": ("format",),
}


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run folder, a checkpoint or an export")
    parser.add_argument("--out", type=Path, help="folder for the images (not needed with --export or --page alone)")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the generator: .pt, .onnx, or .safetensors with a model card")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write a page (.html) that runs the generator in a browser, offline")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--batch-size", type=int, default=64, help="images in memory at once (default: 64); changes no image")

    samples = parser.add_argument_group("samples")
    samples.add_argument("--num", type=int, help="number of samples, from seed 0 on (default: 64)")
    samples.add_argument("--seeds", type=words_of, help="seeds of the samples, for example 0-63 or 3,8,12-20")
    samples.add_argument("--grid", action="store_true", help="also write all samples as one sheet, grid.png")
    samples.add_argument("--nearest", type=Path, metavar="IMAGES", help="also write nearest.png: samples with 3 nearest training images")

    steering = parser.add_argument_group("steering")
    steering.add_argument(
        "--truncation",
        type=psi,
        default=1.0,
        metavar="PSI",
        help="move samples towards the mean: 0.7 is safer and less varied than 1 (the default, off)",
    )
    steering.add_argument(
        "--project",
        type=Path,
        nargs="+",
        metavar="PICTURE",
        help="find the sample nearest to each picture, as EfficientNet-Lite0 sees both; write projected.png and latents.pt",
    )
    steering.add_argument(
        "--latents",
        type=Path,
        metavar="FILE",
        help="the latents.pt of --project: sample these; --seeds, --interpolate and --mix also take their names, for example 3,me.png",
    )
    steering.add_argument(
        "--mix", type=words_of, nargs=2, metavar=("A", "B"), help="write mix.png: coarse styles of seeds A (rows), fine ones of seeds B"
    )

    film = parser.add_argument_group("films")
    film.add_argument("--interpolate", type=words_of, metavar="SEEDS", help="write a looping film through these seeds")
    film.add_argument("--frames", type=int, default=60, help="frames of the film (default: 60)")
    film.add_argument("--training-film", action="store_true", help="write a film of the sheets that the training left in the run")
    film.add_argument("--format", choices=films.KINDS, default="gif", help="of the film (default: gif); mp4 needs the program ffmpeg")

    args = parser.parse_args(words)
    check(args, parser)
    return args


def check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End the command if its options do not go together or are out of range; set `args.makes` to a key of GO_WITH."""

    def given(name: str) -> bool:
        return getattr(args, name) != parser.get_default(name)

    def shown(name: str) -> str:
        return name if name == "samples" else f"--{name.replace('_', '-')}"

    makes = [name for name in GO_WITH if name != "samples" and given(name)]
    if len(makes) > 1:
        parser.error(f"{shown(makes[0])} does not go with {shown(makes[1])}; use two commands")
    args.makes = makes[0] if makes else "samples"
    options = [name for name in dict.fromkeys(name for names in GO_WITH.values() for name in names) if given(name)]
    for name in options:
        if name not in GO_WITH[args.makes]:
            places = " or ".join(shown(each) for each, names in GO_WITH.items() if name in names)
            parser.error(f"{shown(name)} goes with {places}, not with {shown(args.makes)}; use two commands")
    if args.num is not None and (args.seeds or args.latents):
        parser.error("--num: not allowed with --seeds or --latents, which choose the samples too")
    if args.out is None and (makes or not options or {*options} - {*FILES}):
        parser.error("--out is needed")
    for name in ("num", "batch_size", "frames"):
        if getattr(args, name) is not None and not 1 <= getattr(args, name) <= MOST:
            parser.error(f"{shown(name)} must be between 1 and {MOST}")


def main(words: list[str]) -> None:
    args = parse(words)
    films.writable(args.format)
    if args.makes == "training_film":
        with written_into(args.out):
            write_training(args.source, args.out / f"training.{args.format}")
        return
    sampler = open_sampler(args.source, choose_device(args.device))
    if args.export:
        write_export(sampler, args.export)
    if args.page:
        write_page(sampler, args.page)
        print(f"{args.page}: {os.path.getsize(args.page) / 1e6:.1f} MB, opens in any browser, also on a phone")
    if args.out is None:
        return
    training = training_images(sampler, args.nearest) if args.nearest else None
    pictures = read_pictures(sampler, args.project) if args.project else {}
    latents = Latents(truncated(sampler, args.truncation), args.latents)
    chosen = args.seeds or args.interpolate or list(latents.named) or list(range(args.num or 64))
    latents.check([*chosen, *(word for side in args.mix or () for word in side)])
    with written_into(args.out):
        if args.makes == "project":
            project(sampler, pictures, args.out)
        elif args.makes == "mix":
            write_mix(latents, *args.mix, args.out)
        elif args.makes == "interpolate":
            write_interpolation(latents, chosen, args.frames, args.out / f"film.{args.format}", batch_size=args.batch_size)
        else:
            write_samples(latents, chosen, args.out, batch_size=args.batch_size, sheet=args.grid, training=training)


@contextmanager
def written_into(out: Path) -> Iterator[None]:
    """Make the folder `out` for what is written inside the block. Raises UserError if either fails, and leaves no empty folder."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"--out {out}: cannot write there ({error.strerror or error})") from None
    except UserError:
        with suppress(OSError):  # it holds something
            out.rmdir()
        raise


def training_images(sampler: Sampler, path: Path) -> Tensor:
    """Return the images at `path`, uint8 (n, C, H, W), decoded as for the sampler's run. Raises UserError."""
    return load_images(path, **transform(sampler.config)).images


if __name__ == "__main__":
    run_as_command(main)
