"""The report of an evaluation in text: the table and its legend for people, metrics.json for programs."""

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from errors import UserError
from metrics.cache import write_npz
from metrics.calibration import Calibration
from metrics.features import NETWORKS
from metrics.measure import FRECHETS, KERNELS, OFFLINE_JUDGES, PUBLISHED_SAMPLES, Measurement, disagreement
from metrics.teacher import teachers
from metrics.verdict import Sentence
from models.weights import sha256_of

SCHEMA = "rs-imle.evaluation.2"
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pillow", "pytorch-fid")
BESIDE = {"copies": "copy", "changed": "changed_copy", "halves": "split_half", "as halves": "as_halves", "held-out": "held_out", "as held-out": "as_many"}
COLUMNS = ("metric", "value", "uncertainty", "better", "real/fake", *BESIDE, "comparable")
SMALL = ("backtrack", "intra_lpips")  # perceptual distances, printed with a decimal more
RIGHT = ("value", *BESIDE)  # aligned at the decimal point
MARK = "*"  # of numbers whose network is also the training loss

Measured = dict[str, Measurement]
Calibrations = dict[str, Calibration | None]


def text(measured: Measured, calibration: Calibrations, sentences: list[Sentence], warnings: list[str]) -> str:
    """Return everything that is printed: the table, what its columns are, the verdict and the warnings."""
    return "\n".join([table(measured, calibration), *legend(measured, calibration),
                      *(f"verdict: {sentence.text}" for sentence in sentences), *(f"warning: {each}" for each in warnings)])  # fmt: skip


def table(measured: Measured, calibration: Calibrations) -> str:
    """Return the numbers as aligned lines, and beside each what it is for real images in the place of samples."""
    return aligned(rows(measured, calibration), right=RIGHT)


def rows(measured: Measured, calibration: Calibrations) -> list[tuple[str, ...]]:
    """Return the cells of the table, its head first. Uncertainty is one standard error or a 95% interval."""
    cells = [COLUMNS]
    for name, number in measured.items():
        if number.error is not None:
            uncertainty = f"+- {printed_value(name, number.error)}"
        elif number.interval is not None:
            uncertainty = "{:.2f} to {:.2f}".format(*number.interval)
        else:
            uncertainty = "-"
        beside = [printed_value(name, calibration[key].values.get(name)) if calibration.get(key) else "-" for key in BESIDE.values()]
        mark = f" {MARK}" if number.also_training_loss else ""
        cells.append((printed_name(name, number.num_fake) + mark, printed_value(name, number.value), uncertainty, number.better,
                      f"{number.num_real}/{number.num_fake}", *beside, "yes" if number.comparable_with_published else "no"))  # fmt: skip
    return cells


def aligned(cells: list[tuple[str, ...]], right: tuple[str, ...]) -> str:
    """Return rows of cells as lines of equal columns; those whose head is in `right` end together."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [[cell.rjust(width) if head in right else cell.ljust(width) for cell, width, head in zip(row, widths, cells[0])]
             for row in cells]  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in lines)


def legend(measured: Measured, calibration: Calibrations) -> list[str]:
    """Return in words what the table's columns of comparison are, and what is to be known of single numbers."""
    lines = [f"{column}: {calibration[key].meaning} ({calibration[key].num_real}/{calibration[key].num_fake})"
             for column, key in BESIDE.items() if calibration.get(key)]  # fmt: skip
    spoilt = {key: each for key, each in calibration.items() if key.startswith("spoilt, ")}
    if spoilt:
        shares = ", ".join(f"{name.removeprefix('spoilt, ')} {value:.2f}" for name, each in spoilt.items()
                           for key, value in each.values.items() if key.startswith("precision") and value is not None)  # fmt: skip
        lines.append(f"precision of real images that were spoilt, in the place of the other half: {shares}")
    if not calibration.get("held_out"):
        lines.append("held-out: none; train with data.holdout=0.1 or give --heldout to see what fresh images score")
    if taught := teachers(measured):
        lines.append(f"{MARK}: in {' and '.join(taught)}, also the training loss of this run")
    lines.append("comparable: with published numbers; Frechet distances fall as counts grow, so compare equal counts")
    for name, number in measured.items():
        if number.repeats:
            spread = torch.tensor(number.repeats, dtype=torch.float64)
            deviation, least = (printed_value(name, float(each)) for each in (spread.std(), spread.min()))
            lines.append(f"{name}: mean of {len(spread)} sets of samples, standard deviation {deviation}, least {least}")
        if number.note:
            lines.append(f"{name}: {number.note}")
    return lines


