"""The inputs of a metric (features, or samples and their generator) and its output (values)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metrics.cache import Cache
from metrics.images import Images, Pass, Request, sweep
from metrics.progress import Progress
from models.memory import memory_for
from models.perceptual import WEIGHTS_OF, Embedding, load_embedding
from models.weights import sha256_of

SEED = 0  # of the latents from which paths and searches start; samples use other latents
HELDOUT_QUERIES = 24  # held-out images whose nearest samples are shown

Features = dict[str, Tensor]  # network -> (N, D)


class Protocol(NamedTuple):
    """The networks of the metrics, their options, and the suffix of the numbers' names."""

    name: str
    metrics: tuple[str, ...]  # keys
    distance: str  # network of the distances and of copying
    clean: str | None  # network behind clean-fid's resize
    manifold: str  # network of precision, recall, density and coverage
    perceptual: str  # perceptual distance between two images
    suffix: str  # of every name; empty if numbers are comparable with published ones
    strict: bool = False  # whether a ball excludes its surface
    manifold_samples: int | None = None  # use only this many fakes for precision and recall
    raw: bool = False  # whether the real images keep their original size

    @property
    def published(self) -> bool:
        return not self.suffix

    def network(self, role: str) -> str | None:
        """Return the network of a role, such as `distance`; any other word is itself the name of a network."""
        return getattr(self, role) if role in self._fields else role


class Comparison(NamedTuple):
    """The features (count, D) of the compared images in one network."""

    real: Tensor
    fake: Tensor
    heldout: Tensor | None  # None: no held-out images
    mirror: Tensor | None  # of flipped training images, if training used them
    protocol: Protocol
    errors: bool  # False: compute only the values, for speed


class Sets(NamedTuple):
    """The features of the compared images in every network."""

    real: Features
    fake: Features
    heldout: Features | None = None
    mirror: Features | None = None

    def seen_by(self, network: str, protocol: Protocol, errors: bool) -> Comparison:
        """Return the features of one network."""
        return Comparison(*(features and features[network] for features in self), protocol, errors)


class Value(NamedTuple):
    """A metric's value for one of its numbers; None, with a `reason`, if the images do not allow it."""

    value: float | None
    reason: str | None = None
    error: float | None = None  # one standard error
    interval: tuple[float, float] | None = None  # 95%
    note: str | None = None
    jackknife: tuple[float, ...] | None = None  # the values without each tenth of the real images, for paired comparison
    num_fake: int | None = None  # number of images behind the value; None: all samples
    num_real: int | None = None  # None: all training images


@dataclass(frozen=True)
class Measurement:
    """One number of the report: a value, with facts from the table of metrics and the protocol.

    `network` is the feature network or perceptual distance of the number. `also_training_loss` names the settings by which
    the scored run was trained on that network; None if that is unknown.
    """

    value: float | None
    better: str  # "lower", "higher" or "near 1"
    num_real: int
    num_fake: int
    comparable_with_published: bool = False
    error: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None
    note: str | None = None
    jackknife: tuple[float, ...] | None = None
    repeats: tuple[float, ...] | None = None  # the values of all sets of samples
    network: str | None = None
    also_training_loss: tuple[str, ...] | None = None


class Decoder(NamedTuple):
    """A generator for the metrics: float latents (B, latent_dim) to images near [-1, 1], with gradients."""

    generator: nn.Module
    latent_dim: int
    device: torch.device
    identity: dict  # what determines its pixels, for the cache


class Likelihood(NamedTuple):
    """The likelihood of a model that has one."""

    bits: Callable[[Tensor], Tensor]  # uint8 images (B, 3, H, W) -> bits per dimension (B,), float64
    identity: dict  # what determines it, for the cache


class Reals(NamedTuple):
    """The real images: at the generator's resolution, and as input of the feature networks."""

    images: Tensor  # uint8 (n, 3, H, W)
    heldout: Tensor  # uint8 (h, 3, H, W); h may be 0
    real: Images
    held: Images | None
    mirror: Images | None  # flipped training images, if training used them

    @property
    def queries(self) -> list[int]:
        """Return the numbers of the held-out images that the page shows beside their nearest samples."""
        return spread(len(self.heldout), HELDOUT_QUERIES)


@dataclass
class Context:
    """The samples and the tools for scoring them. A metric leaves objects for the page in `material`."""

    samples: Images
    reals: Reals
    decoder: Decoder | str  # the generator, or the reason why there is none; then metrics that need one are not called
    perceptual: str  # name of the perceptual distance
    num_backtracked: int  # held-out and training images to backtrack, of each
    device: str
    cache: Cache
    likelihood: Likelihood | None = None
    progress: Progress = field(init=False)
    material: list[object] = field(default_factory=list)

    def embedding(self, pixel_weight: float = 0.0) -> Embedding:
        """Load the perceptual distance."""
        return load_embedding(self.perceptual, pixel_weight).to(self.device, memory_format=torch.channels_last)

    def sweep(self, kind: str, build: Callable[[Embedding], Pass], **parts: object) -> dict[str, Tensor]:
        """Return the result of a pass over the samples; `parts` name its other inputs beside the perceptual distance."""
        request = Request(self._key(kind, **parts), lambda: build(self.embedding()))
        return sweep(self.samples, {kind: request}, self.device, self.cache, self.progress)[kind]

    def decode(self, kind: str, work: int, make: Callable[[], dict[str, Tensor]], **parts: object) -> dict[str, Tensor]:
        """Return the result of `make`, which uses the decoder and takes `work` image passes; `parts` name its other inputs."""
        return self.kept(kind, work, make, decoder=self.decoder.identity, **parts)

    def kept(self, kind: str, work: int, make: Callable[[], dict[str, Tensor]], **parts: object) -> dict[str, Tensor]:
        """Return the result of `make`, which takes `work` image passes; `parts` name its inputs beside the perceptual distance."""
        self.progress.stage(kind, work)
        key = self._key(kind, seed=SEED, device=torch.device(self.device).type, torch=torch.__version__, **parts)
        kept = self.cache.load(key)
        if kept is None:
            with memory_for(kind, "take --device cpu, or fewer --metrics"):
                kept = make()
            self.cache.store(key, kept)
        else:
            self.progress.skip(work)
        return kept

    def _key(self, kind: str, **parts: object) -> dict:
        weights = [sha256_of(key) for key in WEIGHTS_OF[self.perceptual]]
        return {"pass": kind, "perceptual": self.perceptual, "weights": weights, **parts}


def too_few(minimum: int, side: str) -> str:
    """Return the reason for a value that needs more images."""
    return f"needs at least {minimum} images on {side}"


def share(value: float | None, trials: int, reason: str = "") -> Value:
    """Return a share of `trials` images with its interval, or None with the reason."""
    return Value(None, reason) if value is None else Value(value, interval=wilson_interval(value, trials))


def mean(values: Tensor) -> Value:
    """Return the mean of one number per image (N,), with its standard error if N > 1."""
    return Value(float(values.mean()), error=float(values.std() / len(values) ** 0.5) if len(values) > 1 else None)


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` images (Wilson 1927)."""
    centre = share + z * z / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - width) / scale, 0.0), min((centre + width) / scale, 1.0)


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` indices, evenly spread over `count`."""
    chosen = min(most, count)
    return [place * count // chosen for place in range(chosen)]
