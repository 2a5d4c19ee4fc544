"""The report of an evaluation: the table and the words for people, metrics.json for programs."""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
from dataclasses import asdict
from pathlib import Path

from errors import UserError
from metrics.calibration import Calibration
from metrics.features import NETWORKS
from metrics.measure import KERNELS, PUBLISHED_SAMPLES, Measurement, disagreement
from models.weights import WEIGHTS

SCHEMA = "rs-imle.evaluation.1"
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pytorch-fid")
COLUMNS = ("metric", "value", "uncertainty", "better", "real/fake", "copies", "halves", "held-out", "comparable")
RIGHT = ("value", "copies", "halves", "held-out")  # aligned at the decimal point
CLEARLY = 2  # standard errors


def table(measured: dict[str, Measurement], calibration: dict[str, Calibration | None]) -> str:
    """Return the numbers as aligned lines, and beside each what it is for real images in the place of samples.

    Uncertainty is one standard error or a 95% interval.
    """
    rows = [COLUMNS]
    for name, number in measured.items():
        shown, scale, decimals = _shown(name)
        if number.error is not None:
            uncertainty = f"+- {number.error * scale:.{decimals}f}"
        elif number.interval is not None:
            uncertainty = "{:.2f} to {:.2f}".format(*number.interval)
        else:
            uncertainty = "-"
        floors = [_value(name, comparison.values.get(name)) if comparison else "-"
                  for comparison in (calibration[key] for key in ("copy", "split_half", "held_out"))]  # fmt: skip
        rows.append((shown, _value(name, number.value), uncertainty, number.better,
                     f"{number.num_real}/{number.num_fake}", *floors, "yes" if number.comparable_with_published else "no"))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows)]
    aligned = [[cell.rjust(width) if column in RIGHT else cell.ljust(width)
                for cell, width, column in zip(row, widths, COLUMNS)] for row in rows]  # fmt: skip
    return "\n".join("  ".join(row).rstrip() for row in aligned)


def legend(calibration: dict[str, Calibration | None]) -> list[str]:
    """Return in words what the table's columns of comparison are."""
    named = {"copies": calibration["copy"], "halves": calibration["split_half"], "held-out": calibration["held_out"]}
    lines = [f"{name}: {comparison.meaning} ({comparison.num_real}/{comparison.num_fake})"
             for name, comparison in named.items() if comparison]  # fmt: skip
    if named["held-out"] is None:
        lines.append("held-out: none; train with data.holdout=0.1 or give --heldout to see what fresh images score")
    return [*lines, "comparable: with published numbers; Frechet distances fall as counts grow, so compare equal counts"]


def warnings_of(measured: dict[str, Measurement], calibration: dict[str, Calibration | None]) -> list[str]:
    """Return what a reader must know before quoting the numbers."""
    warnings = [f"{name} was not computed: {number.reason}" for name, number in measured.items() if number.value is None]
    warnings += filter(None, [disagreement(measured)])
    for name, number in measured.items():
        floor = calibration["copy"].values.get(name)
        if name in KERNELS and number.error is not None and number.value < -CLEARLY * number.error:
            warnings.append(
                f"{name} is clearly below zero (a mere copier has {_value(name, floor)}): the samples are nearer to the "
                "real images than fresh images of the same kind would be, which means copying")
    if "fid_exact" in measured and not measured["fid_exact"].comparable_with_published:
        warnings.append(f"fid falls with the number of samples; published few-shot values use {PUBLISHED_SAMPLES}")
    if any(name.endswith("_effnetlite0") for name in measured):
        warnings.append("these numbers use EfficientNet-Lite0: compare them with each other, with no published number")
    return warnings


def networks_record(names: list[str]) -> dict[str, dict]:
    """Return what metrics.json says of the networks that the features came from."""
    return {name: {"weights_sha256": WEIGHTS[name].sha256, "dimension": NETWORKS[name].dimension,
                   "input": NETWORKS[name].input} for name in names}


def numbers_record(measured: dict[str, Measurement], calibration: dict[str, Calibration | None]) -> dict[str, dict]:
    """Return the numbers as metrics.json holds them: null, never 0 or NaN, for what was not computed."""
    return {"metrics": {name: asdict(number) for name, number in measured.items()},
            "calibration": {name: comparison and asdict(comparison) for name, comparison in calibration.items()}}


def command(args: argparse.Namespace, num_samples: int) -> str:
    """Return the command that makes the same numbers again: without what changes only speed and place."""
    words = ["python", "evaluate.py", str(args.source)]
    for option in ("data", "heldout"):
        if getattr(args, option):
            words += [f"--{option}", str(getattr(args, option))]
    words += ["--metrics", ",".join(args.metrics), "--features", args.features, "--num-samples", str(num_samples),
              "--seed", str(args.seed)]  # fmt: skip
    return shlex.join(words)


def file_record(path: Path) -> dict[str, str]:
    """Return what identifies a file."""
    with open(path, "rb") as file:
        return {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def default_folder(source: Path, features: str) -> Path:
    """Return where the report goes unless the user says otherwise: into the run, or beside a file or folder of images."""
    if (source / "checkpoints").is_dir():
        return source / "evaluation" / features
    if source.parent.name == "checkpoints":  # one checkpoint of a run
        return source.parent.parent / "evaluation" / source.stem / features
    absolute = source.absolute()
    name = absolute.name if source.is_dir() else absolute.stem
    return absolute.with_name(f"{name}-evaluation") / features


def make_folder(path: Path) -> Path:
    """Make the folder for the report, before anything slow. Raises UserError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be made ({error.strerror}); name another folder") from None
    return path


def write(folder: Path, **contents: object) -> Path:
    """Write metrics.json whole or not at all, with the versions of everything the numbers depend on; return its path.

    A NaN in the contents is an error: what was not computed is null.
    """
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    document = {"schema": SCHEMA, "git": _git_commit(), **contents, "versions": versions}
    path = folder / "metrics.json"
    partial = folder / f"metrics.json.{os.getpid()}.part"
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _git_commit() -> str | None:
    """Return the commit that this code is at, with -dirty when it was changed since; None outside git."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _shown(name: str) -> tuple[str, float, int]:
    """Return how a metric is printed: its name, the factor of its value, and the decimals."""
    return (f"{name} (x1000)", 1000.0, 2) if name in KERNELS else (name, 1.0, 2)


def _value(name: str, value: float | None) -> str:
    _, scale, decimals = _shown(name)
    return "-" if value is None else f"{value * scale:.{decimals}f}"
