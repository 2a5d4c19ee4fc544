"""metrics.json: the numbers for programs, with everything that they depend on."""

import argparse
import hashlib
import importlib.metadata
import platform
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path

from metrics.features import NETWORKS
from metrics.report import Calibrations, Measured, printed_name
from models.weights import sha256_of

SCHEMA = "rs-imle.evaluation.2"
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pytorch-fid")


def document(**contents: object) -> dict:
    """Return the contents of metrics.json with the versions of everything that the numbers depend on."""
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"schema": SCHEMA, "git": _git_commit(), **contents, "versions": versions}


def command(args: argparse.Namespace, metrics: list[str], num_samples: int) -> str:
    """Return the command that makes the same numbers again: without what changes only speed and place."""
    words = ["python", "evaluate.py", str(args.source)]
    for option in ("data", "heldout"):
        if getattr(args, option):
            words += [f"--{option}", str(getattr(args, option))]
    words += ["--protocol", args.protocol, "--features", args.features, "--metrics", ",".join(metrics)]
    words += ["--num-samples", str(num_samples), "--seed", str(args.seed), "--repeats", str(args.repeats),
              "--backtrack", str(args.backtrack), *["--ref-raw"] * args.ref_raw]  # fmt: skip
    return shlex.join(words)


def file_record(path: Path) -> dict[str, str]:
    """Return what identifies a file."""
    with open(path, "rb") as file:
        return {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def networks_record(names: list[str]) -> dict[str, dict]:
    """Return what metrics.json says of the networks that the features came from; thumbnails have none."""
    return {name: {"weights_sha256": sha256_of(NETWORKS[name].weights), "dimension": NETWORKS[name].dimension,
                   "input": NETWORKS[name].input} for name in names if NETWORKS[name].weights}


def numbers_record(measured: Measured, calibration: Calibrations) -> dict[str, dict]:
    """Return the numbers as metrics.json holds them: null, never 0 or NaN, for what was not computed."""
    return {"metrics": {name: {"printed_as": printed_name(name, number.num_fake), **asdict(number)} for name, number in measured.items()},
            "calibration": {name: comparison and asdict(comparison) for name, comparison in calibration.items()}}


def _git_commit() -> str | None:
    """Return the commit that this code is at, with -dirty when it was changed since; None outside git."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
