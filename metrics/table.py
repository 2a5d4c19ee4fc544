"""The table of metrics: what each is called, computed by and in, and how its numbers are read.

A new metric is a file of its own with its function, and a row here. Everything else is read off the rows: --metrics and
its help, weights, names in metrics.json, the printed table, charts, and what the verdict looks at.
"""

from collections.abc import Callable
from typing import NamedTuple

from metrics import alterations, backtracking, copying, frechet, kid, neighbours, paths, prdc
from metrics.interface import Protocol

LOWER, HIGHER = "lower", "higher"
FEATURES, SAMPLES, GENERATOR = "features", "samples", "generator"


class Number(NamedTuple):
    """One number of a metric."""

    name: str
    better: str
    offline: str | None = None  # its name before the suffix of a network that needs no download, where that differs
    network: str | None = None  # where it is not its metric's
    comparable: str | None = None  # what a protocol must be (published, raw) for values to be comparable with published ones
    counted: bool = False  # a distance of sets that falls as samples grow: printed with their number, judged in equal numbers
    scale: int = 1  # factor that it is printed with
    digits: int = 2  # printed after the point
    chart: bool = False  # whether the page draws it as bars
    bar: float | None = None  # the verdict's threshold; None: the verdict compares with real images, or is silent
    heldout: bool = False  # whether it needs held-out images and is left out without them


class Metric(NamedTuple):
    """One row.

    `measure` returns a `Value` for each of the numbers, in their order, None for one that is left out. Metrics of FEATURES are
    given a `Comparison` for each of their networks, others a `Context`, and these say in image passes how much `work` it is.
    """

    key: str  # the word of --metrics
    measure: Callable
    network: str  # a role in the protocol, or one network's name
    numbers: tuple[Number, ...]
    source: str = FEATURES  # what it looks at; GENERATOR: it is skipped where there are only images
    work: Callable | None = None
    paper: bool = True  # whether the paper's protocol has it
    altered: dict | None = None  # ways of altering real images, on which the verdict tries it: COPIES or SPOILT

    @property
    def networks(self) -> tuple[str, ...]:
        """Return every network that it looks through, its own first."""
        return tuple(dict.fromkeys([self.network, *(number.network for number in self.numbers if number.network)]))

    def named(self, protocol: Protocol) -> dict[str, Number]:
        """Return the numbers by their names in a protocol."""
        names = {}
        for number in self.numbers:
            own = protocol.suffix and (number.network or self.network) in protocol._fields  # its features are not the literature's
            names[(number.offline or number.name) + protocol.suffix if own else number.name] = number
        return names


# Numbers that the verdict and the report speak of; the others stand in their rows alone.
FID = Number("fid", LOWER, offline="fd", comparable="published", counted=True, chart=True)
FID_EXACT = Number("fid_exact", LOWER, comparable="published", counted=True, chart=True)
KID = Number("kid", LOWER, offline="kd", comparable="published", scale=1000)
PRECISION = Number("precision", HIGHER, chart=True)
RECALL = Number("recall", HIGHER, chart=True)
REACHED = Number("reached", HIGHER)
COPY_RATE = Number("copy_rate", LOWER, chart=True, bar=copying.PERCENTILE)
COPY_RATE_THUMBNAIL = Number("copy_rate_thumbnail", LOWER, network="thumbnail", chart=True, bar=copying.PERCENTILE)
C_T = Number("c_t", HIGHER, bar=3)  # standard deviations
BACKTRACK_HELDOUT = Number("backtrack_heldout", LOWER, digits=3, heldout=True)
BEYOND_COPYING = Number("beyond_copying", HIGHER, bar=0.05, heldout=True)  # what a generator may reach by luck
BACKTRACK_TRAIN = Number("backtrack_train", LOWER, digits=3)
BACKTRACK_GAP = Number("backtrack_gap", LOWER, digits=3, heldout=True)

METRICS = {
    metric.key: metric
    for metric in (
        Metric("fid", frechet.measure, "distance", (FID, FID_EXACT), paper=False),
        Metric("fid_clean", frechet.measure_exact, "clean", (Number("fid_clean", LOWER, comparable="raw", counted=True, chart=True),)),
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
        Metric("dinov2", frechet.measure_exact, "dinov2", (Number("fd_dinov2", LOWER, counted=True, chart=True),), paper=False),
    )
}


def chosen(keys: list[str], *sources: str, altered: dict | None = None) -> list[Metric]:
    """Return the rows of these keys: those that look at one of `sources`, if any are named, and are tried on `altered` images, if given."""
    rows = [METRICS[key] for key in keys]
    return [row for row in rows if row.source in (sources or (row.source,)) and altered in (None, row.altered)]
