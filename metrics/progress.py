"""One progress bar for a whole evaluation, counted in passes of one image through one network."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Show on stderr how far the work is, and at the start of every long stage say in a line what it will take."""

    LONG = 20  # seconds
    BATCHES = 8  # that the estimate is made from

    def __init__(self, total: int, announce: bool = False):
        """`total` is in image passes. With `announce` the estimates are printed, for whoever must decide to wait."""
        self._bar = tqdm(total=total, unit="pass", file=sys.stderr, mininterval=0.5)
        self._announce = announce

    def stage(self, what: str, passes: int = 0) -> None:
        """Name what comes now, and how many passes it takes."""
        self._bar.set_description(what)
        self._what, self._left, self._paces = what, passes, []

    def advance(self, passes: int) -> None:
        """Count work that was done."""
        self._left -= passes
        if self._announce and len(self._paces) <= self.BATCHES:
            self._paces.append((time.monotonic(), self._left))
            if len(self._paces) == self.BATCHES:  # counted from the end of the first, which also sets up what is needed once
                (begun, before), (now, left) = self._paces[0], self._paces[-1]
                seconds = (now - begun) / (before - left) * left
                if seconds > self.LONG:
                    self._bar.write(f"{self._what}: about {seconds:.0f} s more at the pace of its first batches", file=sys.stderr)
        self._bar.update(passes)

    def skip(self, passes: int) -> None:
        """Take off work that was done in an earlier evaluation."""
        self._bar.total -= passes
        self._bar.refresh()

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()
