"""The files of an evaluation: metrics.json, with everything that its numbers depend on, and its folder."""

import argparse
import hashlib
import importlib.metadata
import json
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from torch import Tensor

from atomic import written
from errors import UserError
from metrics.cache import write_npz
from metrics.features import NETWORKS
from metrics.report import Calibrations, Measured, printed_name
from models.weights import sha256_of

SCHEMA = "rs-imle.evaluation.2"
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pytorch-fid")


def contents(**parts: object) -> dict:
    """Return the contents of metrics.json with the versions of everything that the numbers depend on."""
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"schema": SCHEMA, "git": git_commit(), **parts, "versions": versions}


def command(args: argparse.Namespace, metrics: list[str], num_samples: int) -> str:
    """Return the command that reproduces the numbers, without options that change only speed or place."""
    words = ["python", "evaluate.py", str(args.source)]
    for option in ("data", "heldout"):
        if getattr(args, option):
            words += [f"--{option}", str(getattr(args, option))]
    words += ["--protocol", args.protocol, "--features", args.features, "--metrics", ",".join(metrics)]
    words += [
        "--num-samples",
        str(num_samples),
        "--seed",
        str(args.seed),
        "--repeats",
        str(args.repeats),
        "--backtrack",
        str(args.backtrack),
        *["--ref-raw"] * args.ref_raw,
        *(["--truncation", f"{args.truncation:g}"] if args.truncation != 1 else []),
    ]
    return shlex.join(words)


def file_record(path: Path) -> dict[str, str]:
    """Return the path and sha256 of a file."""
    with open(path, "rb") as file:
        return {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def networks_record(names: list[str]) -> dict[str, dict]:
    """Return the entries of metrics.json for the networks of the features; thumbnails have no network."""
    return {
        name: {"weights_sha256": sha256_of(NETWORKS[name].weights), "dimension": NETWORKS[name].dimension, "input": NETWORKS[name].input}
        for name in names
        if NETWORKS[name].weights
    }


def numbers_record(measured: Measured, calibration: Calibrations) -> dict[str, dict]:
    """Return the numbers as metrics.json holds them; a number that was not computed is null, never 0 or NaN."""
    return {
        "metrics": {name: {"printed_as": printed_name(name, number.num_fake), **asdict(number)} for name, number in measured.items()},
        "calibration": {name: comparison and asdict(comparison) for name, comparison in calibration.items()},
    }


def default_folder(source: Path, protocol: str, features: str, truncation: float = 1) -> Path:
    """Return the default folder of the report: in the run, or beside a file or folder of images."""
    kind = (features if protocol == "default" else protocol) + (f"-truncation-{truncation:g}" if truncation != 1 else "")
    if (source / "checkpoints").is_dir():
        return source / "evaluation" / kind
    if source.parent.name == "checkpoints":  # one checkpoint of a run
        return source.parent.parent / "evaluation" / source.stem / kind
    absolute = source.absolute()
    name = absolute.name if source.is_dir() else absolute.stem
    return absolute.with_name(f"{name}-evaluation") / kind


def run_of(source: Path) -> Path | None:
    """Return the run folder of a source that is a run or a checkpoint of one; None for anything else."""
    for folder in (source, source.parent.parent):
        if (folder / "checkpoints").is_dir() and (folder / "metrics.jsonl").is_file():
            return folder
    return None


def make_folder(path: Path) -> Path:
    """Make the folder of the report. Raises UserError if it cannot be made or written in."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # the folder may exist without permission to write in it
    except OSError as error:
        raise UserError(f"--out {path}: cannot be made or written in ({error.strerror}); name another folder") from None
    return path


@contextmanager
def reporting(folder: Path, text: str) -> Iterator[None]:
    """Print `text` after the report's files are written into `folder`, also if writing them fails.

    Raises UserError if writing fails.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"--out {folder}: the report cannot be written ({error.strerror or error}), only the numbers above are "
            "left; make room or name another folder, then repeat the command"
        ) from None
    finally:
        print(text, flush=True)


def write(path: Path, text: str) -> None:
    """Write a text file, atomically."""
    with written(path, durable=True) as part:
        part.write_text(text, encoding="utf-8")


def write_numbers(folder: Path, contents: dict) -> Path:
    """Write metrics.json and return its path. Raises ValueError for a NaN; numbers that were not computed are null."""
    path = folder / "metrics.json"
    write(path, json.dumps(contents, indent=2, allow_nan=False) + "\n")
    return path


def write_statistics(folder: Path, features: Tensor) -> None:
    """Write features_real.npz: `mu` and `sigma` as pytorch-fid reads them instead of a folder, and the features."""
    if len(features) >= 2:
        rows = features.numpy()
        activations = rows.astype(np.float64)
        write_npz(
            folder / "features_real.npz", {"mu": activations.mean(axis=0), "sigma": np.cov(activations, rowvar=False), "features": rows}
        )


def git_commit() -> str | None:
    """Return the commit of this code, with -dirty after uncommitted changes; None outside git."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
