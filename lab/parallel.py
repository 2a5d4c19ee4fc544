"""Processes that run an experiment's parts."""

import multiprocessing
import signal
from multiprocessing.pool import Pool

from errors import ending_signals


def processes(number: int) -> Pool:
    """Return a pool of processes. A signal to end ends them as Ctrl-C does."""
    for ending in ending_signals():
        signal.signal(ending, signal.default_int_handler)
    return multiprocessing.get_context("spawn").Pool(number)
