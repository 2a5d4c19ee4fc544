"""Latents by words of a command line: a whole number is a seed, another word names a picture that was projected."""

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from errors import UserError
from training import checkpoint
from training.drawing import Sampler

FORMAT = "rs-imle-latents/1"
MOST = 1_000_000  # most latents in one list; more is probably a typing error
Word = int | str


def words_of(text: str) -> list[Word]:
    """Read seeds, ranges of seeds and names, such as `3,me.png,12-20`. Raises ArgumentTypeError."""
    words: list[Word] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        try:
            span = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            words.append(part)
            continue
        if not span:
            raise argparse.ArgumentTypeError(f"{part!r} names no seed; a range goes upwards, such as 0-63")
        if span[-1] - span[0] >= MOST - len(words):
            raise argparse.ArgumentTypeError(f"{part!r} makes more than {MOST} seeds; use several commands")
        words += span
    return words


class Latents:
    """The latents and images of words, from one sampler."""

    def __init__(self, sampler: Sampler, file: Path | None = None):
        """Know also the projected pictures of a `file` that `save` wrote. Raises UserError if that is of another generator."""
        self.sampler = sampler
        self.named = _load(file, sampler) if file else {}

    def check(self, words: list[Word]) -> None:
        """Raise UserError for a word that is neither a seed nor a name."""
        known = f"the names in --latents are {', '.join(self.named)}" if self.named else "names of pictures need --latents FILE"
        for word in words:
            if isinstance(word, str) and word not in self.named:
                raise UserError(f"{word!r} is neither a seed, nor a range such as 0-63, nor the name of a projected picture; {known}")

    def of(self, words: list[Word]) -> Tensor:
        """Return the latents (len(words), latent_dim)."""
        return torch.stack([self.named[word] if isinstance(word, str) else self.sampler.latents([word])[0] for word in words])

    def batches(self, words: list[Word], batch_size: int) -> Iterator[Tensor]:
        """Yield uint8 images (B, C, H, W) on the CPU, one per word. Seeds need no generator."""
        seeds = [word for word in words if isinstance(word, int)]
        if len(seeds) == len(words):
            return self.sampler.batches(seeds, batch_size)
        return map(self.sampler.decode, self.of(words).split(batch_size))


def save(path: Path, sampler: Sampler, named: dict[str, Tensor], distances: Tensor) -> None:
    """Write the latents (latent_dim,) of projected pictures by name, and the distances (n,) of their samples. Raises UserError."""
    state = {"format": FORMAT, "generator": digest(sampler), "names": list(named), "latents": torch.stack(list(named.values()))}
    checkpoint.save(state | {"distances": distances}, path)


def digest(sampler: Sampler) -> str:
    """Return the sha256 of what is sampled, the same for a checkpoint and for its export."""
    found = hashlib.sha256()
    for name, value in sampler.sampled.items():
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def _load(path: Path, sampler: Sampler) -> dict[str, Tensor]:
    own = sampler.latents([0])  # raises if there is no generator
    state = checkpoint.read(path, "a file of latents that --project wrote")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"--latents {path}: not a file of latents that --project wrote")
    if state.get("generator") != digest(sampler):
        raise UserError(f"--latents {path}: belongs to another generator than {sampler.checkpoint_path}; --project the pictures again")
    names, latents = state.get("names"), state.get("latents")
    shape = own.shape[1:]
    if not (isinstance(names, list) and isinstance(latents, Tensor) and latents.shape == (len(names), *shape) and latents.isfinite().all()):
        raise UserError(f"--latents {path}: its parts do not fit each other; --project the pictures again")
    return dict(zip(map(str, names), latents.to(own.dtype)))
