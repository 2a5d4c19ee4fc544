"""What the numbers mean, in sentences: is it copying, is anything missing, do the samples look real.

Every sentence compares a number with what it is for images whose truth is known; none has a threshold of its own in
units of the metric.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from metrics.calibration import Calibration
from metrics.interface import Measurement
from metrics.measure import number_of
from metrics.table import (
    BACKTRACK_GAP,
    BACKTRACK_HELDOUT,
    BACKTRACK_TRAIN,
    BEYOND_COPYING,
    C_T,
    COPY_RATE,
    COPY_RATE_THUMBNAIL,
    GENERATOR,
    KID,
    METRICS,
    PRECISION,
    REACHED,
    RECALL,
    Number,
)

CLEARLY = 2  # standard errors
FAR_OUT = 3  # standard deviations of draws
FAR_BELOW = 0.75  # of what real images score
OFF = 0.2  # of it, where next to nothing looks real
FAR_ABOVE = 2  # times the distance of new real images
BEYOND = 100  # times, beyond which the distance of new real images is next to nothing, and the quotient no number
MOST_FRESH = 0.25  # the greatest copy rate that is believed of fresh images: beyond it they are copies themselves
NOTICED = 0.5  # of changed copies, the least that must count as near copies where a test is to clear anybody
FEW = 20  # samples, below which nothing is cleared

OF_GENERATOR = {number for metric in METRICS.values() if metric.source == GENERATOR for number in metric.numbers}  # not of the samples
CLOSER = {  # copy rates, in words
    COPY_RATE: "lie closer to a training image",
    COPY_RATE_THUMBNAIL: "lie closer, as thumbnails, to a training image (shifted, zoomed or mirrored a little)",
}

Measured = dict[str, Measurement]
Calibrations = dict[str, Calibration | None]


class Sentence(NamedTuple):
    """One finding, and whether it is `good`, `bad` or `mixed`."""

    tone: str
    text: str


def verdict(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    """Return what can be said about copying, about missing variety, and about realism, in this order."""
    count = max((number.num_fake for name, number in measured.items() if number_of(name) not in OF_GENERATOR), default=FEW)
    if count < FEW:
        few = Sentence("mixed", f"{count} samples are too few to judge by: draw {FEW} or more, better some hundreds.")
        return [few, *_near_copies(measured, calibration)]
    return [*_copying(measured, calibration), *_variety(measured, calibration), *_realism(measured, calibration)]


def _copying(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    def told(*checks: Callable) -> list[Sentence]:
        return list(filter(None, (check(measured, calibration) for check in checks)))

    suspicions = _near_copies(measured, calibration) + told(_by_test, _by_distance, _by_kernel)
    return (suspicions or told(_cleared_by_rate, _cleared_by_test)) + told(_by_gap, _by_reach)


def _by_gap(measured: Measured, _: Calibrations) -> Sentence | None:
    gap = _found(measured, BACKTRACK_GAP)
    if gap is None or gap.error is None or gap.value <= CLEARLY * gap.error:
        return None
    train, heldout = (_found(measured, number).value for number in (BACKTRACK_TRAIN, BACKTRACK_HELDOUT))
    return Sentence(
        "mixed", f"It knows its training images better than new ones: it reaches them to {train:.2f}, new ones to {heldout:.2f}."
    )


def _by_reach(measured: Measured, _: Calibrations) -> Sentence | None:
    reach = _found(measured, BEYOND_COPYING)
    if reach is None:
        return None
    words = f"{reach.value:.0%} of {reach.num_fake} held-out images are reached more closely than their nearest training image lies"
    if reach.interval[0] > BEYOND_COPYING.bar:
        return Sentence("good", f"It makes images that it never saw: {words}.")
    return Sentence("mixed", f"It hardly makes images that it never saw: {words}.")


def _near_copies(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    sentences = []
    for number, closer in CLOSER.items():
        rate, expected = _found(measured, number), _fresh_rate(calibration, number)
        if rate is not None and rate.interval[0] > 2 * expected:
            sentences.append(
                Sentence(
                    "bad",
                    f"Suspect copying: {rate.value:.0%} of the samples {closer} than the closest 5% of the "
                    f"training images lie to each other; of new real images about {expected:.0%} would.",
                )
            )
    return sentences


def _fresh_rate(calibration: Calibrations, number: Number) -> float:
    """Return the copy rate to expect of fresh images: by its definition, of held-out images, or of halves; the greatest."""
    rates = [_beside(calibration, kind, number) for kind in ("held_out", "split_half")]
    return min(max([number.bar, *(rate for rate in rates if rate is not None)]), MOST_FRESH)


def _cleared_by_rate(measured: Measured, calibration: Calibrations) -> Sentence | None:
    """Clear of near copies, where copies that are not equal to the bit would have been noticed."""
    numbers = [number for number in CLOSER if _found(measured, number)]
    if not numbers:
        return None
    noticed = {
        way: max(_beside(calibration, way, number) or 0 for number in numbers) for way in calibration if way.startswith("changed_copy, ")
    }
    missed = [f"{way.removeprefix('changed_copy, ')} {share:.0%}" for way, share in noticed.items() if share < NOTICED]
    if missed or not noticed:
        return Sentence(
            "mixed",
            "Cannot tell whether it copies: of copies that were changed too few would be noticed "
            f"({', '.join(missed) or 'this was not tried'}).",
        )
    rate, *thumbnails = (f"{_found(measured, number).value:.0%}" for number in numbers)
    fresh, *fresh_thumbnails = (f"{_fresh_rate(calibration, number):.0%}" for number in numbers)
    return Sentence(
        "good",
        f"No more near copies than chance gives: {rate} of the samples{_aside('as thumbnails ', thumbnails)} lie closer to a "
        f"training image than the closest 5% of the training images lie to each other; of new real images about "
        f"{fresh}{_aside('', fresh_thumbnails)} would. Of copies changed by JPEG, noise, blur or a shift it would notice "
        f"{'all' if min(noticed.values()) == 1 else f'at least {min(noticed.values()):.0%}'}.",
    )


def _aside(words: str, value: list[str]) -> str:
    return f" ({words}{value[0]})" if value else ""


def _by_test(measured: Measured, calibration: Calibrations) -> Sentence | None:
    test = _found(measured, C_T)
    if test is None or test.value >= -C_T.bar:
        return None
    return Sentence(
        "bad",
        "Closer to the training images than new real images are: suspect copying "
        f"(C_T {test.value:.1f}, where chance stays within {C_T.bar}).",
    )


def _cleared_by_test(measured: Measured, calibration: Calibrations) -> Sentence | None:
    """Clear by C_T where it would be far below zero for every kind of changed copy. Far above zero it tells nothing.

    A texture that all samples share moves copies away from the training images, too.
    """
    test = _found(measured, C_T)
    copies = [_beside(calibration, way, C_T) for way in calibration if way.startswith("changed_copy, ")]
    if test is None or abs(test.value) > C_T.bar or not copies or not all(c is not None and c < -C_T.bar for c in copies):
        return None
    return Sentence("good", f"No closer to the training images than new real images are (C_T {test.value:.1f}).")


def _by_distance(measured: Measured, calibration: Calibrations) -> Sentence | None:
    for name, number in _frechets(measured):
        ours, fresh = (_value(calibration, kind, name) for kind in ("as_many", "held_out"))
        if ours is None or fresh is None:
            continue
        # One set of held-out images has the luck of its draw, too. Draws that share samples differ less than sets do.
        shared = calibration["as_many"].num_fake / number.num_fake
        if shared < 1 and ours < fresh - FAR_OUT * calibration["as_many"].deviations[name] / math.sqrt(1 - shared):
            return Sentence(
                "bad",
                f"Closer to the training images than new real images are: suspect copying ({name} {ours:.2f} "
                f"of as many samples as there are new images, which have {fresh:.2f}).",
            )
    return None


def _by_kernel(measured: Measured, calibration: Calibrations) -> Sentence | None:
    for name, each in measured.items():
        if number_of(name) is KID and each.error is not None and each.value < -CLEARLY * each.error:
            return Sentence(
                "bad",
                f"Suspect copying: {name} is clearly below zero ({each.value * 1000:.2f} x 10^-3, "
                f"+- {each.error * 1000:.2f}), which fresh images of the same kind are not.",
            )
    return None


def _variety(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    """Judge how many real images are nearest to some sample, which fidelity has little part in; equal counts."""
    ours, real = (_beside(calibration, kind, REACHED) for kind in ("as_halves", "split_half"))
    if ours is None or real is None or _off(calibration):
        return []
    words = f"samples are nearest to {ours:.0%} of a half of the real images, as many real images to {real:.0%}"
    tone = _tone(calibration, REACHED)
    told = {"bad": "Kinds of image are missing", "mixed": "Perhaps some kinds of image are missing", "good": "No kind of image is missing"}
    sentences = [Sentence(tone, f"{told[tone]}: {words}.")]
    among, real = (_beside(calibration, kind, RECALL) for kind in ("as_halves", "split_half"))
    if among is not None and real is not None and (tone := _tone(calibration, RECALL)) != "good":
        sentences.append(
            Sentence(
                tone,
                f"The samples vary less than real images do: {among:.0%} of a half of the real images lie among "
                f"them, among as many real images {real:.0%}.",
            )
        )
    return sentences


def _tone(calibration: Calibrations, number: Number, kind: str = "as_halves") -> str:
    """Say how samples, or other images, compare with real images in the place of one half, where more is better."""
    ours, real = (_beside(calibration, each, number) for each in (kind, "split_half"))
    most = ours + CLEARLY * _deviation(calibration, kind, number)
    return "bad" if most < FAR_BELOW * real else "mixed" if most < real else "good"


def _off(calibration: Calibrations) -> bool:
    """Say whether next to no sample lies among the real images: nearest images then say nothing of variety."""
    ours, real = (_beside(calibration, kind, PRECISION) for kind in ("as_halves", "split_half"))
    return ours is not None and real is not None and ours < OFF * real


def _realism(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    sentences = []
    ours, real = (_beside(calibration, kind, PRECISION) for kind in ("as_halves", "split_half"))
    if ours is not None and real is not None:
        words = f"{ours:.0%} of the samples lie among a half of the real images, of the other half {real:.0%} do"
        tone = _tone(calibration, PRECISION)
        told = {"bad": "Many samples do not look real", "mixed": "Some samples do not look real", "good": "The samples look real"}
        passing = [
            f"{_beside(calibration, key, PRECISION):.0%} of real images {key.removeprefix('spoilt, ')}"
            for key in calibration
            if key.startswith("spoilt, ") and _tone(calibration, PRECISION, key) == "good"
        ]
        if tone == "good" and passing:
            sentences.append(Sentence("mixed", f"Cannot tell whether the samples look real: {words}, but so do {' and '.join(passing)}."))
        else:
            sentences.append(Sentence(tone, f"{told[tone]} to this network: {words}."))
    for name, _ in _frechets(measured):
        ours, fresh = (_value(calibration, kind, name) for kind in ("as_many", "held_out"))
        if ours is not None and fresh is not None and ours > fresh:
            times = f"{ours / fresh:.1f}" if ours <= BEYOND * fresh else f"over {BEYOND}"
            sentences.append(
                Sentence(
                    "bad" if ours > FAR_ABOVE * fresh else "mixed",
                    f"As a set, the samples are {times} times as far from the "
                    f"training images as new real images are ({name} {ours:.2f} against {fresh:.2f}, equal counts).",
                )
            )
            break
    return sentences


def _found(measured: Measured, number: Number) -> Measurement | None:
    """Return a number, whatever network it was computed in, if it has a value."""
    return next((each for name, each in measured.items() if number_of(name) is number and each.value is not None), None)


def _frechets(measured: Measured) -> list[tuple[str, Measurement]]:
    return [(name, each) for name, each in measured.items() if number_of(name).counted]


def _value(calibration: Calibrations, kind: str, name: str) -> float | None:
    """Return the value of what has exactly this name in one of the comparisons."""
    return calibration[kind].values.get(name) if calibration.get(kind) else None


def _beside(calibration: Calibrations, kind: str, number: Number) -> float | None:
    """Return a number's value in one of the comparisons."""
    values = calibration[kind].values if calibration.get(kind) else {}
    return next((value for name, value in values.items() if number_of(name) is number), None)


def _deviation(calibration: Calibrations, kind: str, number: Number) -> float:
    """Return the standard deviation over the draws of a comparison that has this number."""
    return next(value for name, value in calibration[kind].deviations.items() if number_of(name) is number)
