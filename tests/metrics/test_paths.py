"""Paths between latents: against numpy, and on toy generators whose truth is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from metrics import paths
from metrics.interface import Decoder
from metrics.paths import FRAMES, NUM_STEPS, NUM_STRIPS, jump_ratios, path_length, step_lengths, strips
from models.interpolation import slerp
from models.perceptual import Embedding, squared_distance
from models.pixels import to_float, to_uint8

LATENT_DIM = 6
SIZE = (3, 8, 10)
PIXELS = Embedding(None, 1.0)


class Linear(nn.Module):
    """images = matrix @ latents."""

    def __init__(self):
        super().__init__()
        self.matrix = 0.2 * torch.randn(math.prod(SIZE), LATENT_DIM, generator=torch.Generator().manual_seed(5))

    def forward(self, latents):
        return (latents @ self.matrix.T).view(-1, *SIZE)


class Curved(Linear):
    """A linear generator whose images are bent into [-1, 1]."""

    def forward(self, latents):
        return super().forward(latents).tanh()


class Memorising(Linear):
    """The linear generator's image of the nearest of 40 latents, and nothing in between."""

    def forward(self, latents):
        known = torch.randn(40, LATENT_DIM, generator=torch.Generator().manual_seed(6))
        return super().forward(known[torch.cdist(latents, known).argmin(dim=1)])


def decoder(toy):
    return Decoder(toy(), LATENT_DIM, torch.device("cpu"), {})


def ignore(count):
    pass


# slerp


def numpy_slerp(a, b, t):
    """Rotate one vector towards the other in their plane, by Gram-Schmidt."""
    first = a / np.linalg.norm(a)
    angle = np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    second = b - (b @ first) * first
    second /= np.linalg.norm(second)
    length = (1 - t) * np.linalg.norm(a) + t * np.linalg.norm(b)
    return length * (np.cos(t * angle) * first + np.sin(t * angle) * second)


def latent_pairs(count=20, dimension=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, count, dimension, generator=generator, dtype=dtype)
    return a, 3 * b, torch.rand(count, 1, generator=generator, dtype=dtype)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_slerp_equals_numpy(dtype, tolerance):
    a, b, t = latent_pairs(dtype=dtype)
    expected = [numpy_slerp(*triple) for triple in zip(a.double().numpy(), b.double().numpy(), t.double().numpy())]
    points = slerp(a, b, t)
    assert points.dtype == dtype
    np.testing.assert_allclose(points, expected, rtol=0, atol=tolerance)


def test_slerp_is_the_same_backwards_and_interpolates_lengths():
    a, b, t = latent_pairs()
    torch.testing.assert_close(slerp(a, b, t).norm(dim=1), torch.lerp(a.norm(dim=1), b.norm(dim=1), t[:, 0]))
    torch.testing.assert_close(slerp(a, b, t), slerp(b, a, 1 - t))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 2.0, 1 + 1e-6, -1.0])
def test_slerp_of_vectors_on_one_line_is_a_straight_line(factor, dtype):
    a, _, _ = latent_pairs(dtype=dtype)
    b = factor * a
    for share in (0.0, 0.25, 0.5, 1.0):
        points = slerp(a, b, torch.full((len(a), 1), share, dtype=dtype))
        torch.testing.assert_close(points, torch.lerp(a, b, share), rtol=1e-3, atol=1e-3)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
PAIRS = {
    "any": lambda a, b: (a, b),
    "equal": lambda a, b: (a, a),
    "one direction": lambda a, b: (a, 2 * a),
    "near": lambda a, b: (a, a * (1 + 1e-3)),
    "opposite": lambda a, b: (a, -a),
    "opposite and longer": lambda a, b: (a, -3 * a),
    "from zero": lambda a, b: (0 * a, b),
    "to zero": lambda a, b: (a, -0.0 * b),
    "zero": lambda a, b: (0 * a, -0.0 * b),
}


