"""What a run writes on its way: metrics.jsonl (the truth), TensorBoard (a view of it), sheets, the environment."""

import json
import math
import os
import platform
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from tqdm import tqdm

from atomic import written
from errors import UserError
from training import processes
from training.folder import RunFolder
from training.sheets import grid, save_png


class RunLog:
    """Write what happens in a run under `folder`."""

    def __init__(self, folder: Path, resume_at: int = 0, step: int = 0):
        """Open the log; `resume_at` is the length of metrics.jsonl at the checkpoint that the run goes on from.

        Rows after it were written by steps that will be run again, and are cut off. Raises UserError where another
        process has the log open, before anything is changed.
        """
        self.folder = RunFolder(folder)
        for place in (self.folder.last.parent, self.folder.tensorboard):
            place.mkdir(parents=True, exist_ok=True)
        self.file = open(self.folder.metrics, "ab")
        keep_to_oneself(self.file, folder)
        self.folder.remove_leftovers()
        self.file.truncate(min(resume_at, self.file.tell()))
        self.file.seek(0, os.SEEK_END)
        self.view = View(self.folder.tensorboard, step)

    def describe(self, settings: str, environment: dict, images: Tensor) -> None:
        """Write down what the run is: its settings as YAML, what it runs on, and uint8 images (N, 3, H, W) as it uses them."""
        for path, text in ((self.folder.config, settings), (self.folder.environment, json.dumps(environment, indent=2))):
            with written(path) as part:
                part.write_text(text, encoding="utf-8")
        save_png(grid(images, columns=20), self.folder.images)

    def row(self, kind: str, step: int, values: dict[str, float], seconds: float) -> None:
        """Append one row of numbers; one that is not finite, which JSON does not know, is written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"kind": kind, "step": step, **finite, "seconds": round(seconds, 3)}
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()
        for name, value in values.items():
            self.view.add("scalar", f"{kind}/{name}", value, step)

    def position(self) -> int:
        """Return the length of metrics.jsonl so far, safely on disk."""
        os.fsync(self.file.fileno())
        return self.file.tell()

    def sheet(self, kind: str, step: int, images: Tensor, columns: int) -> None:
        """Save a sheet of uint8 images (N, 3, H, W) in the folder `kind`, and show it in TensorBoard."""
        picture, path = grid(images, columns), self.folder.sheet(kind, step)
        path.parent.mkdir(exist_ok=True)
        save_png(picture, path)
        self.view.add("image", kind, picture, step)

    def close(self) -> None:
        self.view.close()
        self.file.close()


class View:
    """What TensorBoard shows; where it cannot be written it ends with a warning, and the run goes on."""

    def __init__(self, folder: Path, step: int):
        """Begin a file in `folder`, in which what an earlier one has from `step` on is out of date."""
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.writer = folder, None
        # It writes in a thread of its own, whose failure reaches us at the next call: no need for a traceback as well.
        usual = threading.excepthook
        threading.excepthook = lambda args: None if type(args.thread).__module__.startswith("tensorboard") else usual(args)
        with self.ending():
            self.writer = SummaryWriter(str(folder), purge_step=step)

    def add(self, kind: str, *what: object) -> None:
        """Add a "scalar" or an "image": its name, its value and its step."""
        with self.ending():
            if self.writer:
                getattr(self.writer, f"add_{kind}")(*what)

    def close(self) -> None:
        with self.ending():
            if self.writer:
                self.writer.close()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """End where something cannot be written."""
        try:
            yield
        except OSError as error:
            self.writer = None
            tqdm.write(
                f"warning: {self.folder} cannot be written ({error.strerror or error}), and shows nothing from here on; "
                "metrics.jsonl still has it all",
                file=sys.stderr,
            )


def keep_to_oneself(file: BinaryIO, folder: Path) -> None:
    """Lock an open file until it is closed, or its process ends in whatever way; Windows and some network disks have no locks.

    Raises UserError where another process has locked it.
    """
    with suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--run {folder}: another process is training in it; wait for its end, or choose another --run") from None


class SilentLog:
    """Stand in for the log in all processes but the main one."""

    def row(self, kind: str, step: int, values: dict[str, float], seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def environment(device: torch.device, command: list[str]) -> dict:
    """Describe what the run ran on."""
    import numpy

    return {
        "command": command,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
    }
