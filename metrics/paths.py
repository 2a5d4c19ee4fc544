"""Paths between two latents: perceptual path length, and jumps of an interpolation.

Paths are great arcs in latent space (PPL in z, Karras et al. 2019, section 4.1).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from metrics.interface import SEED, Context, Decoder, Value, mean
from models.interpolation import slerp
from models.perceptual import Embedding, squared_distance
from models.pixels import to_float, to_uint8
from models.precision import true_fp32

EPSILON = 1e-4  # length of a step, as a share of the arc
NUM_STEPS = 1000
TRIMMED = 0.01  # share left out at each end, as in the published program
BATCH = 16
NUM_STRIPS = 32
FRAMES = 17  # of a strip, including both ends


class Strips(NamedTuple):
    """Interpolations, and the ratio of the longest to the mean step of each."""

    images: Tensor  # uint8 (K, F, 3, H, W)
    jump_ratios: Tensor  # (K,)


def length_work(_: Context) -> int:
    """Return the work in passes of one image through one network."""
    return 2 * NUM_STEPS


def measure_length(context: Context) -> list[Value]:
    """Return the perceptual path length."""
    kept = context.decode(
        "path lengths",
        length_work(context),
        lambda: {"lengths": step_lengths(context.decoder, context.embedding(), SEED, context.progress.advance)},
        steps=NUM_STEPS,
        epsilon=EPSILON,
    )
    value, error = path_length(kept["lengths"])
    note = f"arcs in z, epsilon {EPSILON:g}, without the longest and shortest {TRIMMED:.0%}"
    return [Value(value, error=error, note=note, num_fake=NUM_STEPS)]


def jumps_work(_: Context) -> int:
    """Return the work in passes of one image through one network."""
    return NUM_STRIPS * FRAMES


def measure_jumps(context: Context) -> list[Value]:
    """Return the mean jump ratio of interpolations; leave the `Strips` in the material."""
    kept = context.decode(
        "interpolations",
        jumps_work(context),
        lambda: dict(zip(("strips", "distances"), strips(context.decoder, context.embedding(), SEED, context.progress.advance))),
        strips=NUM_STRIPS,
        frames=FRAMES,
    )
    ratios = jump_ratios(kept["distances"])
    context.material.append(Strips(kept["strips"], ratios))
    return [mean(ratios)._replace(num_fake=NUM_STRIPS)]


def step_lengths(decoder: Decoder, embed: Embedding, seed: int, advance: Callable[[int], None]) -> Tensor:
    """Return d(G(z_t), G(z_(t + eps))) / eps^2 for random places t on random arcs, (NUM_STEPS,), in float64.

    Images stay float: at this epsilon a uint8 image would not change.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randn(2, NUM_STEPS, decoder.latent_dim, generator=generator)
    places = torch.rand(NUM_STEPS, 1, generator=generator)
    lengths = []
    for index in torch.arange(NUM_STEPS).split(BATCH):
        a, b, t = ends[0, index].double(), ends[1, index].double(), places[index].double()
        pair = torch.cat([slerp(a, b, t), slerp(a, b, t + EPSILON)]).float()
        first, second = zip(*(maps.double().chunk(2) for maps in _maps(decoder, embed, pair)))
        lengths.append(squared_distance(first, second).cpu() / EPSILON**2)
        advance(2 * len(index))
    return torch.cat(lengths)


def path_length(lengths: Tensor) -> tuple[float, float]:
    """Return the mean of the step lengths between their 1st and 99th percentile, and its standard error."""
    low = torch.quantile(lengths, TRIMMED, interpolation="lower")
    high = torch.quantile(lengths, 1 - TRIMMED, interpolation="higher")
    kept = lengths[(lengths >= low) & (lengths <= high)]
    return float(kept.mean()), float(kept.std() / len(kept) ** 0.5)


@torch.no_grad()
def strips(decoder: Decoder, embed: Embedding, seed: int, advance: Callable[[int], None]) -> tuple[Tensor, Tensor]:
    """Return interpolations between random latents, uint8 (NUM_STRIPS, FRAMES, 3, H, W), and their step distances.

    A step distance is the perceptual distance of a frame to the next, (NUM_STRIPS, FRAMES - 1).
    """
    ends = torch.randn(NUM_STRIPS, 2, decoder.latent_dim, generator=torch.Generator().manual_seed(seed))
    places = torch.linspace(0, 1, FRAMES)[:, None]
    films, distances = [], []
    for start, end in ends.double():
        latents = slerp(start.expand(FRAMES, -1), end.expand(FRAMES, -1), places.double()).float()
        with true_fp32(decoder.device):
            frames = to_uint8(decoder.generator(latents.to(decoder.device)))
            maps = embed(to_float(frames))
        distances.append(squared_distance([m[:-1] for m in maps], [m[1:] for m in maps]).cpu())
        films.append(frames.cpu())
        advance(FRAMES)
    return torch.stack(films), torch.stack(distances)


def jump_ratios(distances: Tensor) -> Tensor:
    """Return the ratio of the longest to the mean step of each strip (K,), from step distances (K, F).

    1: all steps are equal, or the strip does not move. F: a single jump.
    """
    mean = distances.mean(dim=1)
    return torch.where(mean > 0, distances.amax(dim=1) / mean, 1.0)


@torch.no_grad()
def _maps(decoder: Decoder, embed: Embedding, latents: Tensor) -> list[Tensor]:
    with true_fp32(decoder.device):
        return embed(decoder.generator(latents.to(decoder.device)))
