"""Writing in the background: training goes on while files are encoded and synced to the disk."""

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from tqdm import tqdm


class Writer:
    """Do jobs in one background thread, in the order in which they are added.

    Leaving `with writer:` waits until all jobs are done, and raises the error of the first job that failed. If another error
    is being raised already, that one goes on, and a warning tells the job's. After Ctrl-C the jobs that have not begun are
    dropped.
    """

    def __init__(self) -> None:
        # torch computes in one thread there: with a second team of threads alive, OpenMP lets those of the first sleep, and steps
        # on two cores take 1.7 times as long. The new number holds for all threads that have not asked for theirs, so ask here.
        torch.get_num_threads()
        self.thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self.jobs: deque[tuple[str, Future]] = deque()  # kind and end of the jobs that may not be done, in order
        self.failed: BaseException | None = None  # the error of the first job that failed

    def add(self, kind: str, job: Callable[[], None]) -> None:
        """Do `job` later, after `make_room`. Raises the error of the first job that failed."""
        self.make_room(kind)
        self.jobs.append((kind, self.thread.submit(job)))

    def make_room(self, kind: str) -> None:
        """Wait until at most one job of this kind is not done: at most two then hold memory, however slow the disk is.

        Raises the error of the first job that failed.
        """
        while sum(other == kind for other, _ in self.jobs) > 1:
            self._take()
        self.check()

    def check(self) -> None:
        """Raise the error of the first job that failed, without waiting."""
        while self.jobs and self.jobs[0][1].done():
            self._take()
        if self.failed:
            raise self.failed

    def wait(self) -> None:
        """Wait until all jobs are done; a failure is raised later."""
        while self.jobs:
            self._take()

    def _take(self) -> None:
        self.failed = self.failed or self.jobs[0][1].exception()  # which waits
        self.jobs.popleft()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            if not isinstance(error, KeyboardInterrupt):
                self.wait()
        finally:  # also if Ctrl-C ends the waiting
            for _, end in self.jobs:
                end.cancel()
            self.jobs.clear()
        if self.failed and error is None:
            raise self.failed
        if self.failed and error is not self.failed:
            tqdm.write(f"warning: {self.failed}", file=sys.stderr)
