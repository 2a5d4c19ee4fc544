"""The log of a run: metrics.jsonl (complete), TensorBoard (a view of it), sheets, the environment."""

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

from atomic import write_text
from errors import UserError
from training import processes
from training.folder import RunFolder
from training.sheets import grid, save_png


class RunLog:
    """Write the log of a run in `folder`."""

    def __init__(self, folder: Path, resume_at: int = 0, step: int = 0):
        """Open the log. The run continues at `step`; metrics.jsonl was `resume_at` bytes long at that checkpoint.

        Later rows are cut off, because their steps will run again. Raises UserError, before it changes anything, if another
        process has the log open.
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
        """Write the settings (YAML), the environment and a sheet of the uint8 images (N, 3, H, W) as the run uses them."""
        for path, text in ((self.folder.config, settings), (self.folder.environment, json.dumps(environment, indent=2))):
            write_text(path, text)
        save_png(grid(images, columns=20), self.folder.images)

    def row(self, kind: str, step: int, values: dict[str, float], seconds: float) -> None:
        """Append one row of numbers; a number that is not finite becomes null, because JSON has no NaN or infinity."""
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        row = {"kind": kind, "step": step, **finite, "seconds": round(seconds, 3)}
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()
        for name, value in values.items():
            self.view.add("scalar", f"{kind}/{name}", value, step)

    def position(self) -> int:
        """Return the length of metrics.jsonl in bytes."""
        return self.file.tell()

    def sync(self) -> None:
        """Wait until all rows are on the disk. A checkpoint needs this before it is written: it holds the length of the log."""
        os.fsync(self.file.fileno())

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
    """The TensorBoard view, for any thread. If it cannot be written, it stops with a warning and the run continues."""

    def __init__(self, folder: Path, step: int):
        """Begin an event file in `folder`; it replaces the events of earlier files from `step` on."""
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.open, self.lock = folder, True, threading.Lock()
        # The writer has its own thread. Its failure is raised at our next call, so its traceback is suppressed.
        usual = threading.excepthook
        threading.excepthook = lambda args: None if type(args.thread).__module__.startswith("tensorboard") else usual(args)
        with self.ending():
            self.writer = SummaryWriter(str(folder), purge_step=step)

    def add(self, kind: str, *what: object) -> None:
        """Add a "scalar" or an "image"; `what` is its name, value and step."""
        with self.ending():
            if self.open:
                getattr(self.writer, f"add_{kind}")(*what)

    def close(self) -> None:
        with self.ending():
            if self.open:
                self.writer.close()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Stop the view if something cannot be written."""
        try:
            yield
        except OSError as error:
            with self.lock:
                first, self.open = self.open, False
            if first:
                tqdm.write(
                    f"warning: {self.folder} cannot be written ({error.strerror or error}); TensorBoard shows nothing from here on, "
                    "metrics.jsonl stays complete",
                    file=sys.stderr,
                )


def keep_to_oneself(file: BinaryIO, folder: Path) -> None:
    """Lock an open file until it is closed or its process ends; do nothing on Windows and on disks without locks.

    Raises UserError if another process has locked it.
    """
    with suppress(ImportError, OSError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--run {folder}: another process is training in it; wait until it ends, or choose another --run") from None


class SilentLog:
    """Replace the log in all processes except the main one."""

    def row(self, kind: str, step: int, values: dict[str, float], seconds: float) -> None:
        pass

    def close(self) -> None:
        pass


def environment(device: torch.device, command: list[str]) -> dict:
    """Return the command, versions and device of the run."""
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
