"""Which numbers are computed from which network, under which name, and what is said of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import Tensor

from errors import UserError
from metrics import frechet, kid, prdc
from metrics.pytorch_fid_bridge import LibraryFailed, library_distance

METRICS = ("fid", "kid", "pr")
PUBLISHED_SAMPLES = 5000  # samples that published few-shot FIDs are computed from; the value falls with their number
ERROR_LIMIT = 1000  # real images beyond which ten exact distances take minutes and the error is small anyway
JACKKNIFE_SEED = 0
DISAGREEMENT = 1e-3  # the most by which the matrix root may differ from the exact form, absolute below 1, relative above

Features = dict[str, Tensor]  # network -> (N, D)


@dataclass(frozen=True)
class Measurement:
    """One number of the report; `value` is None, with a `reason`, where the images do not allow it."""

    value: float | None
    better: str  # "lower" or "higher"
    num_real: int
    num_fake: int
    comparable_with_published: bool = False
    error: float | None = None  # one standard error
    interval: tuple[float, float] | None = None  # 95%
    reason: str | None = None


class Protocol(NamedTuple):
    """Which networks the metrics are computed in, and what the numbers are then called."""

    distance: str  # network of the distances
    manifold: str  # network of precision, recall, density and coverage
    published: bool  # whether the distances are those of the literature
    library: str | None  # the Frechet distance as pytorch-fid computes it
    frechet: str
    kernel: str
    suffix: str  # of the other four

    def networks(self, metrics: list[str]) -> list[str]:
        """Return the networks that these metrics need, each once."""
        needed = [self.manifold if metric == "pr" else self.distance for metric in metrics]
        return list(dict.fromkeys(needed))


PROTOCOLS = {
    "inception": Protocol("inception", "vgg16", True, "fid", "fid_exact", "kid", ""),
    "effnet-lite0": Protocol("effnet-lite0", "effnet-lite0", False, None, "fd_effnetlite0", "kd_effnetlite0",
                             "_effnetlite0"),
}
KERNELS = {protocol.kernel for protocol in PROTOCOLS.values()}


def chosen(text: str) -> list[str]:
    """Return the metrics that a comma-separated list names, in their usual order. Raises UserError for any other word."""
    if unknown := set(text.split(",")) - set(METRICS):
        raise UserError(f"--metrics: unknown {', '.join(map(repr, sorted(unknown)))}; choose from {','.join(METRICS)}")
    return [metric for metric in METRICS if metric in text.split(",")]


def measure(real: Features, fake: Features, protocol: Protocol, metrics: list[str], *,
            errors: bool = True) -> dict[str, Measurement]:
    """Return every number that `metrics` asks for by name; without `errors` only the quick values, for calibration."""
    measured = {}
    for metric in metrics:
        network = protocol.manifold if metric == "pr" else protocol.distance
        measured |= _FUNCTIONS[metric](real[network], fake[network], protocol, errors)
    return measured


def disagreement(measured: dict[str, Measurement]) -> str | None:
    """Say so when pytorch-fid's matrix root differs from the exact distance by more than 1e-3; None when it does not."""
    library, exact = (getattr(measured.get(name), "value", None) for name in ("fid", "fid_exact"))
    if library is None or exact is None or abs(library - exact) <= DISAGREEMENT * max(1.0, exact):
        return None
    return f"fid {library:.6g} and fid_exact {exact:.6g} differ by more than rounding: trust fid_exact, not the root"


def _frechet(real: Tensor, fake: Tensor, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    counts = len(real), len(fake)
    names = [protocol.library, protocol.frechet] if protocol.library and errors else [protocol.frechet]
    if min(counts) < frechet.MINIMUM:
        return dict.fromkeys(names, Measurement(None, "lower", *counts, reason=_too_few(frechet.MINIMUM, "either side")))
    exact = Measurement(
        frechet.frechet_distance(real, fake), "lower", *counts,
        comparable_with_published=protocol.published and len(fake) >= PUBLISHED_SAMPLES,
        error=frechet.jackknife_error(real, fake, JACKKNIFE_SEED) if errors and len(real) <= ERROR_LIMIT else None)
    if len(names) == 1:
        return {protocol.frechet: exact}
    try:
        library = replace(exact, value=library_distance(real, fake))
    except LibraryFailed as failure:
        library = Measurement(None, "lower", *counts, reason=str(failure))
    return {protocol.library: library, protocol.frechet: exact}


def _kernel(real: Tensor, fake: Tensor, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    counts = len(real), len(fake)
    if min(counts) < kid.MINIMUM:
        return {protocol.kernel: Measurement(None, "lower", *counts, reason=_too_few(kid.MINIMUM, "either side"))}
    value, error = kid.kernel_distance(real, fake)
    return {protocol.kernel: Measurement(value, "lower", *counts, protocol.published, error)}


def _manifold(real: Tensor, fake: Tensor, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    counts = {"precision": len(fake), "recall": len(real), "density": None, "coverage": len(real)}  # of the shares
    measured = {}
    for name, value in prdc.prdc(real, fake).items():
        side = "the side of the fakes" if name == "recall" else "the side of the reals"
        measured[name + protocol.suffix] = Measurement(
            value, "higher", len(real), len(fake),
            interval=None if value is None or counts[name] is None else prdc.wilson_interval(value, counts[name]),
            reason=_too_few(prdc.MINIMUM, side) if value is None else None)
    return measured


_FUNCTIONS: dict[str, Callable] = {"fid": _frechet, "kid": _kernel, "pr": _manifold}


def _too_few(minimum: int, side: str) -> str:
    return f"needs at least {minimum} images on {side}"
