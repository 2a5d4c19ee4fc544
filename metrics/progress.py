"""One progress bar for a whole evaluation, counted in passes of one image through one network."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Show the progress on stderr, and print an estimate at the start of every long stage."""

    LONG = 20  # seconds
    BATCHES = 8  # used for the estimate

    def __init__(self, total: int, announce: bool = False):
        """`total` is in image passes. `announce` prints the estimates."""
        self._bar = tqdm(total=total, unit="pass", file=sys.stderr, mininterval=0.5)
        self._announce = announce

    def stage(self, what: str, passes: int = 0) -> None:
        """Begin a stage of so many passes."""
        self._bar.set_description(what)
        self._what, self._left, self._paces = what, passes, []

    def advance(self, passes: int) -> None:
        """Count finished passes."""
        self._left -= passes
        if self._announce and len(self._paces) <= self.BATCHES:
            self._paces.append((time.monotonic(), self._left))
            if len(self._paces) == self.BATCHES:  # from the end of the first batch, which includes the set-up
                (begun, before), (now, left) = self._paces[0], self._paces[-1]
                seconds = (now - begun) / (before - left) * left
                if seconds > self.LONG:
                    self._bar.write(f"{self._what}: about {seconds:.0f} s more at the pace of its first batches", file=sys.stderr)
        self._bar.update(passes)

    def skip(self, passes: int) -> None:
        """Remove passes that an earlier evaluation did from the total."""
        self._bar.total -= passes
        self._bar.refresh()

    def close(self) -> None:
        """Close the bar and leave it on the screen."""
        self._bar.close()
