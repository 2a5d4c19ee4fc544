"""What the same numbers are for image sets whose truth is known: without these, a distance at n = 100 means nothing.

A generator that repeats its 100 training images scores far better than fresh images of the same kind do.
"""

from dataclasses import dataclass

import torch

from metrics.measure import Features, Protocol, measure

SEED = 0  # of the draws: calibration belongs to the real images, not to the samples
SPLITS = 5


@dataclass(frozen=True)
class Calibration:
    """The numbers of one comparison of real images with real images; a value is None where there are too few."""

    meaning: str
    num_real: int
    num_fake: int
    values: dict[str, float | None]


def calibrate(real: Features, num_fake: int, protocol: Protocol, metrics: list[str],
              heldout: Features | None = None) -> dict[str, Calibration | None]:
    """Return the copy floor, the split-half value and, given held-out images, the held-out value (otherwise None).

    copy: the training images against `num_fake` draws of themselves. split_half: one half against the other, the mean
    of 5 splits. held_out: the held-out images as fakes. Each by the name that the metric has in the report.
    """
    n = len(next(iter(real.values())))
    generator = torch.Generator().manual_seed(SEED)
    draws = torch.randint(n, (num_fake,), generator=generator)
    splits = [torch.randperm(n, generator=generator).tensor_split(2) for _ in range(SPLITS)]

    def values(reals: Features, fakes: Features) -> dict[str, float | None]:
        measured = measure(reals, fakes, protocol, metrics, errors=False)
        return {name: measurement.value for name, measurement in measured.items()}

    def part(index: torch.Tensor) -> Features:
        return {network: features[index] for network, features in real.items()}

    halves = [values(part(first), part(second)) for first, second in splits]
    answer = {
        "copy": Calibration(
            f"what a generator would score that only repeats the {n} real images, {num_fake} times in all", n, num_fake,
            values(real, part(draws))),
        "split_half": Calibration(
            f"one half of the real images against the other, mean of {SPLITS} splits", len(splits[0][0]),
            len(splits[0][1]), {name: _mean([half[name] for half in halves]) for name in halves[0]}),
        "held_out": None,
    }
    if heldout is not None:
        num_heldout = len(next(iter(heldout.values())))
        answer["held_out"] = Calibration(
            f"{num_heldout} real images that no training has seen, in the place of the samples", n, num_heldout,
            values(real, heldout))
    return answer


def _mean(values: list[float | None]) -> float | None:
    return None if None in values else sum(values) / len(values)
