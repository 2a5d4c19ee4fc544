"""The search features: whole, normalised, and folded into a sketch whose error is that of a dense projection."""

import math

import pytest
import torch
from torch import nn

from imle.features import SearchFeatures
from models.perceptual import load_embedding, squared_distance
from models.pixels import to_float


class Maps(nn.Module):
    """Cut vectors (B, L) into maps of the given shapes, in place of an embedding."""

    def __init__(self, *shapes):
        super().__init__()
        self.shapes = shapes

    def forward(self, vectors):
        parts = vectors.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [part.view(-1, *shape) for part, shape in zip(parts, self.shapes)]


def features(embedding, *, sketch_dim=0, normalise=False, seed=0):
    return SearchFeatures(embedding, sketch_dim=sketch_dim, normalise=normalise, seed=seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_errors(change, k, seeds):
    """Return (|sketch|^2 - |change|^2) / |change|^2 for vectors (B, L): (seeds, B)."""
    whole = change.square().sum(dim=1)
    embedding = Maps((change.shape[1], 1, 1))
    return torch.stack([features(embedding, sketch_dim=k, seed=s)(change).square().sum(dim=1) / whole - 1 for s in seeds])


def test_whole_features_measure_the_training_distance():
    embedding, a, b = load_embedding("effnet-lite0", 0.1), normal(3, 3, 32, 32), normal(3, 3, 32, 32, seed=1)
    phi = features(embedding)
    torch.testing.assert_close((phi(a) - phi(b)).square().sum(dim=1), squared_distance(embedding(a), embedding(b)))


@pytest.mark.parametrize("sketch_dim", [0, 16])
def test_normalised_features_have_length_one(sketch_dim):
    vectors = 30 * normal(5, 100)
    phi = features(Maps((100, 1, 1)), sketch_dim=sketch_dim, normalise=True)(vectors)
    torch.testing.assert_close(phi.norm(dim=1), torch.ones(5))
    plain = features(Maps((100, 1, 1)), sketch_dim=sketch_dim)(vectors)
    torch.testing.assert_close(phi * plain.norm(dim=1, keepdim=True), plain)
    zero = features(Maps((100, 1, 1)), normalise=True)(torch.zeros(1, 100))
    assert (zero == 0).all()


@pytest.mark.parametrize("k", [4, 16, 50, 200])
def test_a_sketch_adds_every_coordinate_with_a_sign_to_one_of_equally_filled_buckets(k):
    phi = features(Maps((4, 5, 5), (3, 2, 2), (1, 1, 1)), sketch_dim=k)
    matrix = phi(torch.eye(113))  # (113, k): what every coordinate becomes
    assert ((matrix != 0).sum(dim=1) == 1).all() and (matrix.abs().sum(dim=1) == 1).all()
    assert 30 < (matrix.sum(dim=1) > 0).sum() < 83
    for part in matrix.split([100, 12, 1]):
        assert part.abs().sum(dim=0).max() <= math.ceil(len(part) / k)
    vectors = normal(7, 113)
    torch.testing.assert_close(phi(vectors), vectors @ matrix)


def test_a_sketch_depends_on_the_seed_and_not_on_the_batch():
    vectors, embedding = normal(9, 5000), Maps((3, 40, 40), (2, 10, 10))
    whole = features(embedding, sketch_dim=128, seed=3)(vectors)
    again = features(embedding, sketch_dim=128, seed=3)
    assert torch.equal(whole, torch.cat([again(part) for part in vectors.split(2)]))
    assert not torch.equal(whole, features(embedding, sketch_dim=128, seed=4)(vectors))
    levels = again.signs
    assert not torch.equal(levels[0][:200], levels[1])  # every map has its own signs


def test_sketched_squared_distances_are_unbiased():
    change = normal(1, 600)
    errors = relative_errors(change, 40, range(2000))
    assert abs(errors.mean()) < 4 * errors.std() / math.sqrt(2000) < 0.03
    assert errors.std() == pytest.approx(math.sqrt(2 / 40), rel=0.1)


def test_a_sketch_errs_no_more_than_a_dense_projection():
    k, change = 800, normal(300, 16_000)
    sketched = relative_errors(change, k, range(2))
    dense = (change @ normal(16_000, k, seed=5)).square().sum(dim=1) / k / change.square().sum(dim=1) - 1
    for errors in (sketched, dense):
        assert errors.std() == pytest.approx(math.sqrt(2 / k), rel=0.15)


@pytest.mark.parametrize("k", [800, 512, 1024])
def test_a_sketch_errs_no_more_where_images_differ_in_a_few_columns(k):
    """Coordinates with the same remainder by 512 or 1024 are of one column of a picture 64 pixels wide."""
    stripes = torch.zeros(3, 64, 64)
    stripes[:, :, 24:32] = normal(3, 64, 8)
    errors = relative_errors(stripes.view(1, -1), k, range(300))
    assert errors.std() < 1.2 * math.sqrt(2 / k)


def test_a_sketch_of_real_images_finds_near_candidates():
    from data import load_images

    images = to_float(load_images("data/fluent_faces", resolution=(64, 64)).images[:60])
    weights = torch.linspace(0, 1, 60)[:, None, None, None]
    candidates = (weights * images + (1 - weights) * images.roll(7, dims=0)).roll((2, 3), dims=(2, 3))
    embedding = load_embedding("effnet-lite0", 0.1)
    with torch.no_grad():
        true, sketched = (torch.cdist(phi(candidates), phi(images)) for phi in (features(embedding), features(embedding, sketch_dim=800)))
    errors = sketched / true - 1
    assert errors.abs().mean() < 0.03 and errors.abs().max() < 0.15
    chosen = true.gather(0, sketched.argmin(dim=0)[None])[0]
    assert (chosen / true.amin(dim=0)).max() < 1.15


def test_the_signs_for_lpips_at_256_pixels_take_8_megabytes():
    shapes = [(64, 256, 256), (128, 128, 128), (256, 64, 64), (512, 32, 32), (512, 16, 16)]
    phi = features(Maps(*shapes), sketch_dim=800)
    phi(torch.zeros(1, sum(math.prod(shape) for shape in shapes)))
    assert sum(signs.numel() * signs.element_size() for signs in phi.signs) == 7_995_392
    assert all(signs.unique().tolist() == [-1, 1] for signs in phi.signs)
