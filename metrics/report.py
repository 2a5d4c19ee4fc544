"""The report of an evaluation as text: the table, its legend and the warnings."""

import torch

from metrics.calibration import Calibration
from metrics.features import NETWORKS
from metrics.interface import Measurement
from metrics.measure import OFFLINE_JUDGES, PUBLISHED_SAMPLES, number_of
from metrics.table import FID, FID_EXACT, PRECISION
from metrics.teacher import teachers
from metrics.verdict import Sentence

BESIDE = {
    "copies": "copy",
    "changed": "changed_copy",
    "halves": "split_half",
    "as halves": "as_halves",
    "held-out": "held_out",
    "as held-out": "as_many",
}
COLUMNS = ("metric", "value", "uncertainty", "better", "real/fake", *BESIDE, "comparable")
RIGHT = ("value", *BESIDE)  # aligned at the decimal point
RESIZED = "resized, "  # before a size, in the names of comparisons
MARK = "*"  # on numbers in a network that is also the training loss
DISAGREEMENT = 1e-3  # largest difference of matrix root and exact distance, absolute below 1, relative above

Measured = dict[str, Measurement]
Calibrations = dict[str, Calibration | None]


def text(measured: Measured, calibration: Calibrations, sentences: list[Sentence], warnings: list[str]) -> str:
    """Return the printed report: the table, its legend, the verdict and the warnings."""
    return "\n".join(
        [
            table(measured, calibration),
            *legend(measured, calibration),
            *(f"verdict: {sentence.text}" for sentence in sentences),
            *(f"warning: {each}" for each in warnings),
        ]
    )


def table(measured: Measured, calibration: Calibrations) -> str:
    """Return the numbers as aligned lines, each beside its values for the comparison sets."""
    return aligned(rows(measured, calibration), right=RIGHT)


def rows(measured: Measured, calibration: Calibrations) -> list[tuple[str, ...]]:
    """Return the cells of the table, the header first. Uncertainty is one standard error or a 95% interval."""
    cells = [COLUMNS]
    for name, number in measured.items():
        if number.error is not None:
            uncertainty = f"+- {printed_value(name, number.error)}"
        elif number.interval is not None:
            uncertainty = "{:.2f} to {:.2f}".format(*number.interval)
        else:
            uncertainty = "-"
        beside = [printed_value(name, calibration[key].values.get(name)) if calibration.get(key) else "-" for key in BESIDE.values()]
        mark = f" {MARK}" if number.also_training_loss else ""
        cells.append(
            (
                printed_name(name, number.num_fake) + mark,
                printed_value(name, number.value),
                uncertainty,
                number.better,
                f"{number.num_real}/{number.num_fake}",
                *beside,
                "yes" if number.comparable_with_published else "no",
            )
        )
    return cells


