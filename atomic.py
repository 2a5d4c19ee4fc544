"""Atomic writes: a reader sees either the old file or the complete new one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFTOVERS = ".*part"  # NAME + this pattern matches the unfinished files of killed processes, also of earlier revisions


@contextmanager
def written(path: Path, durable: bool = False) -> Iterator[Path]:
    """Yield a path NAME.PID.part to write to; on exit move it to `path`.

    With `durable` the file and its name survive a power cut. After an exception, Ctrl-C included, the file that was at
    `path` is intact, and the part is removed. Raises OSError.
    """
    part = path.parent / f"{path.name}.{os.getpid()}.part"
    try:
        yield part
        if durable:
            _sync(part, os.O_RDWR)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    if durable:
        with suppress(OSError):  # not every system can sync folders
            _sync(path.parent, os.O_RDONLY)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8. Raises OSError."""
    with written(path) as part:
        part.write_text(text, encoding="utf-8")


def _sync(path: Path, mode: int) -> None:
    number = os.open(path, mode)
    try:
        os.fsync(number)
    finally:
        os.close(number)
