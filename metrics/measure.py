"""Which numbers are computed from which network, under which name, and what is said of each."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from errors import UserError
from metrics import copying, frechet, kid, prdc
from metrics.pytorch_fid_bridge import LibraryFailed, library_distance
from models.weights import is_given

PUBLISHED_SAMPLES = 5000  # samples that published few-shot FIDs are computed from; the value falls with their number
ERROR_LIMIT = 1000  # real images beyond which ten exact distances take minutes and the error is small anyway
JACKKNIFE_SEED = 0
DISAGREEMENT = 1e-3  # the most by which the matrix root may differ from the exact form, absolute below 1, relative above

Features = dict[str, Tensor]  # network -> (N, D)


class Sets(NamedTuple):
    """The features of the images that are compared: real, generated, and where there are any, held out and mirrored."""

    real: Features
    fake: Features
    heldout: Features | None = None
    mirror: Features | None = None  # the flipped training images, when training flipped them


@dataclass(frozen=True)
class Measurement:
    """One number of the report; `value` is None, with a `reason`, where the images do not allow it.

    `network` is what it is computed in: a feature network, or a perceptual distance. `also_training_loss` names the settings
    by which the run that is scored was trained on that network; None where that is not known.
    """

    value: float | None
    better: str  # "lower" or "higher"
    num_real: int
    num_fake: int
    comparable_with_published: bool = False
    error: float | None = None  # one standard error
    interval: tuple[float, float] | None = None  # 95%
    reason: str | None = None
    note: str | None = None
    jackknife: tuple[float, ...] | None = None  # the value without each tenth of the real images, for paired comparison
    repeats: tuple[float, ...] | None = None  # the value of other sets of samples, the first among them
    network: str | None = None
    also_training_loss: tuple[str, ...] | None = None


class Protocol(NamedTuple):
    """Which networks the metrics are computed in, how, and what the numbers are then called."""

    name: str
    metrics: tuple[str, ...]  # that it has
    distance: str  # network of the distances and of copying
    clean: str | None  # network behind clean-fid's resize
    manifold: str  # network of precision, recall, density and coverage
    perceptual: str  # distance of everything that asks how alike two images look
    suffix: str  # of every name, where the numbers are not those of the literature
    strict: bool = False  # whether a ball leaves out its surface
    manifold_samples: int | None = None  # the first so many fakes, for precision and recall
    raw: bool = False  # whether the real images are taken as they are in the folder, and not as they were trained on

    @property
    def published(self) -> bool:
        return not self.suffix

    @property
    def judges(self) -> dict[str, str | None]:
        """Return the network whose features a metric needs, of every metric of features."""
        return {"fid": self.distance, "fid_clean": self.clean, "kid": self.distance, "pr": self.manifold, "copying": self.distance,
                "dinov2": "dinov2"}

    def networks(self, metrics: list[str]) -> list[str]:
        """Return the networks whose features these metrics need, each once."""
        needed = [(self.judges[metric], *WITNESSES.get(metric, ())) for metric in metrics if metric in self.judges]
        return list(dict.fromkeys(network for networks in needed for network in networks))


_EVERYWHERE = ("pr", "copying", "intra_lpips", "ppl", "jumps", "backtracking")
GENERATOR_METRICS = ("ppl", "jumps", "backtracking")  # that images alone do not allow
PERCEPTUAL_METRICS = ("intra_lpips", *GENERATOR_METRICS)
JUDGES = {  # networks of --features
    "inception": "the default, to be downloaded, for numbers as they are published",
    "effnet-lite2": "no download, and no recipe trains on it",
    "effnet-lite0": "no download, but the recipes for CPUs train on it",
}
OFFLINE_JUDGES = tuple(JUDGES)[1:]
WITNESSES = {"copying": ("thumbnail",)}  # what a metric looks at beside the features of its judge
PROTOCOLS = {
    ("default", "inception"): Protocol(
        "default", ("fid", "fid_clean", "kid", *_EVERYWHERE, "dinov2"), "inception", "inception-clean", "vgg16", "lpips-vgg", ""),
    **{("default", name): Protocol(
        "default", ("fid", "kid", *_EVERYWHERE, "dinov2"), name, None, name, name, f"_{name.replace('-', '')}") for name in OFFLINE_JUDGES},
    ("paper", "inception"): Protocol(
        "paper", ("fid_clean", *_EVERYWHERE), "inception-clean", "inception-clean", "vgg16-linear", "lpips-vgg", "",
        strict=True, manifold_samples=1000, raw=True),
}
SUFFIXES = tuple(dict.fromkeys(protocol.suffix for protocol in PROTOCOLS.values()))
KERNELS = ("kid", *(f"kd{suffix}" for suffix in SUFFIXES if suffix))
FRECHETS = ("fid", "fid_exact", "fid_clean", *(f"fd{suffix}" for suffix in SUFFIXES if suffix), "fd_dinov2")


def protocol_of(name: str, features: str, metrics: str | None, raw: bool) -> tuple[Protocol, list[str]]:
    """Return the protocol and the metrics to compute; for None all that it has, DINOv2's only if its weights are here.

    Raises UserError for what it has not.
    """
    if (name, features) not in PROTOCOLS:
        raise UserError(f"--protocol {name} is computed in Inception's features, not in those of {features}; leave one out")
    protocol = PROTOCOLS[name, features]
    words = metrics.split(",") if metrics else [word for word in protocol.metrics if word != "dinov2" or is_given("dinov2")]
    if unknown := sorted(set(words) - set(protocol.metrics)):
        raise UserError(f"--metrics: unknown here: {', '.join(map(repr, unknown))}; choose from {','.join(protocol.metrics)}")
    return protocol._replace(raw=protocol.raw or raw), [metric for metric in protocol.metrics if metric in words]


def measure(sets: Sets, protocol: Protocol, metrics: list[str], *, errors: bool = True) -> dict[str, Measurement]:
    """Return every number of features that `metrics` asks for by name; without `errors` only the quick values."""
    measured = {}
    for metric in metrics:
        if metric in _FUNCTIONS:
            found = _FUNCTIONS[metric](sets, protocol, errors)
            measured |= {name: replace(number, network=number.network or protocol.judges[metric]) for name, number in found.items()}
    return measured


def disagreement(measured: dict[str, Measurement]) -> str | None:
    """Say so when pytorch-fid's matrix root differs from the exact distance by more than 1e-3; None when it does not."""
    library, exact = (getattr(measured.get(name), "value", None) for name in ("fid", "fid_exact"))
    if library is None or exact is None or abs(library - exact) <= DISAGREEMENT * max(1.0, exact):
        return None
    return f"fid {library:.6g} and fid_exact {exact:.6g} differ by more than rounding: trust fid_exact, not the root"