def warnings_of(measured: Measured, selected_by: str | None = None) -> list[str]:
    """Return what a reader must know before quoting the numbers; `selected_by` is the score that chose the checkpoint."""
    warnings = [f"{name} was not computed: {number.reason}" for name, number in measured.items() if number.value is None]
    warnings += filter(None, [disagreement(measured)])
    if selected_by:
        warnings.append(f"this checkpoint was chosen among others by its {selected_by} to the training images, which flatters it")
    if any(name.startswith("fid") and number.num_fake < PUBLISHED_SAMPLES for name, number in measured.items()):
        warnings.append(f"fid falls with the number of samples; published few-shot values use {PUBLISHED_SAMPLES}")
    for network in OFFLINE_JUDGES:
        if any(number.network == network for number in measured.values()):
            warnings.append(f"these numbers use {NETWORKS[network].title}: compare them with each other, with no published number")
    for title, settings in teachers(measured).items():
        warnings.append(f"{title} is also the training loss of this run ({', '.join(settings)}), so that the numbers marked {MARK} partly "
                        f"measure what was trained: --features {OFFLINE_JUDGES[0]} judges by a network that no recipe trains on")
    return warnings


def networks_record(names: list[str]) -> dict[str, dict]:
    """Return what metrics.json says of the networks that the features came from; thumbnails have none."""
    return {name: {"weights_sha256": sha256_of(NETWORKS[name].weights), "dimension": NETWORKS[name].dimension,
                   "input": NETWORKS[name].input} for name in names if NETWORKS[name].weights}


def numbers_record(measured: Measured, calibration: Calibrations) -> dict[str, dict]:
    """Return the numbers as metrics.json holds them: null, never 0 or NaN, for what was not computed."""
    return {"metrics": {name: {"printed_as": printed_name(name, number.num_fake), **asdict(number)} for name, number in measured.items()},
            "calibration": {name: comparison and asdict(comparison) for name, comparison in calibration.items()}}


def printed_name(name: str, num_fake: int) -> str:
    """Return a metric's name as it is printed: Frechet distances with the number of samples that they depend on."""
    if name in FRECHETS:
        count = f"{num_fake // 1000}k" if num_fake and num_fake % 1000 == 0 else str(num_fake)
        return f"{name}_{count}" if name[-1].isdigit() else f"{name}{count}"
    return f"{name} (x1000)" if name in KERNELS else name


def printed_value(name: str, value: float | None) -> str:
    """Return a number of the metric as it is printed; `-` for None."""
    if value is None:
        return "-"
    return f"{value * 1000:.2f}" if name in KERNELS else f"{value:.3f}" if name.startswith(SMALL) else f"{value:.2f}"


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


def default_folder(source: Path, protocol: str, features: str) -> Path:
    """Return where the report goes unless the user says otherwise: into the run, or beside a file or folder of images."""
    kind = features if protocol == "default" else protocol
    if (source / "checkpoints").is_dir():
        return source / "evaluation" / kind
    if source.parent.name == "checkpoints":  # one checkpoint of a run
        return source.parent.parent / "evaluation" / source.stem / kind
    absolute = source.absolute()
    name = absolute.name if source.is_dir() else absolute.stem
    return absolute.with_name(f"{name}-evaluation") / kind


def make_folder(path: Path) -> Path:
    """Make the folder for the report, before anything slow. Raises UserError when that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()  # a folder may be there, and not for this user to write in
    except OSError as error:
        raise UserError(f"--out {path}: cannot be made or written in ({error.strerror}); name another folder") from None
    return path


@contextmanager
def written(folder: Path, text: str) -> Iterator[None]:
    """Print `text` when the files of a report are written into `folder`, and also when that failed: it took long.

    Raises UserError then.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"--out {folder}: the report cannot be written ({error.strerror or error}), the numbers above are all "
                        "there is; make room or name another folder, then give the same command again") from None  # fmt: skip
    finally:
        print(text, flush=True)


def document(**contents: object) -> dict:
    """Return the contents of metrics.json with the versions of everything that the numbers depend on."""
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"schema": SCHEMA, "git": _git_commit(), **contents, "versions": versions}


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_numbers(folder: Path, contents: dict) -> Path:
    """Write metrics.json and return its path. A NaN in the contents is an error: what was not computed is null."""
    path = folder / "metrics.json"
    write(path, json.dumps(contents, indent=2, allow_nan=False) + "\n")
    return path


def write_statistics(folder: Path, features: Tensor) -> None:
    """Write features_real.npz: `mu` and `sigma` as pytorch-fid reads them in the place of a folder, and the features."""
    if len(features) >= 2:
        rows = features.numpy()
        activations = rows.astype(np.float64)
        write_npz(folder / "features_real.npz",
                  {"mu": activations.mean(axis=0), "sigma": np.cov(activations, rowvar=False), "features": rows})


def _git_commit() -> str | None:
    """Return the commit that this code is at, with -dirty when it was changed since; None outside git."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def run_of(source: Path) -> Path | None:
    """Return the run folder that a source is, or is a checkpoint of; None for anything else."""
    for folder in (source, source.parent.parent):
        if (folder / "checkpoints").is_dir() and (folder / "metrics.jsonl").is_file():
            return folder
    return None
