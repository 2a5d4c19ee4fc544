"""The same numbers for image sets of a known kind: without them, a distance at n = 100 means nothing.

A generator that repeats its 100 training images scores far better than fresh images of the same kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metrics.alterations import COPIES, RESIZED, SPOILT
from metrics.interface import Features, Protocol, Sets
from metrics.measure import measure
from metrics.table import chosen

SEED = 0  # of the random draws
SPLITS = 5
Splits = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Calibration:
    """The numbers of one comparison; a value is None if there are too few images."""

    meaning: str
    num_real: int
    num_fake: int
    values: dict[str, float | None]
    deviations: dict[str, float | None] | None = None  # over the draws, if there are several


class Altered(NamedTuple):
    """The features of real images that were changed in known ways (`metrics.alterations`)."""

    copies: Features | None  # of k copies, each changed by one of COPIES
    ways: Tensor  # (k,) number of the change
    spoilt: dict[str, Features]  # of k images, for each change of SPOILT
    resized: dict[str, Features]  # of k images, for each size of RESIZED


def calibrate(sets: Sets, protocol: Protocol, metrics: list[str], altered: Altered | None = None) -> dict[str, Calibration | None]:
    """Return the same numbers for the comparisons that follow, by name; None for a comparison without images.

    copy: fakes are random draws of the real images, as many as samples.
    split_half: fakes are one half of the real images, reals the other; mean of 5 splits.
    as_halves: fakes are as many samples as a half has, reals one half; mean of 5 splits.
    held_out: fakes are the held-out images. as_many: fakes are as many samples; mean of 5 draws.
    changed_copy: fakes are the changed copies in `altered`; "changed_copy, WAY": those of one change.
    "spoilt, WAY": fakes are spoilt images, reals one half; mean of 5 splits.
    "resized, SIZE": fakes are real images resized to a share of their side and back, reals the same images unchanged.
    """
    n, m = _count(sets.real), _count(sets.fake)
    generator = torch.Generator().manual_seed(SEED)
    draws = torch.randint(n, (m,), generator=generator)
    splits = [torch.randperm(n, generator=generator).tensor_split(2) for _ in range(SPLITS)]
    splits = [(first, second[:m]) for first, second in splits]  # equal counts, even with few samples

    def values(compared: Sets) -> dict[str, float | None]:
        return _values(compared, protocol, metrics)

    def some(count: int) -> Features:
        return _part(sets.fake, torch.randperm(m, generator=generator)[:count])

    halves = [values(Sets(_part(sets.real, first), _part(sets.real, second))) for first, second in splits]
    as_halves = [values(Sets(_part(sets.real, first), some(len(second)))) for first, second in splits]
    half, other = (len(part) for part in splits[0])
    answer = {
        "copy": Calibration(
            f"score of a generator that only repeats the {n} real images, {m} draws",
            n,
            m,
            values(sets._replace(fake=_part(sets.real, draws))),
        ),
        "changed_copy": None,
        "split_half": Calibration(f"one half of the real images against the other, mean of {SPLITS} splits", half, other, *_over(halves)),
        "as_halves": Calibration(
            f"as many samples as a half has, against one half, mean of {SPLITS} splits", half, other, *_over(as_halves)
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
        answer |= _resized(protocol, metrics, altered)
    return answer


def _beside_heldout(n: int, h: int, held_out: dict, draw: Callable[[], dict]) -> dict[str, Calibration]:
    """Return the scores of `h` held-out images and of `h` samples; `draw` draws and scores the samples."""
    return {
        "held_out": Calibration(f"{h} real images that training never saw, instead of samples", n, h, held_out),
        "as_many": Calibration(
            f"as many samples as held-out images, mean of {SPLITS} draws", n, h, *_over([draw() for _ in range(SPLITS)])
        ),
    }


def _changed_copies(sets: Sets, protocol: Protocol, metrics: list[str], altered: Altered) -> dict[str, Calibration]:
    """Return the scores of changed copies: of all changes together, and of each change for the metrics that must notice it."""
    if altered.copies is None:
        return {}

    def scored(rows: Tensor, chosen: list[str], meaning: str) -> Calibration:
        values = _values(sets._replace(fake=_part(altered.copies, rows)), protocol, chosen)
        return Calibration(meaning, _count(sets.real), len(rows), values)

    tried = [metric.key for metric in chosen(metrics, altered=COPIES)]
    everyone = torch.arange(len(altered.ways))
    rows = {name: everyone[altered.ways == number] for number, name in enumerate(COPIES)}
    together = f"score of a generator that repeats real images, each changed by one of {', '.join(COPIES)}"
    return {"changed_copy": scored(everyone, metrics, together)} | {
        f"changed_copy, {name}": scored(index, tried, f"copies changed by {name}") for name, index in rows.items() if len(index)
    }


def _spoilt(sets: Sets, protocol: Protocol, metrics: list[str], altered: Altered, splits: Splits) -> dict[str, Calibration]:
    """Return the scores of spoilt images against one half of the real images, for every change in SPOILT.

    Half of the spoilt images were made from images of that half, as samples come from training images.
    """
    answer, half = {}, len(splits[0][0])
    tried = [metric.key for metric in chosen(metrics, altered=SPOILT)]
    for name, features in altered.spoilt.items():
        draws = [_values(Sets(_part(sets.real, first), features), protocol, tried) for first, _ in splits]
        answer[f"spoilt, {name}"] = Calibration(
            f"real images {name}, against one half, mean of {SPLITS} splits", half, _count(features), *_over(draws)
        )
    return answer


def _resized(protocol: Protocol, metrics: list[str], altered: Altered) -> dict[str, Calibration]:
    """Return the scores of resized images against the same images unchanged, for every size in RESIZED."""
    tried = [metric.key for metric in chosen(metrics, altered=RESIZED)]
    answer = {}
    for size, features in altered.resized.items():
        unchanged, count = altered.resized["1"], _count(features)
        values = _values(Sets(unchanged, features), protocol, tried)
        answer[f"resized, {size}"] = Calibration(f"real images resized to {size} of their side and back", count, count, values)
    return answer


def _values(compared: Sets, protocol: Protocol, metrics: list[str]) -> dict[str, float | None]:
    return {name: number.value for name, number in measure(compared, protocol, metrics, errors=False).items()}


def _count(features: Features) -> int:
    return len(next(iter(features.values())))


def _part(features: Features, index: torch.Tensor) -> Features:
    return {network: rows[index] for network, rows in features.items()}


def _over(draws: list[dict[str, float | None]]) -> tuple[dict[str, float | None], dict[str, float | None]]:
    """Return the mean and the standard deviation of each number over the draws; None if a draw lacks the number."""
    columns = {name: [draw[name] for draw in draws] for name in draws[0]}
    complete = {name: None if None in column else torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}
    return (
        {name: None if column is None else float(column.mean()) for name, column in complete.items()},
        {name: None if column is None else float(column.std()) for name, column in complete.items()},
    )
