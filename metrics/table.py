"""The table of metrics: the name, function, network and numbers of each.

A new metric needs a file with its function, and a row here. Everything else comes from the rows: --metrics and its help,
weights, names in metrics.json, the printed table, charts, and the inputs of the verdict.
"""

from collections.abc import Callable
from typing import NamedTuple

from metrics import alterations, backtracking, copying, frechet, kid, likelihood, neighbours, paths, prdc, sharpness
from metrics.interface import Protocol

LOWER, HIGHER, NEAR_ONE = "lower", "higher", "near 1"
FEATURES, SAMPLES, GENERATOR, LIKELIHOOD = "features", "samples", "generator", "likelihood"


class Number(NamedTuple):
    """One number of a metric."""

    name: str
    better: str
    offline: str | None = None  # its name in a network that needs no download, before the suffix; None: the same name
    network: str | None = None  # None: the network of its metric
    comparable: str | None = None  # attribute of a protocol (published, raw) that makes values comparable with published ones
    counted: bool = False  # a distance that falls with the number of samples: the name includes the number, the verdict uses equal counts
    scale: int = 1  # factor for printing
    digits: int = 2  # decimals for printing
    chart: bool = False  # whether the page draws it as bars
    bar: float | None = None  # the verdict's threshold; None: the verdict compares with real images or ignores the number
    heldout: bool = False  # whether it needs held-out images; without them it is left out


class Metric(NamedTuple):
    """One row.

    `measure` returns a `Value` for each number, in order, or None for a number that is left out. It takes one `Comparison` per
    network if the source is FEATURES, otherwise a `Context`; `work` then returns the work in image passes.
    """

    key: str  # name in --metrics
    measure: Callable
    network: str  # a role in the protocol, or the name of a network
    numbers: tuple[Number, ...]
    source: str = FEATURES  # its input; GENERATOR: skipped if there are only images; LIKELIHOOD: left out without one
    work: Callable | None = None
    paper: bool = True  # whether the paper's protocol includes it
    altered: dict | None = None  # changed real images on which the verdict tests it: COPIES, SPOILT or RESIZED
    pixels: bool = False  # whether it compares pixels, so that the real images must have the size of the samples

    @property
    def networks(self) -> tuple[str, ...]:
        """Return every network of its numbers, its own first."""
        return tuple(dict.fromkeys([self.network, *(number.network for number in self.numbers if number.network)]))

    def named(self, protocol: Protocol) -> dict[str, Number]:
        """Return the numbers by their names in a protocol."""
        names = {}
        for number in self.numbers:
            own = protocol.suffix and (number.network or self.network) in protocol._fields  # features without published numbers
            names[(number.offline or number.name) + protocol.suffix if own else number.name] = number
        return names


# Numbers that the verdict and the report use; the other numbers are defined in their rows.
FID = Number("fid", LOWER, offline="fd", comparable="published", counted=True, chart=True)
FID_EXACT = Number("fid_exact", LOWER, comparable="published", counted=True, chart=True)
FID_HELDOUT = Number("fid_heldout", LOWER, offline="fd_heldout", counted=True, chart=True, heldout=True)
KID = Number("kid", LOWER, offline="kd", comparable="published", scale=1000)
PRECISION = Number("precision", HIGHER, chart=True)
RECALL = Number("recall", HIGHER, chart=True)
REACHED = Number("reached", HIGHER)
COPY_RATE = Number("copy_rate", LOWER, chart=True, bar=copying.PERCENTILE)
COPY_RATE_THUMBNAIL = Number("copy_rate_thumbnail", LOWER, network="thumbnail", chart=True, bar=copying.PERCENTILE)
C_T = Number("c_t", HIGHER, bar=3)  # standard deviations
FINE_POWER = Number("fine_power", NEAR_ONE, chart=True)
MIDDLE_POWER = Number("middle_power", NEAR_ONE)
COARSE_POWER = Number("coarse_power", NEAR_ONE)
BACKTRACK_HELDOUT = Number("backtrack_heldout", LOWER, digits=3, heldout=True)
BEYOND_COPYING = Number("beyond_copying", HIGHER, bar=0.05, heldout=True)  # share that a generator can reach by chance
BACKTRACK_TRAIN = Number("backtrack_train", LOWER, digits=3)
BACKTRACK_GAP = Number("backtrack_gap", LOWER, digits=3, heldout=True)

METRICS = {
    metric.key: metric
    for metric in (
        Metric("fid", frechet.measure, "distance", (FID, FID_EXACT), paper=False),
        Metric("fid_clean", frechet.measure_exact, "clean", (Number("fid_clean", LOWER, comparable="raw", counted=True, chart=True),)),
        Metric("fid_heldout", frechet.measure_heldout, "distance", (FID_HELDOUT,), paper=False),
        Metric("kid", kid.measure, "distance", (KID,), paper=False),
        Metric(
            "pr",
            prdc.measure,
            "manifold",
            (PRECISION, RECALL, Number("density", HIGHER), Number("coverage", HIGHER, chart=True), REACHED),
            altered=alterations.SPOILT,
        ),
        Metric(
            "copying",
            copying.measure,
            "distance",
            (COPY_RATE, COPY_RATE_THUMBNAIL, Number("authpct", HIGHER, chart=True), C_T),
            altered=alterations.COPIES,
        ),
        Metric(
            "sharpness",
            sharpness.measure_power,
            "spectrum",
            (FINE_POWER, MIDDLE_POWER, COARSE_POWER),
            paper=False,
            altered=alterations.RESIZED,
            pixels=True,
        ),
        Metric(
            "swd",
            sharpness.measure_patches,
            "patches",
            (Number("swd", LOWER, digits=3, chart=True), Number("swd_fine", LOWER, digits=3)),
            paper=False,
            altered=alterations.RESIZED,
            pixels=True,
        ),
        Metric("intra_lpips", neighbours.measure, "perceptual", (Number("intra_lpips", HIGHER, digits=3),), SAMPLES, neighbours.work),
        Metric("ppl", paths.measure_length, "perceptual", (Number("ppl", LOWER),), GENERATOR, paths.length_work),
        Metric("jumps", paths.measure_jumps, "perceptual", (Number("jump_ratio", LOWER),), GENERATOR, paths.jumps_work),
        Metric(
            "backtracking",
            backtracking.measure,
            "perceptual",
            (BACKTRACK_HELDOUT, BEYOND_COPYING, BACKTRACK_TRAIN, BACKTRACK_GAP),
            GENERATOR,
            backtracking.work,
        ),
        Metric(
            "likelihood",
            likelihood.measure,
            "model",
            (Number("bits_per_dim_train", LOWER, digits=3), Number("bits_per_dim_heldout", LOWER, digits=3, heldout=True)),
            LIKELIHOOD,
            likelihood.work,
            paper=False,
        ),
        Metric("dinov2", frechet.measure_exact, "dinov2", (Number("fd_dinov2", LOWER, counted=True, chart=True),), paper=False),
    )
}
# What two CPU cores compute in minutes:
QUICK_METRICS = ("fid", "fid_heldout", "kid", "pr", "copying", "intra_lpips", "jumps", "likelihood")


def chosen(keys: list[str], *sources: str, altered: dict | None = None) -> list[Metric]:
    """Return the rows of these keys, only those with a source in `sources` and with `altered`, if these are given."""
    rows = [METRICS[key] for key in keys]
    return [row for row in rows if row.source in (sources or (row.source,)) and altered in (None, row.altered)]
