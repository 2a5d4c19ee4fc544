"""What the numbers mean, in sentences: is it copying, is anything missing, do the samples look real.

Every sentence compares a number with what it is for images whose truth is known; none has a threshold of its own in
units of the metric.
"""

import math
from typing import NamedTuple

from metrics.calibration import Calibration
from metrics.measure import FRECHETS, KERNELS, SUFFIXES, Measurement

CLEARLY = 2        # standard errors
FAR_OUT = 3        # standard deviations of draws
FAR_BELOW = 0.75   # of what real images score
OFF = 0.2          # of it, where next to nothing looks real
FAR_ABOVE = 2      # times the distance of new real images
BEYOND = 100       # times, beyond which the distance of new real images is next to nothing, and the quotient no number
COPYING_TEST = 3   # standard deviations of C_T
NEVER = 0.05       # of held-out images reached, what a generator may do by luck
FRESH_RATE = 0.05  # the copy rate of fresh images, by its definition
MOST_FRESH = 0.25  # the greatest that is believed of fresh ones: beyond it they are copies themselves
NOTICED = 0.5      # of changed copies, the least that must count as near copies where a test is to clear anybody
FEW = 20           # samples, below which nothing is cleared

OF_SEARCHES = ("backtrack", "beyond_copying", "ppl", "jump_ratio")  # metrics that do not look at the samples

Measured = dict[str, Measurement]
Calibrations = dict[str, Calibration | None]


class Sentence(NamedTuple):
    """One finding, and whether it is `good`, `bad` or `mixed`."""

    tone: str
    text: str


