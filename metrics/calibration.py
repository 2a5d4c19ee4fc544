"""What the same numbers are for image sets whose truth is known: without these, a distance at n = 100 means nothing.

A generator that repeats its 100 training images scores far better than fresh images of the same kind do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metrics.alterations import COPIES, SPOILT
from metrics.interface import Features, Protocol, Sets
from metrics.measure import measure
from metrics.table import chosen

SEED = 0  # of the draws: calibration belongs to the real images, not to the samples
SPLITS = 5
Splits = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Calibration:
    """The numbers of one comparison; a value is None where there are too few images."""

    meaning: str
    num_real: int
    num_fake: int
    values: dict[str, float | None]
    deviations: dict[str, float | None] | None = None  # over the draws, where there are several


class Altered(NamedTuple):
    """The features of real images that were changed in known ways (`metrics.alterations`)."""

    copies: Features | None  # of k copies, each changed in one way of COPIES
    ways: Tensor  # (k,) in which
    spoilt: dict[str, Features]  # of k images spoilt in each way of SPOILT


def calibrate(sets: Sets, protocol: Protocol, metrics: list[str], altered: Altered | None = None) -> dict[str, Calibration | None]:
    """Return what the same numbers are in comparisons that say how to read them, None where there is nothing to compare.

    copy: the training images against as many draws of themselves as there are samples. split_half: one half of them
    against the other, and as_halves: as many samples in the place of the other, both the mean of 5 splits. held_out:
    the held-out images as fakes, and as_many: as many samples, the mean of 5 draws. Of images that were `altered`:
    changed_copy: copies that are not equal to the bit, and "changed_copy, WAY" those of one way alone; "spoilt, WAY":
    spoilt images in the place of the other half. Numbers by the metrics' names.
    """
    n, m = _count(sets.real), _count(sets.fake)
    generator = torch.Generator().manual_seed(SEED)
    draws = torch.randint(n, (m,), generator=generator)
    splits = [torch.randperm(n, generator=generator).tensor_split(2) for _ in range(SPLITS)]
    splits = [(first, second[:m]) for first, second in splits]  # equal counts, however few samples there are

    def values(compared: Sets) -> dict[str, float | None]:
        return _values(compared, protocol, metrics)

    def some(count: int) -> Features:
        return _part(sets.fake, torch.randperm(m, generator=generator)[:count])

    halves = [values(Sets(_part(sets.real, first), _part(sets.real, second))) for first, second in splits]
    as_halves = [values(Sets(_part(sets.real, first), some(len(second)))) for first, second in splits]
    half, other = (len(part) for part in splits[0])
    answer = {
        "copy": Calibration(
            f"what a generator would score that only repeats the {n} real images, {m} times in all",
            n,
            m,
            values(sets._replace(fake=_part(sets.real, draws))),
        ),
        "changed_copy": None,
        "split_half": Calibration(f"one half of the real images against the other, mean of {SPLITS} splits", half, other, *_over(halves)),
        "as_halves": Calibration(
            f"as many of the samples in the place of the other half, mean of {SPLITS} splits", half, other, *_over(as_halves)
        ),
        "held_out": None,
        "as_many": None,
    }
    if sets.heldout is not None:
        h = min(_count(sets.heldout), m)
        held = _part(sets.heldout, torch.randperm(_count(sets.heldout), generator=generator)[:h])
        answer |= _beside_heldout(n, h, values(Sets(sets.real, held, mirror=sets.mirror)), lambda: values(sets._replace(fake=some(h))))
    if altered:
        answer |= _changed_copies(sets, protocol, metrics, altered) | _spoilt(sets, protocol, metrics, altered, splits)
    return answer


def _beside_heldout(n: int, h: int, held_out: dict, draw: Callable[[], dict]) -> dict[str, Calibration]:
    """Return what `h` held-out images score, and what as many samples do, which `draw` draws and scores."""
    return {
        "held_out": Calibration(f"{h} real images that no training has seen, in the place of the samples", n, h, held_out),
        "as_many": Calibration(
            f"as many of the samples as are held out, mean of {SPLITS} draws", n, h, *_over([draw() for _ in range(SPLITS)])
        ),
    }


def _changed_copies(sets: Sets, protocol: Protocol, metrics: list[str], altered: Altered) -> dict[str, Calibration]:
    """Return what copies score that are not equal to the bit: of all ways together, and of each whether it is noticed."""
    if altered.copies is None:
        return {}

    def scored(rows: Tensor, chosen: list[str], meaning: str) -> Calibration:
        values = _values(sets._replace(fake=_part(altered.copies, rows)), protocol, chosen)
        return Calibration(meaning, _count(sets.real), len(rows), values)

    tried = [metric.key for metric in chosen(metrics, altered=COPIES)]
    everyone = torch.arange(len(altered.ways))
    rows = {name: everyone[altered.ways == number] for number, name in enumerate(COPIES)}
    together = f"what a generator would score that repeats real images, each changed in one way of {', '.join(COPIES)}"
    return {"changed_copy": scored(everyone, metrics, together)} | {
        f"changed_copy, {name}": scored(index, tried, f"those changed by {name}") for name, index in rows.items() if len(index)
    }


def _spoilt(sets: Sets, protocol: Protocol, metrics: list[str], altered: Altered, splits: Splits) -> dict[str, Calibration]:
    """Return what spoilt images score in the place of one half of the real ones, for every way of spoiling.

    The images that they were made of are half among these, as those are that a generator's samples come of.
    """
    answer, half = {}, len(splits[0][0])
    tried = [metric.key for metric in chosen(metrics, altered=SPOILT)]
    for name, features in altered.spoilt.items():
        draws = [_values(Sets(_part(sets.real, first), features), protocol, tried) for first, _ in splits]
        answer[f"spoilt, {name}"] = Calibration(
            f"real images {name} in the place of the other half, mean of {SPLITS} splits", half, _count(features), *_over(draws)
        )
    return answer


def _values(compared: Sets, protocol: Protocol, metrics: list[str]) -> dict[str, float | None]:
    return {name: number.value for name, number in measure(compared, protocol, metrics, errors=False).items()}


def _count(features: Features) -> int:
    return len(next(iter(features.values())))


def _part(features: Features, index: torch.Tensor) -> Features:
    return {network: rows[index] for network, rows in features.items()}


def _over(draws: list[dict[str, float | None]]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return the mean and the standard deviation of each number over the draws; None where any draw has none."""
    columns = {name: [draw[name] for draw in draws] for name in draws[0]}
    complete = {name: None if None in column else torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    return (
        {name: None if column is None else float(column.mean()) for name, column in complete.items()},
        {name: None if column is None else float(column.std()) for name, column in complete.items()},
    )
