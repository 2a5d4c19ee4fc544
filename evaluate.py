"""Score a run, a checkpoint, or any generator's folder of images: python evaluate.py RUN [--features effnet-lite2]."""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from data import Record, colour_of, is_generated, load_references, read_generated
from errors import UserError, run_as_command
from methods import open_sampler
from metrics import document, evaluation, heldout, page, report, table
from metrics.cache import Cache
from metrics.compare import compare
from metrics.images import Images
from metrics.interface import Decoder, Likelihood, Reals
from metrics.measure import JUDGES, QUICK, protocol_of, usual_samples, weights_of
from metrics.verdict import verdict
from models import weights
from models.pixels import over
from sampling.styles import psi, truncated
from training.device import choose_device
from training.drawing import flattened
from training.transform import transform


class Subject(NamedTuple):
    """What is scored, and what the source records about its real images."""

    samples: list[Images]  # one set per repeat
    decoder: Decoder | str  # the generator, or the reason why there is none
    transform: dict  # keywords of load_images for the real images
    flips: bool  # whether training used mirror images too
    data: Path | None  # the run's training images
    trained: Record | None  # which images the run was trained on
    record: dict
    config: dict | None = None  # of the run
    likelihood: Likelihood | None = None
    prior: str | None = None  # the pretrained model that the run started from, or "none"; None: unknown


def main(argv: list[str]) -> None:
    started, args = time.monotonic(), parse(argv)
    if args.compare:
        print(compare(*args.compare))
        return
    protocol, metrics = protocol_of(args.protocol, args.features, args.metrics, args.ref_raw)
    weights.require(*weights_of(protocol, metrics, is_generated(args.source)))  # before anything slow
    subject = (read if is_generated(args.source) else sample)(args)
    reals, data, warnings = real_images(args, subject, protocol.raw)
    out = document.make_folder(args.out or document.default_folder(args.source, args.protocol, args.features, args.truncation))

    evaluator = evaluation.Evaluator(protocol, metrics, device=args.device, cache=Cache(out / "features"), num_backtracked=args.backtrack)
    found = evaluator(subject.samples, reals, subject.decoder, likelihood=subject.likelihood, config=subject.config)
    sentences = verdict(found.measured, found.calibration)
    warnings += report.warnings_of(found.measured, subject.record["input"].get("selected_by"), args.truncation) + evaluator.cache.warnings
    count = subject.samples[0].count
    contents = document.contents(
        command=document.command(args, metrics, count),
        **subject.record,
        device=args.device,
        conditions={
            "protocol": protocol._asdict(),
            "data": data,
            "num_samples": count,
            "prior": subject.prior,
            "features": document.networks_record(evaluator.networks),
        },
        **document.numbers_record(found.measured, found.calibration),
        verdict=[each._asdict() for each in sentences],
        warnings=warnings,
        timing={"seconds": time.monotonic() - started},
    )
    with document.reporting(out, report.text(found.measured, found.calibration, sentences, warnings)):
        path = document.write_numbers(out, contents)
        page.write_page(out, contents, found, subject.samples[0], reals, run=document.run_of(args.source))
        if found.sets and found.network:
            document.write_statistics(out, found.sets.real[found.network])
    print(f"wrote {path}, {out}/report.html", file=sys.stderr)


def sample(args: argparse.Namespace) -> Subject:
    """Generate the samples of a run, a checkpoint or an export."""
    sampler = open_sampler(args.source, args.device)
    config, data, drawing = sampler.config, sampler.config["data"], flattened(sampler).drawing
    count = args.num_samples or usual_samples(args.device, args.protocol, args.metrics, slow=drawing.generator is None)
    checkpoint = document.file_record(sampler.checkpoint_path)
    identity = {"checkpoint": checkpoint["sha256"]}
    steered = flattened(truncated(sampler, args.truncation))
    of_samples = identity | ({"truncation": args.truncation} if args.truncation != 1 else {})

    def samples(first: int) -> Images:
        seeds = range(first, first + count)
        return Images.of_seeds("features of generated images", seeds, of_samples, lambda seeds: steered.batches(seeds, args.batch_size))

    firsts = [args.seed + repeat * count for repeat in range(args.repeats)]
    record = {
        "input": checkpoint | {"step": sampler.step, "selected_by": sampler.selected_by},
        "sampling": {"weights": "ema", "num_samples": count, "first_seeds": firsts, "truncation": args.truncation},
    }
    decoder = drawing.why or Decoder(drawing.generator, drawing.latent_dim, torch.device(args.device), identity)
    likelihood = drawing.bits_per_dim and Likelihood(drawing.bits_per_dim, identity)
    drawn = list(map(samples, firsts))
    return Subject(drawn, decoder, transform(config), data["flips"], data["path"], sampler.data, record, config, likelihood, drawing.prior)


