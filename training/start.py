"""Starting from the weights of another run: what fits is taken, the rest stays new."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

# The weights of a network by their place: the part that they belong to, and where in it. ("level 32", 1) is the second block at 32
# pixels, in any network.
Parts = dict[tuple, dict[str, Tensor]]
TAKEN, NEW = "taken", "new"


class Source(NamedTuple):
    """A run, a checkpoint or an export to start from."""

    path: Path
    state: dict  # the content of the checkpoint
    record: dict[str, str]  # its name and sha256, which the checkpoints of the new run keep


@torch.no_grad()
def take(ours: Parts, theirs: Parts) -> dict[str, str]:
    """Copy the weights of `theirs` into `ours` at every place where names and shapes are the same; return what became of each part."""
    taken: dict[str, list[bool]] = {}
    for place, weights in ours.items():
        others = theirs.get(place, {})
        fits = _shapes(weights) == _shapes(others)
        if fits:
            for name, weight in weights.items():
                weight.copy_(others[name])
        taken.setdefault(place[0], []).append(fits)
    return {
        part: TAKEN if all(fits) else NEW if not any(fits) else f"{sum(fits)} of {len(fits)} blocks taken" for part, fits in taken.items()
    }


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: weight.shape for name, weight in weights.items()}


def table(fates: dict[str, str]) -> list[str]:
    """Return the lines of a table of what `take` returned: a line for all parts with one fate."""
    parts: dict[str, list[str]] = {}
    for part, fate in fates.items():
        parts.setdefault(fate, []).append(part)
    width = max(map(len, parts))
    return [f"  {fate:<{width}}  {', '.join(names)}" for fate, names in parts.items()]
