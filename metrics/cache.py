"""Results computed from images, kept on disk under the hash of everything that they depend on."""

import functools
import hashlib
import json
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from atomic import written

NAMES = "__names__"  # the array that names the others, so that a damaged archive is noticed


class Cache:
    """A folder of .npz files, one per key; it holds only what the last evaluation used."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._used: set[Path] = set()
        self.warnings: list[str] = []

    def load(self, key: dict) -> dict[str, Tensor] | None:
        """Return the tensors stored under `key`; None if there are none or the file is damaged."""
        path = self._path(key)
        try:
            with np.load(path) as arrays:
                tensors = {str(name): torch.from_numpy(arrays[str(name)]) for name in arrays[NAMES]}
        except (OSError, ValueError, EOFError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile):
            return None  # numpy and zipfile raise all of these on damaged files
        self._used.add(path)
        return tensors

    def store(self, key: dict, tensors: dict[str, Tensor]) -> None:
        """Write tensors under `key`, atomically; if that fails, set one warning."""
        path = self._path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_npz(path, {NAMES: np.array(list(tensors))} | {name: tensor.numpy() for name, tensor in tensors.items()})
            self._used.add(path)
        except OSError as error:
            self.warnings = [
                f"{self.folder} cannot be written ({error.strerror or error}): another evaluation will take as long as this one"
            ]

    def prune(self) -> None:
        """Delete files neither loaded nor stored since this cache was opened."""
        with suppress(OSError):
            for path in set(self.folder.glob("*.npz*")) - self._used:  # .part files too, which killed processes leave
                path.unlink(missing_ok=True)

    def _path(self, key: dict) -> Path:
        digest = hashlib.sha256(json.dumps([_code(), key], sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest[:32]}.npz"


ROOT = Path(__file__).parent.parent


@functools.cache
def _code() -> str:
    return source_hash(ROOT)


def source_hash(root: Path) -> str:
    """Return the sha256 of the source of every package in `root` except `lab`, so that changed code invalidates results."""
    packages = [path.parent for path in root.glob("*/__init__.py") if path.parent.name != "lab"]
    sources = {path.relative_to(root).as_posix(): path.read_bytes() for package in packages for path in package.rglob("*.py")}
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    return digest.hexdigest()


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays to an .npz file, atomically."""
    with written(path) as part, open(part, "wb") as file:  # given a path, numpy would append .npz
        np.savez(file, **arrays)