def read(args: argparse.Namespace) -> Subject:
    """Read generated images from a folder or archive. The real images are resized to theirs. Raises UserError."""
    if args.repeats > 1 or args.truncation != 1:
        raise UserError(f"--repeats, --truncation: {args.source} holds images, not their generator; leave these options out")
    found = read_generated(args.source, args.num_samples)
    print(f"samples: {found.report}", file=sys.stderr)
    images = Images.of_tensor("features of generated images", found.images)
    same_size = {"resolution": tuple(found.images.shape[2:]), "fit": "crop", "background": "white"}
    record = {"input": {"path": str(args.source), "files": found.report} | images.identity, "sampling": None}
    return Subject([images], "needs the generator itself: give a run, a checkpoint or an export", same_size, False, None, None, record)


def real_images(args: argparse.Namespace, subject: Subject, raw: bool) -> tuple[Reals, dict, list[str]]:
    """Return the real images, their record for metrics.json, and warnings. Raises UserError if no real images are named."""
    if not (path := args.data or subject.data):
        raise UserError(f"{args.source} holds images, not a run: give the real images with --data")
    found = load_references(
        path, subject.transform, trained=subject.trained, may_differ=args.data is not None, heldout=args.heldout, originals=raw
    )
    print(f"{path}: {found.report[0]}", file=sys.stderr)
    flat, held_flat = (over(images, colour_of(subject.transform["background"])) for images in (found.real, found.heldout))
    wrap = Images.of_list if raw else Images.of_tensor
    seen, held_seen = (found.real_originals, found.heldout_originals) if raw else (flat, held_flat)
    real, held = wrap("features of real images", seen), wrap("features of held-out images", held_seen)
    record = {
        "fingerprint": found.fingerprint,
        "transform": None if raw else subject.transform,
        "num_real": len(found.real),
        "num_heldout": len(found.heldout),
        "heldout": held.identity,
        "flips": subject.flips,
    }
    mirror = wrap("features of mirrored images", [image.flip(2) for image in seen] if raw else seen.flip(3)) if subject.flips else None
    warnings = found.warnings + heldout.warnings_of(flat, held_flat, found.heldout_names)
    return Reals(flat, held_flat, real, held if held.count else None, mirror), record, warnings


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__)
    add = parser.add_argument
    add("source", type=Path, nargs="?", help="run folder, checkpoint, export, or folder, .zip or .npz of generated images")
    add("--data", type=Path, help="real images to compare with (default: the training images)")
    add("--heldout", type=Path, help="real images kept out of training (default: the run's own)")
    add("--features", choices=JUDGES, default="inception", help="; ".join(map(": ".join, JUDGES.items())))
    add("--protocol", choices=("default", "paper"), default="default", help="paper: as published RS-IMLE numbers are computed")
    add("--metrics", help=f"some of {','.join(table.METRICS)}, or {QUICK} (default: all)")
    add("--num-samples", type=at_least_one, help="samples to score (5000 on CUDA or for the paper, else 1000 or fewer; of a folder all)")
    add("--repeats", type=at_least_one, default=1, help="sets of samples; the report gives their mean and spread (default: 1)")
    add("--backtrack", type=at_least_one, default=10, help="held-out and training images to backtrack, of each (default: 10)")
    add("--ref-raw", action="store_true", help="use the real images at their original size, not at the training resolution")
    add("--compare", type=Path, nargs=2, metavar=("A", "B"), help="compare two evaluations instead of scoring")
    add("--truncation", type=psi, default=1.0, metavar="PSI", help="score samples moved towards the mean, see sample.py (default: 1, off)")
    add("--seed", type=int, default=0, help="seed of the first sample; the next samples use the next seeds (default: 0)")
    add("--out", type=Path, help="folder for the report (default: in the run, or beside the images)")
    add("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    add("--batch-size", type=at_least_one, default=64, help="samples generated at once; changes only speed and memory (default: 64)")
    args = parser.parse_args(argv)
    if (args.source is None) == (args.compare is None):
        parser.error("give a source to score, or --compare with two evaluations")
    args.device = str(choose_device(args.device))
    return args


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


if __name__ == "__main__":
    run_as_command(main)
