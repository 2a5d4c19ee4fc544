"""The clock of all benchmarks: seconds of a job, of jobs in turn and of a job's parts; rates; peak memory."""

import argparse
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

CPU = torch.device("cpu")
TIMES, SECONDS = 20, 6.0  # limits of `least_seconds`, which measures at least twice

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark that measures a recipe."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("settings", nargs="*", metavar="section.key=value")


def wait(device: torch.device) -> None:
    """Wait until a GPU has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(job: Callable[[], object], device: torch.device = CPU, now: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of `job` by the clock `now`, including the wait for its device."""
    started = now()
    job()
    wait(device)
    return now() - started


def steady(device: torch.device) -> Callable[[], float]:
    """Return the clock that other work on the machine disturbs least: processor time on one CPU thread, else wall time."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def least_seconds(job: Callable[[], object], device: torch.device = CPU) -> float:
    """Return the minimum of several timings of `job` by the steady clock; other work on the machine affects it least."""
    seconds_of(job, device)  # warms up
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < TIMES and sum(taken) < SECONDS):
        taken.append(seconds_of(job, device, steady(device)))
    return min(taken)


def by_turns(jobs: dict[K, Callable[[], T]], rounds: int) -> dict[K, list[T]]:
    """Run the jobs in turn, `rounds` times each, so noise affects all alike; return the results of each."""
    found: dict[K, list[T]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            found[name].append(job())
    return found


def matmul_rate(device: torch.device, side: int, kind: torch.dtype = torch.float32) -> float:
    """Return the operations per second of a matrix product of this `side` and type."""
    a, b = torch.randn(2, side, side, device=device).to(kind)
    return 2 * side**3 / least_seconds(lambda: a @ b, device)


def copy_rate(device: torch.device, elements: int = 2**24) -> float:
    """Return the bytes per second, read plus written, of a copy."""
    source = torch.zeros(elements, device=device)
    target = torch.empty_like(source)
    return 8 * elements / least_seconds(lambda: target.copy_(source), device)


def peak_bytes(device: torch.device = CPU) -> int:
    """Return the peak memory so far: allocated by torch on a GPU, else resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # does not exist on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Clock:
    """Seconds spent in each part of a job, without nested parts."""

    def __init__(self, device: torch.device, places: dict[str, str], elsewhere: str):
        """`places` {part: place} names the place of a call by its innermost open part; other calls are at `elsewhere`."""
        self.device, self.places, self.elsewhere = device, places, elsewhere
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._open: list[list] = []  # [name, start, seconds of nested parts]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time of the block as part `name`."""
        self._open.append([name, self._now(), 0.0])
        try:
            yield
        finally:
            name, begun, inside = self._open.pop()
            self._add(name, begun, inside)

    @property
    def innermost(self) -> str | None:
        """Return the name of the innermost open part; None if no part is open."""
        return self._open[-1][0] if self._open else None

    def split(self, name: str, into: str) -> None:
        """Count the time of the innermost open part so far as `name`, and continue that part as `into`."""
        _, begun, inside = self._open[-1]
        self._add(name, begun, inside, depth=1)
        self._open[-1] = [into, self._now(), 0.0]

    def _add(self, name: str, begun: float, inside: float, depth: int = 0) -> None:
        whole = self._now() - begun
        self.seconds[name] = self.seconds.get(name, 0.0) + whole - inside
        self.calls[name] = self.calls.get(name, 0) + 1
        if len(self._open) > depth:
            self._open[-1 - depth][2] += whole

    def watch(self, owner: object, function: str, name: str, after: Callable[[Any], None] = lambda value: None) -> None:
        """Count the calls of `owner.function` as part `name`; if the name ends in " of", as one part per place."""
        original = getattr(owner, function)

        def timed(*args, **kwargs):
            with self.part(f"{name} {self._place()}" if name.endswith(" of") else name):
                value = original(*args, **kwargs)
            after(value)
            return value

        setattr(owner, function, timed)

    def watch_step(self, method: Any) -> None:
        """Count the parts of an IMLE method's steps: its networks forward and backward, optimiser and EMA."""
        learner = method.learner

        def split_backward(drawn):
            images = drawn[-1] if isinstance(drawn, list) else drawn
            if images.requires_grad:  # the gradient reaches the images when the perceptual backward pass ends
                images.register_hook(lambda _: self.split("perceptual backward", "generator backward"))

        for owner, function, part in (
            (method.embedding, "forward", "perceptual forward of"),
            (torch.Tensor, "backward", "backward"),
            (learner.optimizer, "step", "optimiser"),
            (learner.ema, "update", "EMA"),
        ):
            self.watch(owner, function, part)
        for network in {method.generator, learner.network}:  # two networks if there are heads; neither calls the other's forward
            self.watch(network, "forward", "generator forward of", after=split_backward)

    def _place(self) -> str:
        return next((self.places[name] for name, _, _ in reversed(self._open) if name in self.places), self.elsewhere)

    def _now(self) -> float:
        wait(self.device)
        return time.perf_counter()