def aligned(cells: list[tuple[str, ...]], right: tuple[str, ...]) -> str:
    """Return rows of cells as lines with aligned columns; columns with a header in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        [cell.rjust(width) if head in right else cell.ljust(width) for cell, width, head in zip(row, widths, cells[0])] for row in cells
    ]
    return "\n".join("  ".join(line).rstrip() for line in lines)


def legend(measured: Measured, calibration: Calibrations) -> list[str]:
    """Return lines that explain the comparison columns of the table, and notes on single numbers."""
    lines = [
        f"{column}: {calibration[key].meaning} ({calibration[key].num_real}/{calibration[key].num_fake})"
        for column, key in BESIDE.items()
        if calibration.get(key)
    ]
    spoilt = {key: each for key, each in calibration.items() if key.startswith("spoilt, ")}
    if spoilt:
        shares = ", ".join(
            f"{name.removeprefix('spoilt, ')} {value:.2f}"
            for name, each in spoilt.items()
            for key, value in each.values.items()
            if number_of(key) is PRECISION and value is not None
        )
        lines.append(f"{PRECISION.name} of spoilt real images, against one half: {shares}")
    for name in measured:
        resized = [
            f"{key.removeprefix(RESIZED)}: {printed_value(name, each.values[name])}"
            for key, each in calibration.items()
            if key.startswith(RESIZED) and each.values.get(name) is not None
        ]
        if resized and number_of(name).chart:
            lines.append(f"{name} of real images resized to a share of their side and back: {', '.join(resized)}")
    if not calibration.get("held_out"):
        lines.append("held-out: none; train with data.holdout=0.1 or give --heldout to see the scores of new real images")
    if taught := teachers(measured):
        lines.append(f"{MARK}: in {' and '.join(taught)}, also the training loss of this run")
    lines.append("comparable: with published numbers; Frechet distances fall as counts grow, so compare equal counts")
    for name, number in measured.items():
        if number.repeats:
            spread = torch.tensor(number.repeats, dtype=torch.float64)
            deviation, least = (printed_value(name, float(each)) for each in (spread.std(), spread.min()))
            lines.append(f"{name}: mean of {len(spread)} sets of samples, standard deviation {deviation}, least {least}")
        if number.note:
            lines.append(f"{name}: {number.note}")
    return lines


def warnings_of(measured: Measured, selected_by: str | None = None, truncation: float = 1) -> list[str]:
    """Return the warnings for a reader of the numbers; `selected_by` is the score that selected the checkpoint."""
    warnings = [f"{name} was not computed: {number.reason}" for name, number in measured.items() if number.value is None]
    if truncation != 1:
        warnings.append(
            f"the samples have truncation {truncation:g}; path lengths, interpolations and backtracking are of the generator without it"
        )
    warnings += filter(None, [disagreement(measured)])
    if selected_by:
        held = selected_by.startswith("heldout")
        by = (
            f"{selected_by} on the held-out images, so its numbers on those"
            if held
            else f"{selected_by} to the training images, so its numbers"
        )
        warnings.append(f"this checkpoint was selected by its {by} are too good")
    numbers = {name: number_of(name) for name in measured}
    published = [name for name, number in numbers.items() if number.counted and number.comparable and name == number.name]
    if any(measured[name].num_fake < PUBLISHED_SAMPLES for name in published):
        warnings.append(f"fid falls with the number of samples; published few-shot values use {PUBLISHED_SAMPLES}")
    for network in OFFLINE_JUDGES:
        if any(number.network == network for number in measured.values()):
            warnings.append(f"these numbers use {NETWORKS[network].title}: compare them only with each other, never with published numbers")
    for title, settings in teachers(measured).items():
        warnings.append(
            f"{title} is also the training loss of this run ({', '.join(settings)}), so numbers marked {MARK} partly "
            f"measure what was trained; --features {OFFLINE_JUDGES[0]} uses a network that no recipe trains on"
        )
    return warnings


def disagreement(measured: Measured) -> str | None:
    """Return a warning if pytorch-fid's matrix root differs from the exact distance by more than 1e-3, else None."""
    library, exact = (getattr(measured.get(number.name), "value", None) for number in (FID, FID_EXACT))
    if library is None or exact is None or abs(library - exact) <= DISAGREEMENT * max(1.0, exact):
        return None
    return f"{FID.name} {library:.6g} and {FID_EXACT.name} {exact:.6g} differ by more than rounding: trust {FID_EXACT.name}, not the root"


def printed_name(name: str, num_fake: int) -> str:
    """Return the printed name of a number: Frechet distances include the number of samples."""
    number = number_of(name)
    if number.counted:
        count = f"{num_fake // 1000}k" if num_fake and num_fake % 1000 == 0 else str(num_fake)
        return f"{name}_{count}" if name[-1].isdigit() else f"{name}{count}"
    return f"{name} (x{number.scale})" if number.scale != 1 else name


def printed_value(name: str, value: float | None) -> str:
    """Return a value as it is printed; `-` for None."""
    number = number_of(name)
    return "-" if value is None else f"{value * number.scale:.{number.digits}f}"