def _frechet(sets: Sets, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    real, fake = sets.real[protocol.distance], sets.fake[protocol.distance]
    exact = _exact(real, fake, protocol.published, errors)
    if not protocol.published:
        return {"fd" + protocol.suffix: exact}
    if not errors or exact.value is None:
        return {"fid": exact, "fid_exact": exact}
    try:
        library = replace(exact, value=library_distance(real, fake))
    except LibraryFailed as failure:
        library = Measurement(None, "lower", len(real), len(fake), reason=str(failure))
    return {"fid": library, "fid_exact": exact}


def _frechet_clean(sets: Sets, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    return {"fid_clean": _exact(sets.real[protocol.clean], sets.fake[protocol.clean], protocol.raw, errors)}


def _exact(real: Tensor, fake: Tensor, comparable: bool, errors: bool) -> Measurement:
    if min(len(real), len(fake)) < frechet.MINIMUM:
        return Measurement(None, "lower", len(real), len(fake), reason=_too_few(frechet.MINIMUM, "either side"))
    values = frechet.jackknife(real, fake, JACKKNIFE_SEED) if errors and len(real) <= ERROR_LIMIT else None
    return Measurement(
        frechet.frechet_distance(real, fake), "lower", len(real), len(fake),
        comparable_with_published=comparable and len(fake) >= PUBLISHED_SAMPLES,
        error=frechet.jackknife_error(values) if values else None, jackknife=values)


def _frechet_dinov2(sets: Sets, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    return {"fd_dinov2": _exact(sets.real["dinov2"], sets.fake["dinov2"], False, errors)}


def _kernel(sets: Sets, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    real, fake = sets.real[protocol.distance], sets.fake[protocol.distance]
    name = "kid" if protocol.published else "kd" + protocol.suffix
    if min(len(real), len(fake)) < kid.MINIMUM:
        return {name: Measurement(None, "lower", len(real), len(fake), reason=_too_few(kid.MINIMUM, "either side"))}
    value, error = kid.kernel_distance(real, fake)
    return {name: Measurement(value, "lower", len(real), len(fake), protocol.published, error)}


def _manifold(sets: Sets, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    real, fake = sets.real[protocol.manifold], sets.fake[protocol.manifold][:protocol.manifold_samples]
    trials = {"precision": len(fake), "recall": len(real), "density": None, "coverage": len(real)}  # of the shares
    measured = {}
    for name, value in prdc.prdc(real, fake, strict=protocol.strict).items():
        side = "the side of the fakes" if name == "recall" else "the side of the reals"
        measured[name + protocol.suffix] = _share(
            value, trials[name], "higher", len(real), len(fake), _too_few(prdc.MINIMUM, side))
    measured["reached" + protocol.suffix] = _share(prdc.reached(real, fake), len(real), "higher", len(real), len(fake),
                                                  _too_few(prdc.MINIMUM, "the side of the reals"))
    return measured


def _copying(sets: Sets, protocol: Protocol, errors: bool) -> dict[str, Measurement]:
    network = protocol.distance
    real, fake = sets.real[network], sets.fake[network]
    mirror = sets.mirror and sets.mirror[network]
    counts = len(real), len(fake)
    small = replace(
        _share(copying.thumbnail_copy_rate(sets.real["thumbnail"], sets.fake["thumbnail"]), len(fake), "lower", *counts,
               f"needs {copying.MINIMUM} to {copying.MOST_THUMBNAILS} real images, most of them different at this size"),
        network="thumbnail")
    rate = _share(copying.copy_rate(real, fake, mirror), len(fake), "lower", *counts,
                  f"needs at least {copying.MINIMUM} real images, most of them different in these features")
    authentic = _share(copying.authentic_share(real, fake), len(fake), "higher", *counts, _too_few(2, "the side of the reals"))
    heldout = sets.heldout[network] if sets.heldout else real[:0]
    test = copying.copying_test(real, fake, heldout, mirror)
    return {"copy_rate" + protocol.suffix: rate, "copy_rate_thumbnail": small, "authpct" + protocol.suffix: authentic,
            "c_t" + protocol.suffix: Measurement(
                test, "higher", *counts, reason=None if test is not None else
                f"needs at least {copying.MINIMUM} held-out images ({len(heldout)} here)")}  # fmt: skip


def _share(value: float | None, trials: int | None, better: str, num_real: int, num_fake: int, reason: str) -> Measurement:
    if value is None:
        return Measurement(None, better, num_real, num_fake, reason=reason)
    interval = prdc.wilson_interval(value, trials) if trials else None
    return Measurement(value, better, num_real, num_fake, interval=interval)


_FUNCTIONS: dict[str, Callable] = {
    "fid": _frechet, "fid_clean": _frechet_clean, "kid": _kernel, "pr": _manifold, "copying": _copying,
    "dinov2": _frechet_dinov2}  # fmt: skip


def perceptual_mean(values: Tensor, better: str, num_real: int, num_fake: int) -> Measurement:
    """Return the mean of a number per image, with its standard error from two images on."""
    error = float(values.std() / len(values) ** 0.5) if len(values) > 1 else None
    return Measurement(float(values.mean()), better, num_real, num_fake, error=error)


def intra_distance(spread: Tensor, members: Tensor, num_fake: int) -> Measurement:
    """Return intra-LPIPS: the mean over training images of how far the samples nearest to it lie apart (Ojha et al. 2021).

    `spread` and `members` (n,) are those of `metrics.neighbours`. Clusters of fewer than two samples are left out of
    the mean and counted in the note.
    """
    kept = spread[members >= 2]
    left_out = len(spread) - len(kept)
    if not len(kept):
        return Measurement(None, "higher", len(spread), num_fake, reason="no training image has two samples nearest to it")
    measured = perceptual_mean(kept, "higher", len(spread), num_fake)
    return replace(measured, note=f"{left_out} of {len(spread)} training images have fewer than two samples nearest to them")


def backtrack_distances(name: str, distances: Tensor, latents: Tensor, to_nearest: Tensor, num_real: int) -> dict[str, Measurement]:
    """Return how closely images were reached, and of held-out images how many more closely than a copier could.

    `name` is heldout or train, `distances` (k,) are those of `metrics.backtracking`, `latents` (k, d) what was found,
    `to_nearest` (k,) the distances to the nearest other training image.
    """
    k = len(distances)
    copier = to_nearest[to_nearest.isfinite()]
    answer = {f"backtrack_{name}": replace(
        perceptual_mean(distances, "lower", num_real, k),
        note=f"median {float(distances.median()):.3f}; |z|^2/d {float(latents.square().mean()):.2f}, where a random latent has 1"
             + (f"; nearest other training image {float(copier.mean()):.3f}" if len(copier) else ""))}  # fmt: skip
    if name == "heldout":
        share = float((distances < to_nearest).double().mean())
        answer["beyond_copying"] = replace(
            _share(share, k, "higher", num_real, k, ""),
            note="held-out images that it reaches more closely than any training image lies; a copier has 0")
    return answer


def backtrack_gap(heldout: Tensor, train: Tensor, num_real: int) -> Measurement:
    """Return how much worse held-out images (h,) are reached than training images (k,)."""
    several = min(len(heldout), len(train)) > 1
    error = float((heldout.var() / len(heldout) + train.var() / len(train)).sqrt()) if several else None
    return Measurement(float(heldout.mean() - train.mean()), "lower", num_real, len(heldout), error=error,
                       note="held-out less training images: 0 for a generator that knows no image better than its like")


def repeated(first: Measurement, others: list[Measurement]) -> Measurement:
    """Return a measurement with those of other sets of samples beside it; its value becomes the mean of all."""
    values = tuple(each.value for each in [first, *others])
    if None in values or not others:
        return first
    return replace(first, value=float(torch.tensor(values, dtype=torch.float64).mean()), repeats=values)


def _too_few(minimum: int, side: str) -> str:
    return f"needs at least {minimum} images on {side}"
