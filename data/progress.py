"""The progress line for reading many images."""

import os
import sys
import time


class ProgressLine:
    """Print on stderr how many files are read, after the first seconds; only the first process prints."""

    AFTER = 2.0  # seconds
    EVERY = 0.5

    def __init__(self) -> None:
        self._next = time.monotonic() + self.AFTER
        self._silent = os.environ.get("RANK", "0") != "0"  # torchrun's number of this process
        self._told = False

    def __call__(self, done: int, total: int) -> None:
        """Print that `done` of `total` files are read, at most every half second."""
        last = self._told and done == total
        if not self._silent and (last or time.monotonic() >= self._next):
            print(f"\r{done}/{total} files read", end="\n" if done == total else "", file=sys.stderr, flush=True)
            self._next, self._told = time.monotonic() + self.EVERY, True
