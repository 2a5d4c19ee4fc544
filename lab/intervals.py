"""The mean of a few runs, and its 95% interval by Student's t."""

import math
import statistics
from collections.abc import Sequence

import numpy as np
from scipy.stats import t


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean of the values and half the width of its 95% interval, NaN for a single value; both NaN if one of them is."""
    mean, count = statistics.fmean(values), len(values)
    if count < 2:
        return mean, math.nan
    return mean, float(t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))


def shown(values: Sequence[float], digits: int) -> str:
    """Return `mean +- half width` for a table; only the mean for a single value."""
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(half) else f" +- {half:.{digits}f}")
