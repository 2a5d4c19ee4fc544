"""Score a run, a checkpoint, or any generator's folder of images: python evaluate.py RUN [--features effnet-lite0]."""

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data import load_images
from errors import UserError, run_as_command
from imle.device import choose_device
from imle.sampling import Sampler
from metrics import generated, report
from metrics.calibration import calibrate
from metrics.features import Extractor
from metrics.measure import METRICS, PROTOCOLS, chosen, measure
from models import weights


class Fakes(NamedTuple):
    """The generated images, and what they say about the real ones that they are to be compared with."""

    blocks: Iterable[Tensor]  # uint8 (B, 3, H, W)
    count: int
    transform: dict  # of the real images
    data: Path | None  # where the run's training images are
    trained: dict | None  # fingerprint, names and held-out names of the images that the run was trained on
    record: dict


def main(argv: list[str]) -> None:
    started, args = time.monotonic(), parse(argv)
    protocol = PROTOCOLS[args.features]
    networks = protocol.networks(args.metrics)
    weights.require(*networks)  # before anything slow
    fakes = (read if generated.is_generated(args.source) else sample)(args)
    real_images, heldout_images, data, warnings = references(args, fakes)
    out = report.make_folder(args.out or report.default_folder(args.source, args.features))

    extract = Extractor(networks, args.device)
    real = extract([real_images], len(real_images), "real images")
    heldout = extract([heldout_images], len(heldout_images), "held-out images") if len(heldout_images) else None
    fake = extract(fakes.blocks, fakes.count, "generated images")
    extracted = time.monotonic()
    print("comparing the features (half a minute and more for fid, whose matrix root is pytorch-fid's own)", file=sys.stderr)
    measured = measure(real, fake, protocol, args.metrics)
    calibration = calibrate(real, fakes.count, protocol, args.metrics, heldout)
    warnings += report.warnings_of(measured, calibration)
    timing = {"features_seconds": extracted - started, "metrics_seconds": time.monotonic() - extracted}

    print(report.table(measured, calibration), *report.legend(calibration), sep="\n")
    print("".join(f"warning: {warning}\n" for warning in warnings), end="", flush=True)
    path = report.write(
        out, command=report.command(args, fakes.count), **fakes.record, data=data, device=args.device,
        features=report.networks_record(networks), **report.numbers_record(measured, calibration),
        warnings=warnings, timing=timing)  # fmt: skip
    print(f"wrote {path}", file=sys.stderr)


def sample(args: argparse.Namespace) -> Fakes:
    """Draw the samples of a run, a checkpoint or an export."""
    sampler = Sampler(args.source, args.device)
    settings, side = sampler.config["data"], sampler.config["data"]["resolution"]
    resolution = (side, side) if isinstance(side, int) else tuple(side)
    count = args.num_samples or (5000 if args.device.startswith("cuda") else 1000)
    seeds = range(args.seed, args.seed + count)
    record = {"input": report.file_record(sampler.checkpoint_path) | {"step": sampler.step},
              "sampling": {"weights": "ema", "first_seed": seeds[0], "last_seed": seeds[-1]}}  # fmt: skip
    transform = {"resolution": resolution, "fit": settings["fit"], "background": settings["background"]}
    return Fakes(sampler.batches(seeds, args.batch_size), count, transform, settings["path"], sampler.data, record)


def read(args: argparse.Namespace) -> Fakes:
    """Read the images that some generator left in a folder or .zip; the real ones are brought to their size."""
    images = generated.read_generated(args.source, args.num_samples)
    record = {"input": {"path": str(args.source), "sha256_of_pixels": generated.digest(images)}, "sampling": None}
    transform = {"resolution": tuple(images.shape[2:]), "fit": "crop", "background": "white"}
    return Fakes([images], len(images), transform, None, None, record)


def references(args: argparse.Namespace, fakes: Fakes) -> tuple[Tensor, Tensor, dict, list[str]]:
    """Return the real and the held-out images, the record of them, and warnings.

    Raises UserError when there are none to compare with, or they are no longer those that the run was trained on.
    """
    path = args.data or fakes.data
    if path is None:
        raise UserError(f"{args.source} holds images, not a run: name the real images to compare with by --data")
    reals = load_images(path, **fakes.transform)
    real, heldout, warnings = reals.images, reals.images[:0], []
    if fakes.trained and reals.fingerprint == fakes.trained["fingerprint"]:
        at = {name: index for index, name in enumerate(reals.names)}
        real = reals.images[[at[name] for name in fakes.trained["names"]]]
        heldout = reals.images[[at[name] for name in fakes.trained["heldout"]]]
    elif fakes.trained and args.data is None:
        before, now = {*fakes.trained["names"], *fakes.trained["heldout"]}, set(reals.names)
        raise UserError(
            f"data.path: {path} is not what the run was trained on: {len(before - now)} images are gone and "
            f"{len(now - before)} new {sorted(before ^ now)[:3]}, or pixels have changed; bring it back, or use --data")
    elif fakes.trained:
        warnings.append("the real images are those of --data, not the ones that the run was trained on")
    if args.heldout:
        heldout = load_images(args.heldout, **fakes.transform).images
    print(f"{path}: {reals.report[0]}", file=sys.stderr)
    record = {"path": str(path), "fingerprint": reals.fingerprint, "transform": fakes.transform,
              "num_real": len(real), "num_heldout": len(heldout), "report": reals.report}  # fmt: skip
    return real, heldout, record, warnings


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="evaluate.py", description=__doc__)
    add = parser.add_argument
    add("source", type=Path, help="run folder, checkpoint, or folder or .zip of generated images")
    add("--data", type=Path, help="real images to compare with (default: those that the run was trained on)")
    add("--heldout", type=Path, help="real images kept out of training (default: the run's own)")
    add("--metrics", type=chosen, default=",".join(METRICS), help="comma-separated (default: %(default)s)")
    add("--features", choices=list(PROTOCOLS), default="inception", help="(default: %(default)s)")
    add("--num-samples", type=at_least_one, help="(default: 5000 on CUDA, 1000 on a CPU; of a folder: all)")
    add("--seed", type=int, default=0, help="of the first sample, the others count on from it (default: 0)")
    add("--out", type=Path, help="folder for metrics.json (default: in the run, or beside the images)")
    add("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    add("--batch-size", type=at_least_one, default=64, help="samples drawn at once; speed and memory only (default: 64)")
    args = parser.parse_args(argv)
    args.device = str(choose_device(args.device))
    return args


def at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


if __name__ == "__main__":
    run_as_command(main)
