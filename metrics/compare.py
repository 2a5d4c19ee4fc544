"""Compare two evaluations: their differences, and whether a difference exceeds its uncertainty."""

import json
import math
from pathlib import Path

from errors import UserError
from metrics.document import SCHEMA
from metrics.frechet import jackknife_error
from metrics.report import aligned, printed_name, printed_value
from metrics.table import HIGHER, LOWER, NEAR_ONE

CLEARLY = 2  # standard errors of the difference


def compare(a: Path, b: Path) -> str:
    """Return a table of two evaluations, each a metrics.json or the folder of one.

    Raises UserError, which names the differences, if their conditions differ.
    """
    first, second = _read(a), _read(b)
    priors = [document["conditions"].setdefault("prior", "none") for document in (first, second)]  # earlier evaluations name none
    if None in priors:  # of images whose model is unknown
        second["conditions"]["prior"] = first["conditions"]["prior"]
    if different := _differences(first["conditions"], second["conditions"]):
        raise UserError(f"--compare: {a} and {b} cannot be compared: " + "; ".join(different))
    rows = [("metric", "A", "B", "B - A", "uncertainty", "which is better")]
    for name in first["metrics"]:
        if name in second["metrics"]:
            rows.append(_row(name, first["metrics"][name], second["metrics"][name]))
    legend = [
        f"A: {a}",
        f"B: {b}",
        f"uncertainty: one standard error of the difference; better: a difference above {CLEARLY} standard errors",
        "each side is one training run: the errors do not cover the difference between training seeds",
    ]
    for side, document in (("A", first), ("B", second)):
        truncation = (document.get("sampling") or {}).get("truncation", 1)  # earlier evaluations have none
        if truncation != 1:
            legend.append(f"{side}: its samples have truncation {truncation:g}; below 1 samples are less varied")
        taught = dict.fromkeys(number["network"] for number in document["metrics"].values() if number.get("also_training_loss"))
        if taught:
            legend.append(f"{side}: {' and '.join(taught)} is also its training loss, so those numbers partly measure what was trained")
    return "\n".join([aligned(rows, right=("A", "B", "B - A")), *legend])


def _read(path: Path) -> dict:
    file = path / "metrics.json" if path.is_dir() else path
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        known = document["schema"] == SCHEMA and isinstance(document["conditions"], dict) and isinstance(document["metrics"], dict)
    except FileNotFoundError:
        raise UserError(f"--compare {path}: has no metrics.json; give the folder that evaluate.py wrote") from None
    except (OSError, ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise UserError(f"--compare {path}: not a report of this version ({SCHEMA}); evaluate again")
    return document


def _differences(a: dict, b: dict, place: str = "") -> list[str]:
    """Return every difference between two nested records, with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [line for key in dict.fromkeys([*a, *b]) for line in _differences(a.get(key), b.get(key), f"{place}.{key}".strip("."))]
    return [] if a == b else [f"{place} {_short(a)} and {_short(b)}"]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _row(name: str, a: dict, b: dict) -> tuple[str, ...]:
    shown, values = printed_name(name, a["num_fake"]), [each["value"] for each in (a, b)]
    cells = [printed_value(name, value) for value in values]
    if None in values:
        return (shown, *cells, "-", "-", "-")
    difference, error = values[1] - values[0], _error(a, b)
    if error is None:
        better = "-"
    else:
        gain = _fault(values[0], a["better"]) - _fault(values[1], a["better"])
        better = "no clear difference" if abs(gain) <= CLEARLY * error else "B" if gain > 0 else "A"
    return (shown, *cells, printed_value(name, difference), "-" if error is None else f"+- {printed_value(name, error)}", better)


def _fault(value: float, better: str) -> float:
    """Return a number that is lower for a better value."""
    return {LOWER: value, HIGHER: -value, NEAR_ONE: abs(value - 1)}[better]


def _error(a: dict, b: dict) -> float | None:
    """Return the standard error of the difference of two numbers.

    Two jackknives over the same tenths of the real images: the error of the paired differences, in which the influence of
    the real images cancels. Two shares: from half their intervals (Newcombe 1998). Repeats: from their spread. If several
    apply, the largest. None if none applies.
    """
    errors = []
    if a["repeats"] and b["repeats"]:
        errors.append(math.hypot(*(_deviation(each["repeats"]) / math.sqrt(len(each["repeats"])) for each in (a, b))))
    if a["jackknife"] and b["jackknife"]:
        errors.append(jackknife_error(tuple(y - x for x, y in zip(a["jackknife"], b["jackknife"]))))
    elif a["error"] is not None and b["error"] is not None:
        errors.append(math.hypot(a["error"], b["error"]))
    if a["interval"] and b["interval"]:
        up = b["value"] >= a["value"]
        errors.append(
            math.hypot(
                b["value"] - b["interval"][0] if up else b["interval"][1] - b["value"],
                a["interval"][1] - a["value"] if up else a["value"] - a["interval"][0],
            )
            / 1.96
        )
    return max(errors, default=None)


def _deviation(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
