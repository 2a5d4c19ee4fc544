"""Checkpoints: one file of tensors, numbers, strings, lists and dicts. Loading it runs no code from the file."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from atomic import written
from errors import UserError
from training import portable
from training.folder import RunFolder

FORMAT = "rs-imle/2"
EARLIER = ("rs-imle/1",)  # `methods.load` upgrades these


def snapshot(state: Any) -> Any:
    """Return a copy of a state on the CPU: nested dicts, lists and tuples with their tensors, which training changes in place."""
    if isinstance(state, torch.Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    return type(state)(map(snapshot, state)) if isinstance(state, (list, tuple)) else state


def save(state: dict, path: Path) -> None:
    """Write `state` to `path`, whole or not at all; the file survives a power cut. The suffix .safetensors chooses that format.

    Raises UserError if it cannot be written; a file that was at `path` is then intact.
    """
    state = {"format": FORMAT, **state}
    content = portable.packed(state) if _is_portable(path) else _torch_bytes(state)
    try:
        with written(path, durable=True) as part:
            part.write_bytes(content)
    except OSError as error:
        kept = "the file there before is intact" if path.exists() else "nothing was there before"
        raise UserError(
            f"{path}: cannot be written ({error.strerror}), {kept}; make room or choose another place, then give the same command again"
        ) from None


def read(path: Path, kind: str) -> Any:
    """Return what torch.save wrote to `path`, or `portable.packed` with the suffix .safetensors, on the CPU; no code in it is run.

    Raises UserError, which says that it is not `kind`, for a file that is missing, damaged, or would run code when loaded.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about some files that are refused below
            return portable.unpacked(path) if _is_portable(path) else torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception:  # a damaged or hostile file can raise anything
        raise UserError(f"{path}: not {kind}, or damaged; nothing in it was run") from None


def load(path: Path) -> dict:
    """Return the state that `save` of this or an earlier revision wrote, on the CPU.

    Raises UserError for a file that is missing, damaged, of another kind or format, or would run code when loaded.
    """
    state = read(path, "a checkpoint of this project")
    if not isinstance(state, dict) or not str(state.get("format", "")).startswith("rs-imle/"):
        raise UserError(f"{path}: a checkpoint of another program; this one reads its own (format {FORMAT})")
    if state["format"] not in (FORMAT, *EARLIER):
        raise UserError(f"{path}: has format {state['format']}, this version reads {FORMAT}; use the version that wrote it")
    return state


def _is_portable(path: Path) -> bool:
    return path.suffix.lower() == portable.SUFFIX


def _torch_bytes(state: dict) -> memoryview:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Turn errors from unpacking the content of checkpoint `path` into a UserError that names the file."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError, IndexError, RuntimeError, AssertionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"{path}: lacks a needed part, or its parts do not fit each other ({reason}); an export can be sampled but not trained on"
        ) from None


def find(path: Path) -> Path:
    """Return the checkpoint at `path`, which is a run folder (its last checkpoint) or a checkpoint file.

    Raises UserError if there is none.
    """
    if path.is_dir():
        last = RunFolder(path).last
        if not last.exists():
            raise UserError(f"{path}: no checkpoints/last.pt in it; give a run folder, a checkpoint or an export")
        return last
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    return path