def verdict(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    """Return what can be said about copying, about missing variety, and about realism, in this order."""
    count = max((number.num_fake for name, number in measured.items() if not name.startswith(OF_SEARCHES)), default=FEW)
    if count < FEW:
        few = Sentence("mixed", f"{count} samples are too few to judge by: draw {FEW} or more, better some hundreds.")
        return [few, *filter(None, [_by_rate(measured, calibration), _by_thumbnails(measured, calibration)])]
    return [*_copying(measured, calibration), *_variety(measured, calibration), *_realism(measured, calibration)]


def _copying(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    suspicions = _suspicions(measured, calibration)
    cleared = [] if suspicions else list(filter(None, [_cleared_by_rate(measured, calibration), _cleared_by_test(measured, calibration)]))
    return [*suspicions, *cleared, *filter(None, [_by_gap(measured), _by_reach(measured)])]


def _suspicions(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    return [sentence for check in (_by_rate, _by_thumbnails, _by_test, _by_distance, _by_kernel)
            for sentence in filter(None, [check(measured, calibration)])]  # fmt: skip


def _by_gap(measured: Measured) -> Sentence | None:
    gap = _found(measured, "backtrack_gap")
    if gap is None or gap.error is None or gap.value <= CLEARLY * gap.error:
        return None
    train, heldout = (_found(measured, f"backtrack_{name}").value for name in ("train", "heldout"))
    return Sentence("mixed", f"It knows its training images better than new ones: it reaches them to {train:.2f}, new ones to {heldout:.2f}.")


def _by_reach(measured: Measured) -> Sentence | None:
    reach = _found(measured, "beyond_copying")
    if reach is None:
        return None
    words = f"{reach.value:.0%} of {reach.num_fake} held-out images are reached more closely than their nearest training image lies"
    if reach.interval[0] > NEVER:
        return Sentence("good", f"It makes images that it never saw: {words}.")
    return Sentence("mixed", f"It hardly makes images that it never saw: {words}.")


def _by_rate(measured: Measured, calibration: Calibrations) -> Sentence | None:
    return _near_copies(measured, calibration, "copy_rate", "lie closer to a training image")


def _by_thumbnails(measured: Measured, calibration: Calibrations) -> Sentence | None:
    return _near_copies(measured, calibration, "copy_rate_thumbnail", "lie closer, as thumbnails, to a training image "
                                                                      "(shifted, zoomed or mirrored a little)")  # fmt: skip


def _near_copies(measured: Measured, calibration: Calibrations, name: str, closer: str) -> Sentence | None:
    rate = _found(measured, name)
    if rate is None:
        return None
    expected = _fresh_rate(calibration, name)
    if rate.interval[0] <= 2 * expected:
        return None
    return Sentence("bad", f"Suspect copying: {rate.value:.0%} of the samples {closer} than the closest 5% of the training images "
                           f"lie to each other; of new real images about {expected:.0%} would.")  # fmt: skip


def _fresh_rate(calibration: Calibrations, name: str) -> float:
    """Return the copy rate to expect of fresh images: by its definition, of held-out images, or of halves; the greatest."""
    rates = [_beside(calibration, kind, name) for kind in ("held_out", "split_half")]
    return min(max([FRESH_RATE, *(rate for rate in rates if rate is not None)]), MOST_FRESH)


def _cleared_by_rate(measured: Measured, calibration: Calibrations) -> Sentence | None:
    """Clear of near copies, where copies that are not equal to the bit would have been noticed."""
    names = [name for name in ("copy_rate", "copy_rate_thumbnail") if _found(measured, name)]
    if not names:
        return None
    noticed = {way: max(_beside(calibration, way, name) or 0 for name in names) for way in calibration if way.startswith("changed_copy, ")}
    missed = [f"{way.removeprefix('changed_copy, ')} {share:.0%}" for way, share in noticed.items() if share < NOTICED]
    if missed or not noticed:
        return Sentence("mixed", "Cannot tell whether it copies: of copies that were changed too few would be noticed "
                                 f"({', '.join(missed) or 'this was not tried'}).")  # fmt: skip
    rate, *thumbnails = (f"{_found(measured, name).value:.0%}" for name in names)
    fresh, *fresh_thumbnails = (f"{_fresh_rate(calibration, name):.0%}" for name in names)
    return Sentence("good", f"No more near copies than chance gives: {rate} of the samples{_aside('as thumbnails ', thumbnails)} lie closer to a "
                            f"training image than the closest 5% of the training images lie to each other; of new real images about "
                            f"{fresh}{_aside('', fresh_thumbnails)} would. Of copies changed by JPEG, noise, blur or a shift it would notice "
                            f"{'all' if min(noticed.values()) == 1 else f'at least {min(noticed.values()):.0%}'}.")  # fmt: skip


def _aside(words: str, value: list[str]) -> str:
    return f" ({words}{value[0]})" if value else ""


def _by_test(measured: Measured, calibration: Calibrations) -> Sentence | None:
    test = _found(measured, "c_t")
    if test is None or test.value >= -COPYING_TEST:
        return None
    return Sentence("bad", "Closer to the training images than new real images are: suspect copying "
                           f"(C_T {test.value:.1f}, where chance stays within {COPYING_TEST}).")  # fmt: skip


def _cleared_by_test(measured: Measured, calibration: Calibrations) -> Sentence | None:
    """Clear by C_T where it would be far below zero for every kind of changed copy. Far above zero it tells nothing.

    A texture that all samples share moves copies away from the training images, too.
    """
    test = _found(measured, "c_t")
    copies = [_beside(calibration, way, "c_t") for way in calibration if way.startswith("changed_copy, ")]
    if test is None or abs(test.value) > COPYING_TEST or not copies or not all(c is not None and c < -COPYING_TEST for c in copies):
        return None
    return Sentence("good", f"No closer to the training images than new real images are (C_T {test.value:.1f}).")


def _by_distance(measured: Measured, calibration: Calibrations) -> Sentence | None:
    for name in FRECHETS:
        number, ours, fresh = measured.get(name), *(_value(calibration, kind, name) for kind in ("as_many", "held_out"))
        if number is None or ours is None or fresh is None:
            continue
        # One set of held-out images has the luck of its draw, too. Draws that share samples differ less than sets do.
        shared = calibration["as_many"].num_fake / number.num_fake
        if shared < 1 and ours < fresh - FAR_OUT * calibration["as_many"].deviations[name] / math.sqrt(1 - shared):
            return Sentence("bad", f"Closer to the training images than new real images are: suspect copying ({name} {ours:.2f} "
                                   f"of as many samples as there are new images, which have {fresh:.2f}).")
    return None


def _by_kernel(measured: Measured, calibration: Calibrations) -> Sentence | None:
    for name in KERNELS:
        number = measured.get(name)
        if number and number.error is not None and number.value < -CLEARLY * number.error:
            return Sentence("bad", f"Suspect copying: {name} is clearly below zero ({number.value * 1000:.2f} x 10^-3, "
                                   f"+- {number.error * 1000:.2f}), which fresh images of the same kind are not.")
    return None


def _variety(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    """Judge how many real images are nearest to some sample, which fidelity has little part in; equal counts."""
    ours, real = (_beside(calibration, kind, "reached") for kind in ("as_halves", "split_half"))
    if ours is None or real is None or _off(calibration):
        return []
    words = f"samples are nearest to {ours:.0%} of a half of the real images, as many real images to {real:.0%}"
    tone = _tone(calibration, "reached")
    told = {"bad": "Kinds of image are missing", "mixed": "Perhaps some kinds of image are missing", "good": "No kind of image is missing"}
    sentences = [Sentence(tone, f"{told[tone]}: {words}.")]
    among, real = (_beside(calibration, kind, "recall") for kind in ("as_halves", "split_half"))
    if among is not None and real is not None and (tone := _tone(calibration, "recall")) != "good":
        sentences.append(Sentence(tone, f"The samples vary less than real images do: {among:.0%} of a half of the real images lie among "
                                        f"them, among as many real images {real:.0%}."))
    return sentences


def _tone(calibration: Calibrations, name: str, kind: str = "as_halves") -> str:
    """Say how samples, or other images, compare with real images in the place of one half, where more is better."""
    ours, real = (_beside(calibration, each, name) for each in (kind, "split_half"))
    most = ours + CLEARLY * _deviation(calibration, kind, name)
    return "bad" if most < FAR_BELOW * real else "mixed" if most < real else "good"


def _off(calibration: Calibrations) -> bool:
    """Say whether next to no sample lies among the real images: nearest images then say nothing of variety."""
    ours, real = (_beside(calibration, kind, "precision") for kind in ("as_halves", "split_half"))
    return ours is not None and real is not None and ours < OFF * real


def _realism(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    sentences = []
    ours, real = (_beside(calibration, kind, "precision") for kind in ("as_halves", "split_half"))
    if ours is not None and real is not None:
        words = f"{ours:.0%} of the samples lie among a half of the real images, of the other half {real:.0%} do"
        tone = _tone(calibration, "precision")
        told = {"bad": "Many samples do not look real", "mixed": "Some samples do not look real", "good": "The samples look real"}
        passing = [f"{_beside(calibration, key, 'precision'):.0%} of real images {key.removeprefix('spoilt, ')}"
                   for key in calibration if key.startswith("spoilt, ") and _tone(calibration, "precision", key) == "good"]  # fmt: skip
        if tone == "good" and passing:
            sentences.append(Sentence("mixed", f"Cannot tell whether the samples look real: {words}, but so do {' and '.join(passing)}."))
        else:
            sentences.append(Sentence(tone, f"{told[tone]} to this network: {words}."))
    for name in FRECHETS:
        ours, fresh = (_value(calibration, kind, name) for kind in ("as_many", "held_out"))
        if ours is not None and fresh is not None and ours > fresh:
            times = f"{ours / fresh:.1f}" if ours <= BEYOND * fresh else f"over {BEYOND}"
            sentences.append(Sentence(
                "bad" if ours > FAR_ABOVE * fresh else "mixed", f"As a set, the samples are {times} times as far from the "
                f"training images as new real images are ({name} {ours:.2f} against {fresh:.2f}, equal counts)."))
            break
    return sentences


def _found(measured: Measured, name: str) -> Measurement | None:
    """Return the metric whose name begins so, whatever network it was computed in, if it has a value."""
    return next((number for key, number in measured.items() if _is(key, name) and number.value is not None), None)


def _value(calibration: Calibrations, kind: str, name: str) -> float | None:
    """Return the value of exactly this metric in one of the comparisons."""
    return calibration[kind].values.get(name) if calibration.get(kind) else None


def _beside(calibration: Calibrations, kind: str, name: str) -> float | None:
    """Return a metric's value in one of the comparisons."""
    values = calibration[kind].values if calibration.get(kind) else {}
    return next((value for key, value in values.items() if _is(key, name)), None)


def _deviation(calibration: Calibrations, kind: str, name: str) -> float:
    """Return the standard deviation over the draws of a comparison that has this metric."""
    return next(value for key, value in calibration[kind].deviations.items() if _is(key, name))


def _is(key: str, name: str) -> bool:
    return key in [name + suffix for suffix in SUFFIXES]
