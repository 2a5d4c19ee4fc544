"""The images that a metric looks at, whoever made them, and one sweep over them for everything that wants to see them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from metrics.cache import Cache
from metrics.progress import Progress
from models.memory import memory_for

# A network's last bits depend on the shape of the batch it is given, so the shape is the same in every run, whatever
# the user's batch size is.
MICRO_BATCH = {"cpu": 16, "cuda": 64}


@dataclass(frozen=True)
class Images:
    """A set of images that can be gone through again and again."""

    what: str  # for the progress bar
    count: int
    identity: dict  # everything that decides their pixels, for the cache
    blocks: Callable[[], Iterable[Tensor]]  # uint8 (B, 3, H, W), of any B
    pick: Callable[[list[int]], Tensor]  # some of them again, uint8 (len, 3, H, W)

    @classmethod
    def of_tensor(cls, what: str, images: Tensor) -> "Images":
        """Wrap images uint8 (N, 3, H, W) in memory."""
        identity = {"sha256_of_pixels": digest(images), "shape": list(images.shape)}
        return cls(what, len(images), identity, lambda: [images], lambda index: images[index])

    @classmethod
    def of_list(cls, what: str, images: list[Tensor]) -> "Images":
        """Wrap images uint8 (3, H, W) of different sizes."""
        identity = {"sha256_of_pixels": [digest(image) for image in images], "shape": [list(image.shape) for image in images]}
        return cls(
            what, len(images), identity, lambda: (image[None] for image in images), lambda index: torch.stack([images[i] for i in index])
        )


class Pass(Protocol):
    """Something that looks at every image once."""

    def add(self, images: Tensor) -> None:
        """Look at uint8 images (B, 3, H, W)."""

    def result(self) -> dict[str, Tensor]:
        """Return what was seen."""


@dataclass(frozen=True)
class Request:
    """A pass that is wanted, and the key under which its result is kept; it is only built when nothing is kept."""

    key: dict
    build: Callable[[], Pass]


def sweep(images: Images, requests: dict[str, Request], device: str, cache: Cache, progress: Progress) -> dict[str, dict[str, Tensor]]:
    """Return the result of every request, having gone through the images at most once.

    How they are divided into blocks changes nothing. Results depend on the device and on torch, so the keys hold both.
    """
    common = {"images": images.identity, "device": torch.device(device).type, "torch": torch.__version__}
    keys = {name: common | request.key for name, request in requests.items()}
    results = {name: kept for name, key in keys.items() if (kept := cache.load(key)) is not None}
    passes = {name: request.build() for name, request in requests.items() if name not in results}
    progress.skip(images.count * len(results))
    if passes:
        progress.stage(images.what, images.count * len(passes))
        for batch in _micro_batches(images.blocks(), MICRO_BATCH[torch.device(device).type]):
            assert batch.dtype == torch.uint8, "features are taken of images as they would be written to a file"
            for name, each in passes.items():
                with memory_for(f"{images.what} in {name}", "take --device cpu, or fewer --metrics"):
                    each.add(batch)
            progress.advance(len(batch) * len(passes))
    for name, each in passes.items():
        results[name] = each.result()
        cache.store(keys[name], results[name])
    return {name: results[name] for name in requests}


def digest(images: Tensor) -> str:
    """Return the sha256 of the pixels, in the order of the images."""
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
