"""The run folder: the paths of a run's files."""

from itertools import chain
from pathlib import Path

from atomic import LEFTOVERS


class RunFolder:
    """The paths of the files that a run writes under `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"  # the settings of the last start
        self.environment = path / "environment.json"  # the machine and versions of the last start
        self.images = path / "images.png"  # the training images as they are used
        self.metrics = path / "metrics.jsonl"  # the log
        self.tensorboard = path / "tensorboard"  # a folder
        self.last = self.checkpoint("last")
        self.best = self.checkpoint("best")

    def checkpoint(self, name: str) -> Path:
        """Return the path of the checkpoint "last" or "best"."""
        return self.path / "checkpoints" / f"{name}.pt"

    def sheet(self, kind: str, step: int) -> Path:
        """Return the path of a sheet; `kind` is "samples" or a key of the sheets of `Method.watch`."""
        return self.path / kind / f"step-{step:07d}.png"

    def sheets(self, kind: str) -> list[Path]:
        """Return the paths of the sheets of a kind that are there, by step."""
        return sorted(self.path.glob(f"{kind}/step-*.png"), key=lambda path: (len(path.name), path.name))

    def reports(self) -> list[Path]:
        """Return the reports that evaluate.py wrote of the run."""
        return sorted(self.path.glob("evaluation/*/report.html"))

    def remove_leftovers(self) -> None:
        """Remove the unfinished files of killed processes. No other process may be writing to the folder."""
        sheets = self.path.glob(f"*/step-*.png{LEFTOVERS}")
        others = [path.parent.glob(path.name + LEFTOVERS) for path in (self.config, self.environment, self.images, self.last, self.best)]
        for part in chain(sheets, *others):
            part.unlink()
