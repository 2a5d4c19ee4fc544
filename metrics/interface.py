"""What a metric is given, and what it answers: images as a network sees them or samples and their generator in, values out."""

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

SEED = 0  # of the latents that paths and searches start from, which are none of the samples
HELDOUT_QUERIES = 24  # held-out images whose nearest samples are shown

Features = dict[str, Tensor]  # network -> (N, D)


class Protocol(NamedTuple):
    """Which networks the metrics are computed in, how, and what the numbers are then called."""

    name: str
    metrics: tuple[str, ...]  # that it has, by key
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

    def network(self, role: str) -> str | None:
        """Return the network that plays a role here, as `distance`; another word is a network's own name."""
        return getattr(self, role) if role in self._fields else role


class Comparison(NamedTuple):
    """What one network sees of the images that are compared, as features (count, D)."""

    real: Tensor
    fake: Tensor
    heldout: Tensor | None  # None: there are no such images
    mirror: Tensor | None  # of the flipped training images, when training flipped them
    protocol: Protocol
    errors: bool  # False: only values are wanted, and quickly


class Sets(NamedTuple):
    """The features of the images that are compared, in every network."""

    real: Features
    fake: Features
    heldout: Features | None = None
    mirror: Features | None = None

    def seen_by(self, network: str, protocol: Protocol, errors: bool) -> Comparison:
        """Return what one network sees of them."""
        return Comparison(*(features and features[network] for features in self), protocol, errors)


class Value(NamedTuple):
    """The value that a metric found for one of its numbers; None, with a `reason`, where the images do not allow it."""

    value: float | None
    reason: str | None = None
    error: float | None = None  # one standard error
    interval: tuple[float, float] | None = None  # 95%
    note: str | None = None
    jackknife: tuple[float, ...] | None = None  # the value without each tenth of the real images, for paired comparison
    num_fake: int | None = None  # images that it is of; None: all samples


@dataclass(frozen=True)
class Measurement:
    """One number of the report: a value, and what the table of metrics and the protocol say of it.

    `network` is what it is computed in: a feature network, or a perceptual distance. `also_training_loss` names the settings
    by which the run that is scored was trained on that network; None where that is not known.
    """

    value: float | None
    better: str  # "lower" or "higher"
    num_real: int
    num_fake: int
    comparable_with_published: bool = False
    error: float | None = None
    interval: tuple[float, float] | None = None
    reason: str | None = None
    note: str | None = None
    jackknife: tuple[float, ...] | None = None
    repeats: tuple[float, ...] | None = None  # the value of other sets of samples, the first among them
    network: str | None = None
    also_training_loss: tuple[str, ...] | None = None


class Decoder(NamedTuple):
    """A generator as these metrics see it: float latents (B, latent_dim) to images near [-1, 1], with gradients."""

    generator: nn.Module
    latent_dim: int
    device: torch.device
    identity: dict  # what decides its pixels, for the cache


class Reals(NamedTuple):
    """The real images: at the generator's resolution, and as the feature networks are to see them."""

    images: Tensor  # uint8 (n, 3, H, W)
    heldout: Tensor  # uint8 (h, 3, H, W), h = 0 where there are none
    real: Images
    held: Images | None
    mirror: Images | None  # the flipped training images, when training flipped them

    @property
    def queries(self) -> list[int]:
        """Return which of the held-out images are shown beside the samples nearest to them."""
        return spread(len(self.heldout), HELDOUT_QUERIES)


@dataclass
class Context:
    """What is scored, and the means for it. A metric leaves in `material` what the page may show."""

    samples: Images
    reals: Reals
    decoder: Decoder | str  # the generator itself, or the reason why there is none: metrics that need one are then not called
    perceptual: str  # name of the perceptual distance
    num_backtracked: int  # images of either kind to search the latents of
    device: str
    cache: Cache
    progress: Progress = field(init=False)
    material: list[object] = field(default_factory=list)

    def embedding(self, pixel_weight: float = 0.0) -> Embedding:
        """Load the perceptual distance."""
        return load_embedding(self.perceptual, pixel_weight).to(self.device, memory_format=torch.channels_last)

    def sweep(self, kind: str, build: Callable[[Embedding], Pass], **parts: object) -> dict[str, Tensor]:
        """Return what a pass finds in the samples; `parts` are what it depends on beside them and the perceptual distance."""
        request = Request(self._key(kind, **parts), lambda: build(self.embedding()))
        return sweep(self.samples, {kind: request}, self.device, self.cache, self.progress)[kind]

    def decode(self, kind: str, work: int, make: Callable[[], dict[str, Tensor]], **parts: object) -> dict[str, Tensor]:
        """Return what `make` finds with the decoder in `work` image passes; `parts` are what it depends on beside it."""
        self.progress.stage(kind, work)
        key = self._key(kind, decoder=self.decoder.identity, seed=SEED, device=self.decoder.device.type, torch=torch.__version__, **parts)
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
    """Return the reason of a value that needs more images."""
    return f"needs at least {minimum} images on {side}"


def share(value: float | None, trials: int, reason: str = "") -> Value:
    """Return a share of `trials` images with its interval; for None the reason."""
    return Value(None, reason) if value is None else Value(value, interval=wilson_interval(value, trials))


def mean(values: Tensor) -> Value:
    """Return the mean of a number per image (N,), with its standard error from two images on."""
    return Value(float(values.mean()), error=float(values.std() / len(values) ** 0.5) if len(values) > 1 else None)


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95% interval of a share seen in `count` images (Wilson 1927)."""
    centre = share + z * z / (2 * count)
    width = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max((centre - width) / scale, 0.0), min((centre + width) / scale, 1.0)


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` places, evenly spread over `count`."""
    chosen = min(most, count)
    return [place * count // chosen for place in range(chosen)]