def bits(values):
    return values.contiguous().view(torch.uint8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_slerp_has_its_ends_to_the_last_bit(pair, dtype):
    a, b, _ = latent_pairs(count=300, dimension=64, dtype=torch.float64)
    a, b = PAIRS[pair](a.to(dtype), b.to(dtype))
    shares = torch.tensor([0.0, 1.0], dtype=dtype).repeat_interleave(len(a))[:, None]
    points = slerp(a.repeat(2, 1), b.repeat(2, 1), shares)
    assert points.dtype == dtype and torch.equal(bits(points), bits(torch.cat([a, b])))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pair", PAIRS)
def test_slerp_is_steady_up_to_its_ends(pair, dtype):
    """No step is twice as long as the mean step, the first and the last included: lengths of the ends are 1 to 3."""
    frames = 33
    shares = torch.linspace(0, 1, frames, dtype=torch.float64).to(dtype)[:, None]
    for a, b in zip(*PAIRS[pair](*(each.to(dtype) for each in latent_pairs(count=50, dimension=64)[:2]))):
        path = slerp(a.expand(frames, -1), b.expand(frames, -1), shares).double()
        steps = path.diff(dim=0).norm(dim=1)
        rounding = 4 * torch.finfo(dtype).eps * path.norm(dim=1).max()
        assert path.isfinite().all() and steps.max() <= 2 * steps.mean() + rounding


# path length


def drawn_arcs(seed):
    """Return the arcs (ends and places) that step_lengths draws, in numpy."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, NUM_STEPS, LATENT_DIM, generator=generator).double().numpy()
    return a, b, torch.rand(NUM_STEPS, 1, generator=generator).double().numpy()


def derivative(a, b, t):
    """Return the velocity (N, latent_dim) of the arc from `a` to `b` at share `t`."""
    lengths = [np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b)]
    a, b = a / lengths[0], b / lengths[1]
    angle = np.arccos((a * b).sum(axis=1, keepdims=True))
    direction = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    turn = angle * (np.cos(t * angle) * b - np.cos((1 - t) * angle) * a) / np.sin(angle)
    return turn * ((1 - t) * lengths[0] + t * lengths[1]) + direction * (lengths[1] - lengths[0])


def test_step_lengths_of_a_linear_generator_are_those_of_the_arcs():
    advanced = []
    lengths = step_lengths(decoder(Linear), PIXELS, 3, advanced.append)
    assert lengths.shape == (NUM_STEPS,) and lengths.dtype == torch.float64
    velocity = derivative(*drawn_arcs(3)) @ Linear().matrix.double().numpy().T
    np.testing.assert_allclose(lengths, np.square(velocity).mean(axis=1), rtol=0.01)
    assert sum(advanced) == 2 * NUM_STEPS


@pytest.mark.parametrize("toy", [Linear, Curved])
def test_half_the_step_changes_the_mean_by_little(toy, monkeypatch):
    whole = step_lengths(decoder(toy), PIXELS, 0, ignore)
    monkeypatch.setattr(paths, "EPSILON", paths.EPSILON / 2)
    half = step_lengths(decoder(toy), PIXELS, 0, ignore)
    assert not torch.equal(half, whole)
    assert path_length(half)[0] == pytest.approx(path_length(whole)[0], rel=1e-3)


def test_step_lengths_grow_with_the_square_of_the_images_and_depend_on_the_seed_alone():
    linear = decoder(Linear)
    lengths = step_lengths(linear, PIXELS, 0, ignore)
    assert torch.equal(step_lengths(linear, PIXELS, 0, ignore), lengths)
    assert not torch.isclose(step_lengths(linear, PIXELS, 1, ignore), lengths).any()
    linear.generator.matrix *= 2
    torch.testing.assert_close(step_lengths(linear, PIXELS, 0, ignore), 4 * lengths)


def test_path_length_leaves_out_the_shortest_and_the_longest():
    """Nine at either end of a thousand: where the hundredth lies between two steps, both are kept."""
    lengths = torch.rand(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    lengths[:9], lengths[9:18] = -1e9, 1e9
    kept = lengths[18:].numpy()
    mixed = lengths[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    assert path_length(mixed) == pytest.approx((kept.mean(), kept.std(ddof=1) / 982**0.5))


@pytest.mark.parametrize("count", [50, 777, 1000])
def test_path_length_equals_the_published_programs(count):
    lengths = torch.randn(count, generator=torch.Generator().manual_seed(2), dtype=torch.float64).mul(3).exp().numpy()
    low, high = np.percentile(lengths, 1, method="lower"), np.percentile(lengths, 99, method="higher")
    kept = lengths[(low <= lengths) & (lengths <= high)]
    assert path_length(torch.from_numpy(lengths)) == pytest.approx((kept.mean(), kept.std(ddof=1) / len(kept) ** 0.5))


def test_path_length_of_equal_steps_is_their_length():
    assert path_length(torch.full((1000,), 0.1, dtype=torch.float64)) == pytest.approx((0.1, 0))


# interpolations


def test_strips_lead_from_image_to_image():
    curved, advanced = decoder(Curved), []
    films, distances = strips(curved, PIXELS, 4, advanced.append)
    assert films.shape == (NUM_STRIPS, FRAMES, *SIZE) and films.dtype == torch.uint8
    assert distances.shape == (NUM_STRIPS, FRAMES - 1)
    assert sum(advanced) == NUM_STRIPS * FRAMES
    ends = torch.randn(NUM_STRIPS, 2, LATENT_DIM, generator=torch.Generator().manual_seed(4))
    quarters = torch.tensor(np.stack([numpy_slerp(*pair, 0.25) for pair in ends.double().numpy()])).float()
    for frame, latents in {0: ends[:, 0], FRAMES // 4: quarters, FRAMES - 1: ends[:, 1]}.items():
        assert (films[:, frame].int() - to_uint8(curved.generator(latents)).int()).abs().max() <= 1


def test_strips_measure_the_frames_that_they_show():
    films, distances = strips(decoder(Curved), PIXELS, 0, ignore)
    for film, steps in zip(films, distances):
        frames = to_float(film)
        torch.testing.assert_close(steps, squared_distance([frames[:-1]], [frames[1:]]) / frames[0].numel())


def test_strips_are_the_same_every_time():
    first, again, other = (strips(decoder(Curved), PIXELS, seed, ignore) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_jump_ratios_of_known_steps():
    steps = torch.zeros(4, FRAMES - 1)
    steps[0] = 0.1
    steps[1, 5] = 0.3
    steps[3, :8] = 0.2
    assert jump_ratios(steps).tolist() == pytest.approx([1, FRAMES - 1, 1, 2])


def test_a_memorising_generator_jumps():
    steady, jumping = (jump_ratios(strips(decoder(toy), PIXELS, 0, ignore)[1]) for toy in (Linear, Memorising))
    assert steady.max() < 3
    assert jumping.mean() > 3 * steady.mean()
