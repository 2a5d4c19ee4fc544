"""What the same numbers are for image sets whose truth is known: without these, a distance at n = 100 means nothing.

A generator that repeats its 100 training images scores far better than fresh images of the same kind do.
"""

from dataclasses import dataclass

import torch

from metrics.measure import Features, Protocol, Sets, measure

SEED = 0  # of the draws: calibration belongs to the real images, not to the samples
SPLITS = 5


@dataclass(frozen=True)
class Calibration:
    """The numbers of one comparison of real images with real images; a value is None where there are too few."""

    meaning: str
    num_real: int
    num_fake: int
    values: dict[str, float | None]


def calibrate(sets: Sets, protocol: Protocol, metrics: list[str]) -> dict[str, Calibration | None]:
    """Return the copy floor, the split-half value and, given held-out images, two more (otherwise None).

    copy: the training images against as many draws of themselves as there are samples. split_half: one half against
    the other, the mean of 5 splits. held_out: the held-out images as fakes. as_many: as many samples as there are
    held-out images, the mean of 5 draws, which is what to hold beside held_out. By the names of the metrics.
    """
    n, m = (len(next(iter(features.values()))) for features in (sets.real, sets.fake))
    generator = torch.Generator().manual_seed(SEED)
    draws = torch.randint(n, (m,), generator=generator)
    splits = [torch.randperm(n, generator=generator).tensor_split(2) for _ in range(SPLITS)]

    def values(compared: Sets) -> dict[str, float | None]:
        measured = measure(compared, protocol, metrics, errors=False)
        return {name: measurement.value for name, measurement in measured.items()}

    halves = [values(Sets(_part(sets.real, first), _part(sets.real, second))) for first, second in splits]
    answer = {
        "copy": Calibration(
            f"what a generator would score that only repeats the {n} real images, {m} times in all", n, m,
            values(sets._replace(fake=_part(sets.real, draws)))),
        "split_half": Calibration(
            f"one half of the real images against the other, mean of {SPLITS} splits", len(splits[0][0]),
            len(splits[0][1]), _means(halves)),
        "held_out": None,
        "as_many": None,
    }
    if sets.heldout is not None:
        h = len(next(iter(sets.heldout.values())))
        answer["held_out"] = Calibration(
            f"{h} real images that no training has seen, in the place of the samples", n, h,
            values(Sets(sets.real, sets.heldout, mirror=sets.mirror)))
        some = [torch.randperm(m, generator=generator)[:h] for _ in range(SPLITS)]
        answer["as_many"] = Calibration(
            f"only {min(h, m)} of the samples, as many as are held out, mean of {SPLITS} draws", n, min(h, m),
            _means([values(sets._replace(fake=_part(sets.fake, index))) for index in some]))
    return answer


def _part(features: Features, index: torch.Tensor) -> Features:
    return {network: rows[index] for network, rows in features.items()}


def _means(draws: list[dict[str, float | None]]) -> dict[str, float | None]:
    """Return the mean of each number over the draws; None where any draw has none."""
    columns = {name: [draw[name] for draw in draws] for name in draws[0]}
    return {name: None if None in column else sum(column) / len(column) for name, column in columns.items()}
