"""Checkpoints: one file of tensors, numbers, strings, lists and dicts, which loads without running anybody's code."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from atomic import written
from errors import UserError
from training.folder import RunFolder

FORMAT = "rs-imle/2"
EARLIER = ("rs-imle/1",)  # that `methods.load` upgrades


def save(state: dict, path: Path) -> None:
    """Write `state` to `path`, whole or not at all, so that it survives a power cut.

    Raises UserError when it cannot be written; the file that was there is then intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    try:
        with written(path, durable=True) as part:
            part.write_bytes(buffer.getbuffer())
    except OSError as error:
        kept = "the file there before is intact" if path.exists() else "nothing was there before"
        raise UserError(
            f"{path}: cannot be written ({error.strerror}), {kept}; make room or choose another place, then give the same command again"
        ) from None


def load(path: Path) -> dict:
    """Return what `save` of this or an earlier revision wrote, on the CPU.

    Raises UserError for a file that is missing, damaged, of another kind or format, or would run code when loaded.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch says of files that are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # there is no end to what a damaged or hostile file can raise
        raise UserError(f"{path}: not a checkpoint of this project, or damaged; nothing in it was run") from None
    if not isinstance(state, dict) or not str(state.get("format", "")).startswith("rs-imle/"):
        raise UserError(f"{path}: a checkpoint of another program; this one reads its own (format {FORMAT})")
    if state["format"] not in (FORMAT, *EARLIER):
        raise UserError(f"{path}: has format {state['format']}, this version reads {FORMAT}; use the version that wrote it")
    return state


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Turn what goes wrong while the content of a checkpoint is put in its place into a UserError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"{path}: lacks what is needed here, or its parts do not fit each other ({reason}); an export can be sampled but not trained on"
        ) from None


def find(path: Path) -> Path:
    """Return the checkpoint meant by a run folder (its last one) or by a checkpoint's own path.

    Raises UserError when there is none.
    """
    if path.is_dir():
        last = RunFolder(path).last
        if not last.exists():
            raise UserError(f"{path}: no checkpoints/last.pt in it; give a run folder or a .pt file")
        return last
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    return path
