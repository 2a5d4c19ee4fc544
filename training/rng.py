"""Randomness as a function of (seed, purpose, index): no state to save, no dependence on batch size or device."""

import hashlib

import torch
from torch import Tensor

LATENT_BLOCK = 256  # latents are drawn in blocks of this size, so that any block can be drawn again alone


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """Return a CPU random generator for one purpose; another purpose, seed or index gives an independent stream."""
    words = ":".join(map(str, (seed, purpose, *index)))
    digest = hashlib.sha256(words.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))


def normal(shape: tuple[int, ...], seed: int, purpose: str, *index: int) -> Tensor:
    """Draw a float32 CPU tensor of independent standard normals."""
    return torch.randn(shape, generator=generator(seed, purpose, *index))


def permutation(n: int, seed: int, purpose: str, *index: int) -> Tensor:
    """Draw a random order of range(n), int64."""
    return torch.randperm(n, generator=generator(seed, purpose, *index))


def pool_latents(seed: int, refresh: int, start: int, stop: int, latent_dim: int) -> Tensor:
    """Return latents `start` to `stop` of a refresh's unlimited pool, (stop - start, latent_dim)."""
    first, last = start // LATENT_BLOCK, -(-stop // LATENT_BLOCK)
    blocks = [normal((LATENT_BLOCK, latent_dim), seed, "pool", refresh, b) for b in range(first, last)]
    offset = first * LATENT_BLOCK
    return torch.cat(blocks)[start - offset : stop - offset]


def pool_latents_at(seed: int, refresh: int, ids: Tensor, latent_dim: int) -> Tensor:
    """Return the latents with pool ids `ids` (n,), drawn again: (n, latent_dim)."""
    rows = torch.empty(len(ids), latent_dim)
    block_of = ids // LATENT_BLOCK
    for block in block_of.unique().tolist():
        here = block_of == block
        rows[here] = normal((LATENT_BLOCK, latent_dim), seed, "pool", refresh, block)[ids[here] % LATENT_BLOCK]
    return rows


def sample_latents(seeds: list[int], latent_dim: int) -> Tensor:
    """Return one latent per seed, (len(seeds), latent_dim); a latent depends on its seed alone."""
    return torch.stack([normal((latent_dim,), seed, "sample") for seed in seeds])
