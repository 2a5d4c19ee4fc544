"""What the numbers mean, in sentences: is it copying, is anything missing, do the samples look real.

Every sentence compares a number with what it is for images whose truth is known; none has a threshold of its own in
units of the metric.
"""

from typing import NamedTuple

from metrics.calibration import Calibration
from metrics.measure import FRECHETS, KERNELS, SUFFIXES, Measurement

CLEARLY = 2        # standard errors
FAR_OUT = 3        # standard deviations of draws
FAR_BELOW = 0.75   # of what real images score
OFF = 0.2          # of it, where next to nothing looks real
FAR_ABOVE = 2      # times the distance of new real images
COPYING_TEST = 3   # standard deviations of C_T
NEVER = 0.05       # of held-out images reached, what a generator may do by luck
FRESH_RATE = 0.05  # the copy rate of fresh images, by its definition

Measured = dict[str, Measurement]
Calibrations = dict[str, Calibration | None]


class Sentence(NamedTuple):
    """One finding, and whether it is `good`, `bad` or `mixed`."""

    tone: str
    text: str


def verdict(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    """Return what can be said about copying, about missing variety, and about realism, in this order."""
    return [*_copying(measured, calibration), *_variety(measured, calibration), *_realism(measured, calibration)]


def _copying(measured: Measured, calibration: Calibrations) -> list[Sentence]:
    suspicions, cleared = [], []
    for check in (_by_rate, _by_test, _by_distance, _by_kernel):
        for sentence in filter(None, [check(measured, calibration)]):
            (suspicions if sentence.tone == "bad" else cleared).append(sentence)
    mixed = list(filter(None, [_by_gap(measured), _by_reach(measured)]))
    return [*suspicions, *mixed] if suspicions else [*cleared, *mixed]


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
    rate = _found(measured, "copy_rate")
    if rate is None:
        return None
    fresh = _beside(calibration, "held_out", "copy_rate")
    expected = FRESH_RATE if fresh is None else max(fresh, FRESH_RATE)
    words = (f"{rate.value:.0%} of the samples lie closer to a training image than the closest 5% of the training images lie "
             f"to each other; of new real images {'about 5%' if fresh is None else f'{fresh:.0%}'} would")
    if rate.interval[0] > 2 * expected:
        return Sentence("bad", f"Suspect copying: {words}.")
    return Sentence("good", f"No more near copies than chance gives: {words}.")


def _by_test(measured: Measured, calibration: Calibrations) -> Sentence | None:
    test = _found(measured, "c_t")
    if test is None:
        return None
    if test.value < -COPYING_TEST:
        return Sentence("bad", "Closer to the training images than new real images are: suspect copying "
                               f"(C_T {test.value:.1f}, where chance stays within {COPYING_TEST}).")
    return Sentence("good", f"No closer to the training images than new real images are (C_T {test.value:.1f}).")


def _by_distance(measured: Measured, calibration: Calibrations) -> Sentence | None:
    for name in FRECHETS:
        ours, fresh = (calibration[key].values.get(name) if calibration.get(key) else None for key in ("as_many", "held_out"))
        # One set of held-out images has the luck of its draw, too.
        if ours is not None and fresh is not None and ours < fresh - FAR_OUT * calibration["as_many"].deviations[name]:
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


def _tone(calibration: Calibrations, name: str) -> str:
    """Say how samples compare with real images in the place of one half, where more is better."""
    ours, real = (_beside(calibration, kind, name) for kind in ("as_halves", "split_half"))
    most = ours + CLEARLY * _deviation(calibration, "as_halves", name)
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
        sentences.append(Sentence(tone, f"{told[tone]} to this network: {words}."))
    for name in FRECHETS:
        ours, fresh = (calibration[key].values.get(name) if calibration.get(key) else None for key in ("as_many", "held_out"))
        if ours is not None and fresh and ours > fresh:
            sentences.append(Sentence(
                "bad" if ours > FAR_ABOVE * fresh else "mixed", f"As a set, the samples are {ours / fresh:.1f} times as far from the "
                f"training images as new real images are ({name} {ours:.2f} against {fresh:.2f}, equal counts)."))
            break
    return sentences


def _found(measured: Measured, name: str) -> Measurement | None:
    """Return the metric whose name begins so, whatever network it was computed in, if it has a value."""
    return next((number for key, number in measured.items() if _is(key, name) and number.value is not None), None)


def _beside(calibration: Calibrations, kind: str, name: str) -> float | None:
    """Return a metric's value in one of the comparisons."""
    values = calibration[kind].values if calibration.get(kind) else {}
    return next((value for key, value in values.items() if _is(key, name)), None)


def _deviation(calibration: Calibrations, kind: str, name: str) -> float:
    """Return the standard deviation over the draws of a comparison that has this metric."""
    return next(value for key, value in calibration[kind].deviations.items() if _is(key, name))


def _is(key: str, name: str) -> bool:
    return key in [name + suffix for suffix in SUFFIXES]
