"""What the metrics are given that look at samples or at their generator: images, networks, and a place to keep what was slow."""

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


class Decoder(NamedTuple):
    """A generator as these metrics see it: float latents (B, latent_dim) to images near [-1, 1], with gradients."""

    generator: nn.Module
    latent_dim: int
    device: torch.device
    identity: dict  # what decides its pixels, for the cache


class Reals(NamedTuple):
    """The real images: at the generator's resolution, and as the feature networks are to see them."""

    images: Tensor            # uint8 (n, 3, H, W)
    heldout: Tensor           # uint8 (h, 3, H, W), h = 0 where there are none
    real: Images
    held: Images | None
    mirror: Images | None     # the flipped training images, when training flipped them

    @property
    def queries(self) -> list[int]:
        """Return which of the held-out images are shown beside the samples nearest to them."""
        return spread(len(self.heldout), HELDOUT_QUERIES)


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` places, evenly spread over `count`."""
    chosen = min(most, count)
    return [place * count // chosen for place in range(chosen)]


@dataclass
class Context:
    """What is scored, and the means for it. A metric leaves in `material` what the page may show."""

    samples: Images
    reals: Reals
    decoder: Decoder | str    # the generator itself, or the reason why there is none: metrics that need one are then not called
    perceptual: str           # name of the perceptual distance
    num_backtracked: int      # images of either kind to search the latents of
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
