"""Compare the speed of two revisions: python benchmarks/revisions.py --against REV [--threads N] [section.key=value ...]

Both revisions run their own train.py by turns on the set that comes with the project. With one thread their CPU-seconds are
compared, which other work on the machine affects least; with more threads wall time, because CPU-seconds then count waiting
threads. "A step" is the difference between a longer and a shorter run without refreshes, divided by the steps. "A training" is a
whole run of --epochs, with start-up, refreshes, sheets and scores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from clock import by_turns

from errors import run_as_command

EPOCHS = 5, 25  # of the shorter and the longer run; the difference counts
STEPS_PER_EPOCH = 10  # 100 images in batches of 10


def step(code: Path, recipe: str, words: list[str]) -> float:
    """Return the seconds of a step."""
    quiet = [*words, "imle.refresh_epochs=1000", "log.sheet_epochs=1000"]
    shorter, longer = (training(code, recipe, [*quiet, f"train.epochs={epochs}"]) for epochs in EPOCHS)
    return (longer - shorter) / (STEPS_PER_EPOCH * (EPOCHS[1] - EPOCHS[0]))


def training(code: Path, recipe: str, words: list[str]) -> float:
    """Return the seconds of a run of the train.py in the folder `code`: CPU-seconds if it has one thread."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--config", f"configs/{recipe}.yaml", "--run", f"{folder}/run", *words]
        began = time.monotonic()
        process = subprocess.Popen(command, cwd=code, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), command)
    return used.ru_utime + used.ru_stime if os.environ["OMP_NUM_THREADS"] == "1" else time.monotonic() - began


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Yield a temporary folder with the code of a git revision."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "code"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", place, revision], check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", place], check=True)


def table(found: dict[tuple[str, str], list[float]], names: tuple[str, str]) -> str:
    """Return medians and ratios of both revisions as text; a ratio above 1 means that the first one is faster."""
    lines = [f"{'seconds':<16}" + "".join(f"{name:>14}" for name in names) + f"{'ratio':>8}"]
    for job in dict.fromkeys(job for job, _ in found):
        ours, theirs = (statistics.median(found[job, name]) for name in names)
        lines.append(f"{job:<16}{ours:>14.4g}{theirs:>14.4g}{theirs / ours:>8.2f}")
    return "\n".join(lines)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", metavar="REV", required=True, help="git revision to compare with")
    parser.add_argument("--recipe", default="fluent-faces-64", help="recipe in configs/, as each revision has it (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of a training (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (%(default)s)")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings that both revisions know")
    args = parser.parse_intermixed_args(words)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    with checked_out(args.against) as place:
        names = "this code", args.against
        jobs: dict[tuple[str, str], Callable[[], float]] = {}
        for name, code in zip(names, (ROOT, place)):
            jobs["a step", name] = partial(step, code, args.recipe, args.settings)
            jobs["a training", name] = partial(training, code, args.recipe, [*args.settings, f"train.epochs={args.epochs}"])
        print(f"{args.threads} threads, median of {args.rounds} rounds\n{table(by_turns(jobs, args.rounds), names)}")


if __name__ == "__main__":
    run_as_command(main)
