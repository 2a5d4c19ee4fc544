"""Checkpoints: one file of tensors, numbers, strings, lists and dicts, which loads without running anybody's code."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import torch

from errors import UserError

FORMAT = "rs-imle/1"


def save(state: dict, path: Path) -> None:
    """Write `state` to `path`, whole or not at all: a reader sees the old file or the new one, whatever happens.

    Raises UserError when it cannot be written; the file that was there is then intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
        if os.name == "posix":  # make the new name itself survive a power cut
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        part.unlink(missing_ok=True)
        kept = "the one there before is intact" if path.exists() else "there is none yet"
        raise UserError(f"{path}: cannot save a checkpoint ({error.strerror}), {kept}; "
                        "free some space or choose another --run, then run the same command again") from None  # fmt: skip


def load(path: Path) -> dict:
    """Return what `save` wrote, on the CPU.

    Raises UserError for a file that is missing, damaged, of another kind, or would run code when loaded.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError, AttributeError):
        raise UserError(f"{path}: not a checkpoint of this project, or damaged; nothing in it was run") from None
    if not isinstance(state, dict) or not str(state.get("format", "")).startswith("rs-imle/"):
        raise UserError(f"{path}: a checkpoint of another program; this one reads its own (format {FORMAT})")
    if state["format"] != FORMAT:
        raise UserError(f"{path}: has format {state['format']}, this version reads {FORMAT}; use the version that wrote it")
    return state


def find(path: Path) -> Path:
    """Return the checkpoint meant by a run folder (its last one) or by a checkpoint's own path.

    Raises UserError when there is none.
    """
    if path.is_dir():
        last = path / "checkpoints" / "last.pt"
        if not last.exists():
            raise UserError(f"{path}: no checkpoints/last.pt in it; give a run folder or a .pt file")
        return last
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    return path
