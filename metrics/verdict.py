"""What the numbers mean, in sentences: is it copying, is anything missing, do the samples look real, are they as sharp.

Every sentence compares a number with its value for image sets of a known kind (copies, new real images, ...). No sentence has
a threshold in units of the metric.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from metrics.alterations import RESIZED
from metrics.calibration import Calibration
from metrics.interface import Measurement
from metrics.measure import number_of
from metrics.sharpness import ENOUGH, equivalent_size
from metrics.table import (
    BACKTRACK_GAP,
    BACKTRACK_HELDOUT,
    BACKTRACK_TRAIN,
    BEYOND_COPYING,
    C_T,
    COARSE_POWER,
    COPY_RATE,
    COPY_RATE_THUMBNAIL,
    FINE_POWER,
    GENERATOR,
    KID,
    METRICS,
    MIDDLE_POWER,
    PRECISION,
    REACHED,
    RECALL,
    Number,
)

CLEARLY = 2  # standard errors
FAR_OUT = 3  # standard deviations of draws
FAR_BELOW = 0.75  # share of the real images' value
OFF = 0.2  # share of the real images' precision; below it almost no sample looks real
FAR_ABOVE = 2  # times the distance of new real images
BEYOND = 100  # largest quotient that is printed; a larger one means that new real images have almost no distance
MOST_FRESH = 0.25  # largest copy rate that fresh images can have; images above it are copies themselves
NOTICED = 0.5  # least share of changed copies that a test must notice before it clears a run of copying
SOFT = Fraction(3, 4)  # of their side: samples like real images resized to this and back are clearly too soft
SMALLEST = min(map(Fraction, RESIZED))
FEW = 20  # samples; with fewer nothing is cleared

OF_GENERATOR = {number for metric in METRICS.values() if metric.source == GENERATOR for number in metric.numbers}  # not of samples
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
    """Return the findings about copying, variety, realism and sharpness, in this order."""
    count = max((number.num_fake for name, number in measured.items() if number_of(name) not in OF_GENERATOR), default=FEW)
    if count < FEW:
        few = Sentence("mixed", f"{count} samples are too few to judge by: generate {FEW} or more, better several hundred.")
        return [few, *_near_copies(measured, calibration)]
    subjects = (_copying, _variety, _realism, _sharpness)
    return [sentence for subject in subjects for sentence in subject(measured, calibration)]


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
        "mixed",
        "It reproduces its training images better than new ones: "
        f"the mean distance is {train:.2f} for training images, {heldout:.2f} for new ones.",
    )


def _by_reach(measured: Measured, _: Calibrations) -> Sentence | None:
    reach = _found(measured, BEYOND_COPYING)
    if reach is None:
        return None
    words = f"{reach.value:.0%} of {reach.num_fake} held-out images lie closer to a sample than to any training image"
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
                    f"training images lie to each other; about {expected:.0%} of new real images would.",
                )
            )
    return sentences


def _fresh_rate(calibration: Calibrations, number: Number) -> float:
    """Return the copy rate of fresh images: the largest of its defined value and those of held-out images and of halves."""
    rates = [_beside(calibration, kind, number) for kind in ("held_out", "split_half")]
    return min(max([number.bar, *(rate for rate in rates if rate is not None)]), MOST_FRESH)


def _cleared_by_rate(measured: Measured, calibration: Calibrations) -> Sentence | None:
    """Clear the samples of near copies if the test would notice changed copies; otherwise say that it cannot tell."""
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
            f"Cannot tell whether it copies: this test would notice too few changed copies ({', '.join(missed) or 'not tried'}).",
        )
    rate, *thumbnails = (f"{_found(measured, number).value:.0%}" for number in numbers)
    fresh, *fresh_thumbnails = (f"{_fresh_rate(calibration, number):.0%}" for number in numbers)
    return Sentence(
        "good",
        f"No more near copies than chance gives: {rate} of the samples{_aside('as thumbnails ', thumbnails)} lie closer to a "
        f"training image than the closest 5% of the training images lie to each other; about {fresh}"
        f"{_aside('', fresh_thumbnails)} of new real images would. This test would notice "
        f"{'all' if min(noticed.values()) == 1 else f'at least {min(noticed.values()):.0%} of the'} copies changed by JPEG, noise, "
        "blur or a shift.",
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
        f"(C_T {test.value:.1f}; chance gives values from -{C_T.bar} to {C_T.bar}).",
    )


def _cleared_by_test(measured: Measured, calibration: Calibrations) -> Sentence | None:
    """Clear the samples by C_T if every kind of changed copy would have a C_T far below zero.

    A C_T far above zero clears nothing: a texture that all samples share moves copies away from the training images, too.
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
        # The held-out images are one random set, too. Draws share samples, so they vary less than separate sets.
        shared = calibration["as_many"].num_fake / number.num_fake
        if shared < 1 and ours < fresh - FAR_OUT * calibration["as_many"].deviations[name] / math.sqrt(1 - shared):
            return Sentence(
                "bad",
                f"Closer to the training images than new real images are: suspect copying ({name} {ours:.2f} "
                f"for samples, {fresh:.2f} for new images, equal counts).",
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
    """Judge how many real images are the nearest one to some sample, at equal counts. Fidelity hardly affects this number."""
    ours, real = (_beside(calibration, kind, REACHED) for kind in ("as_halves", "split_half"))
    if ours is None or real is None or _off(calibration):
        return []
    words = f"{ours:.0%} of one half of the real images are the nearest to some sample, {real:.0%} to some image of the other half"
    tone = _tone(calibration, REACHED)
    told = {"bad": "Kinds of image are missing", "mixed": "Perhaps some kinds of image are missing", "good": "No kind of image is missing"}
    sentences = [Sentence(tone, f"{told[tone]}: {words}.")]
    among, real = (_beside(calibration, kind, RECALL) for kind in ("as_halves", "split_half"))
    if among is not None and real is not None and (tone := _tone(calibration, RECALL)) != "good":
        sentences.append(
            Sentence(
                tone,
                f"The samples vary less than real images do: {among:.0%} of one half of the real images lie among "
                f"as many samples, {real:.0%} among the other half.",
            )
        )
    return sentences


def _tone(calibration: Calibrations, number: Number, kind: str = "as_halves") -> str:
    """Return the tone of a number that is better when higher: samples (or `kind`) against the other half of the real images."""
    ours, real = (_beside(calibration, each, number) for each in (kind, "split_half"))
    most = ours + CLEARLY * _deviation(calibration, kind, number)
    return "bad" if most < FAR_BELOW * real else "mixed" if most < real else "good"


def _off(calibration: Calibrations) -> bool:
    """Return whether almost no sample lies among the real images; the nearest images then say nothing about variety."""
    ours, real = (_beside(calibration, kind, PRECISION) for kind in ("as_halves", "split_half"))
    return ours is not None and real is not None and ours < OFF * real


def _realism(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    sentences = []
    ours, real = (_beside(calibration, kind, PRECISION) for kind in ("as_halves", "split_half"))
    if ours is not None and real is not None:
        words = f"{ours:.0%} of the samples lie among one half of the real images, {real:.0%} of the other half do"
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


def _sharpness(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    """Judge the power of fine detail beside that of resized training images; clear only what is surely not SOFT."""
    if _found(measured, FINE_POWER) is None or not _resized(calibration, FINE_POWER):
        return []
    fine, middle = (_detail(measured, calibration, number) for number in (FINE_POWER, MIDDLE_POWER))
    if fine is None:
        few = f"this needs at least {ENOUGH} training images, and coarse detail in these and in the samples"
        return [Sentence("mixed", f"Cannot tell whether the samples are as sharp as the training images: {few}.")]
    told = f"beside their coarse detail, their finest has {fine.power:.2f} times the power"
    sentences, softest = [], min((octave for octave in (fine, middle) if octave), key=lambda octave: octave.size)
    if softest.size < 1:
        like = f"{min(softest.size, 0.99):.2f}" if softest.size > SMALLEST else f"{SMALLEST} or less"
        why = told if softest is fine else f"beside their coarse detail, their middle detail has {softest.power:.2f} times the power"
        tone = "mixed" if softest.size > SOFT else "bad"
        sentences.append(Sentence(tone, f"Softer than the training images: like them at {like} of their size ({why})."))
    if fine.power - fine.margin > 1:
        tone, how = ("bad", "Harsher") if fine.power * fine.resized[SOFT] > 1 else ("mixed", "A little harsher")
        sentences.append(Sentence(tone, f"{how} than the training images, as patterns of single pixels are: {told}."))
    if sentences:
        return sentences
    told += f", that of the training images at {SOFT} of their size {fine.resized[SOFT]:.2f} times"
    if fine.power - fine.margin <= fine.resized[SOFT]:
        return [Sentence("mixed", f"Cannot tell whether the samples are as sharp as the training images: {told}.")]
    return [Sentence("good", f"As sharp as the training images: {told}.")]


class _Detail(NamedTuple):
    """The power of an octave over that of the coarse one, as a multiple of the training images': contrast does not change it."""

    power: float
    margin: float  # CLEARLY times its standard error
    resized: dict[Fraction, float]  # of resized training images, by their size

    @property
    def size(self) -> float:
        """Return the size at which training images have this power; 1 if it, or theirs at SOFT, is not clearly below 1."""
        told = max(self.power, self.resized[SOFT]) < 1 - self.margin
        return equivalent_size(self.power, self.resized) if told else 1.0


def _detail(measured: Measured, calibration: Calibrations, number: Number) -> _Detail | None:
    """Return the detail of an octave; None without errors, or without coarse detail."""
    found, coarse = _found(measured, number), _found(measured, COARSE_POWER)
    resized, beside = _resized(calibration, number), _resized(calibration, COARSE_POWER)
    if found is None or coarse is None or found.error is None or coarse.error is None:
        return None
    if not resized or resized.keys() != beside.keys() or min(coarse.value, *beside.values()) <= 0:
        return None
    power = found.value / coarse.value
    error = math.hypot(found.error, power * coarse.error) / coarse.value  # too large if both octaves vary together
    return _Detail(power, CLEARLY * error, {size: resized[size] / beside[size] for size in resized})


def _resized(calibration: Calibrations, number: Number) -> dict[Fraction, float]:
    """Return a number's value for resized training images, by their size."""
    values = {Fraction(size): _beside(calibration, f"resized, {size}", number) for size in RESIZED}
    return {size: value for size, value in values.items() if value is not None}


def _found(measured: Measured, number: Number) -> Measurement | None:
    """Return a number in any network; None if it has no value."""
    return next((each for name, each in measured.items() if number_of(name) is number and each.value is not None), None)


def _frechets(measured: Measured) -> list[tuple[str, Measurement]]:
    return [(name, each) for name, each in measured.items() if number_of(name).counted]


def _value(calibration: Calibrations, kind: str, name: str) -> float | None:
    """Return the value of the number with exactly this name in one comparison."""
    return calibration[kind].values.get(name) if calibration.get(kind) else None


def _beside(calibration: Calibrations, kind: str, number: Number) -> float | None:
    """Return a number's value in one comparison, in any network."""
    values = calibration[kind].values if calibration.get(kind) else {}
    return next((value for name, value in values.items() if number_of(name) is number), None)


def _deviation(calibration: Calibrations, kind: str, number: Number) -> float:
    """Return the standard deviation of a number over the draws of a comparison; the comparison must have the number."""
    return next(value for name, value in calibration[kind].deviations.items() if number_of(name) is number)
