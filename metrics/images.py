"""Sets of images for the metrics, and one sweep over a set for all metrics that need it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metrics.cache import Cache
from metrics.progress import Progress
from models.memory import memory_for

# A network's last bits depend on the shape of its batch, so the shape does not depend on the user's batch size.
MICRO_BATCH = {"cpu": 16, "cuda": 64}


@dataclass(frozen=True)
class Images:
    """A set of images that can be read several times."""

    what: str  # for the progress bar
    count: int
    identity: dict  # everything that determines their pixels, for the cache
    blocks: Callable[[], Iterable[Tensor]]  # uint8 (B, 3, H, W), any B
    pick: Callable[[list[int]], Tensor]  # the images of some numbers, uint8 (len, 3, H, W)

    @classmethod
    def of_tensor(cls, what: str, images: Tensor) -> "Images":
        """Wrap images uint8 (N, 3, H, W) in memory."""
        identity = {"sha256_of_pixels": digest(images), "shape": list(images.shape)}
        return cls(what, len(images), identity, lambda: [images], lambda index: images[index])

    @classmethod
    def of_seeds(cls, what: str, seeds: range, identity: dict, batches: Callable[[Sequence[int]], Iterable[Tensor]]) -> "Images":
        """Wrap what a generator with this `identity` makes of seeds; `batches` yields uint8 images (B, 3, H, W) of some of them."""
        identity = identity | {"first_seed": seeds.start, "count": len(seeds)}
        return cls(what, len(seeds), identity, lambda: batches(seeds), lambda index: torch.cat(list(batches([seeds[i] for i in index]))))

    @classmethod
    def of_list(cls, what: str, images: list[Tensor]) -> "Images":
        """Wrap images uint8 (3, H, W) of different sizes."""
        identity = {"sha256_of_pixels": [digest(image) for image in images], "shape": [list(image.shape) for image in images]}
        return cls(
            what, len(images), identity, lambda: (image[None] for image in images), lambda index: torch.stack([images[i] for i in index])
        )


class Pass(Protocol):
    """A computation that sees every image once."""

    def add(self, images: Tensor) -> None:
        """Add uint8 images (B, 3, H, W)."""

    def result(self) -> dict[str, Tensor]:
        """Return the results by name."""


@dataclass(frozen=True)
class Request:
    """A pass, and the cache key of its result. The pass is built only if the cache has no result."""

    key: dict
    build: Callable[[], Pass]


def sweep(images: Images, requests: dict[str, Request], device: str, cache: Cache, progress: Progress) -> dict[str, dict[str, Tensor]]:
    """Return the result of every request, reading the images at most once.

    The division of the images into blocks changes nothing. Results depend on the device and on torch's version, so the keys
    contain both.
    """
    common = {"images": images.identity, "device": torch.device(device).type, "torch": torch.__version__}
    keys = {name: common | request.key for name, request in requests.items()}
    results = {name: kept for name, key in keys.items() if (kept := cache.load(key)) is not None}
    passes = {name: request.build() for name, request in requests.items() if name not in results}
    progress.skip(images.count * len(results))
    if passes:
        progress.stage(images.what, images.count * len(passes))
        for batch in _micro_batches(images.blocks(), MICRO_BATCH[torch.device(device).type]):
            assert batch.dtype == torch.uint8, "features are computed from uint8 images, as files hold them"
            for name, each in passes.items():
                with memory_for(f"{images.what} in {name}", "take --device cpu, or fewer --metrics"):
                    each.add(batch)
            progress.advance(len(batch) * len(passes))
    for name, each in passes.items():
        results[name] = each.result()
        cache.store(keys[name], results[name])
    return {name: results[name] for name in requests}


def digest(images: Tensor) -> str:
    """Return the sha256 of the pixels of images, in their order."""
    return hashlib.sha256(images.contiguous().numpy()).hexdigest()


def _micro_batches(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Yield the images of all blocks in batches of `size`, shorter before a change of shape and at the end."""
    rest = None
    for block in blocks:
        if rest is not None and rest.shape[1:] != block.shape[1:]:
            yield rest
            rest = None
        rest = block if rest is None else torch.cat([rest, block])
        full = len(rest) // size * size
        yield from rest[:full].split(size) if full else ()
        rest = rest[full:] if full < len(rest) else None
    if rest is not None:
        yield rest
