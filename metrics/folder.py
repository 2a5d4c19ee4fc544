"""The folder of a report: where it is, and files that are written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

from errors import UserError
from metrics.cache import write_npz


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


def run_of(source: Path) -> Path | None:
    """Return the run folder that a source is, or is a checkpoint of; None for anything else."""
    for folder in (source, source.parent.parent):
        if (folder / "checkpoints").is_dir() and (folder / "metrics.jsonl").is_file():
            return folder
    return None


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
