"""Files that are written whole or not at all: a reader sees the old file or the new one, whatever happens."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEFTOVERS = ".*part"  # after a file's name: the pattern of what killed processes, of earlier revisions too, left beside it


@contextmanager
def written(path: Path, durable: bool = False) -> Iterator[Path]:
    """Give a path NAME.PID.part to write to; replace `path` by it at the end.

    With `durable` the file and its name survive a power cut. Where anything is raised, also by Ctrl-C, the file that
    was at `path` is intact, and nothing is left beside it. Raises OSError.
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


def _sync(path: Path, mode: int) -> None:
    number = os.open(path, mode)
    try:
        os.fsync(number)
    finally:
        os.close(number)
