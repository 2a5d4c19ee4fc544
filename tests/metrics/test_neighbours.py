"""The distances of samples to images, and the variety of the samples around each training image: against brute force."""

import math

import pytest
import torch
from conftest import LiveBytes
from torch._subclasses.fake_tensor import FakeTensorMode

from metrics import neighbours
from metrics.neighbours import NeighbourPass, intra_distance
from models.perceptual import Embedding, LpipsVgg, load_embedding, squared_distance, vgg16_trunk
from models.pixels import to_float

CLUSTERS = 4  # training images among the queries
MEMBERS = [7, 4, 1, 0]  # samples near each of them


@pytest.fixture(scope="module", params=["pixels", "effnet-lite0"])
def embed(request):
    if request.param == "pixels":
        return Embedding(None, 1.0)
    torch.manual_seed(0)
    return load_embedding("effnet-lite0", pretrained=False)


@pytest.fixture(scope="module")
def queries():
    """Return four training images and three held-out images."""
    return torch.randint(30, 226, (CLUSTERS + 3, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def samples(queries):
    """Return noisy copies of the training images in mixed order."""
    generator = torch.Generator().manual_seed(1)
    owners = torch.arange(CLUSTERS).repeat_interleave(torch.tensor(MEMBERS))
    return noisy(queries[owners[torch.randperm(len(owners), generator=generator)]], generator)


def noisy(images, generator):
    """Add noise whose strength differs from image to image."""
    strength = torch.linspace(3, 30, len(images))[:, None, None, None]
    return (images + strength * torch.randn(images.shape, generator=generator)).round().clamp(0, 255).to(torch.uint8)


def measured(embed, queries, samples, batch=16, clusters=CLUSTERS):
    looked = NeighbourPass(embed, "cpu", queries, clusters)
    for images in samples.split(batch):
        looked.add(images)
    return looked.result()


def brute_distances(embed, images, others):
    """Return perceptual distances (B, Q), each of two images that are embedded alone."""
    with torch.no_grad():
        ours, theirs = ([[m.double() for m in embed(to_float(image[None]))] for image in each] for each in (images, others))
        return torch.tensor([[squared_distance(a, b).item() for b in theirs] for a in ours])


def brute_spread(embed, samples, nearest):
    distances, spread = brute_distances(embed, samples, samples), []
    for cluster in range(CLUSTERS):
        index = (nearest == cluster).nonzero().flatten().tolist()
        pairs = [distances[i, j] for i in index for j in index if i < j]
        spread.append(sum(pairs) / len(pairs) if pairs else math.nan)
    return torch.tensor(spread)


def test_distances_members_and_spread_equal_brute_force(embed, queries, samples, monkeypatch):
    monkeypatch.setattr(neighbours, "QUERY_BATCH", 3)
    found, expected = measured(embed, queries, samples), brute_distances(embed, samples, queries)
    torch.testing.assert_close(found["distances"], expected, rtol=1e-4, atol=1e-5)
    nearest = expected[:, :CLUSTERS].argmin(dim=1)
    assert found["members"].tolist() == torch.bincount(nearest, minlength=CLUSTERS).tolist() == MEMBERS
    spread = brute_spread(embed, samples, nearest)
    torch.testing.assert_close(found["spread"], spread, rtol=1e-3, atol=1e-6, equal_nan=True)
    assert found["spread"].isnan().tolist() == [False, False, True, True]


def test_held_out_images_attract_no_samples(embed, queries):
    """Samples that lie nearest to held-out images belong to the nearest training image all the same."""
    samples = noisy(queries[CLUSTERS:].repeat(4, 1, 1, 1), torch.Generator().manual_seed(2))
    expected = brute_distances(embed, samples, queries)
    assert (expected.argmin(dim=1) >= CLUSTERS).all()
    found = measured(embed, queries, samples)
    nearest = expected[:, :CLUSTERS].argmin(dim=1)
    assert found["members"].tolist() == torch.bincount(nearest, minlength=CLUSTERS).tolist()
    spread = brute_spread(embed, samples, nearest)
    torch.testing.assert_close(found["spread"], spread, rtol=1e-3, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("batch", [1, 5])
def test_batches_change_nothing(embed, queries, samples, batch):
    torch.testing.assert_close(
        measured(embed, queries, samples, batch), measured(embed, queries, samples), rtol=1e-4, atol=1e-5, equal_nan=True
    )


@pytest.mark.parametrize("map_bytes", [1, 3e5])
def test_how_many_images_are_embedded_at_once_changes_nothing(embed, queries, samples, map_bytes, monkeypatch):
    expected = measured(embed, queries, samples)
    monkeypatch.setattr(neighbours, "MAP_BYTES", map_bytes)
    assert NeighbourPass(embed, "cpu", queries, CLUSTERS).batch == max(1, map_bytes // sum(m.nbytes for m in embed(to_float(queries[:1]))))
    torch.testing.assert_close(measured(embed, queries, samples), expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def test_a_pass_takes_little_more_memory_than_what_it_keeps():
    """Of 100 training images at 256 pixels with LPIPS, of tensors without content."""
    embed = Embedding(LpipsVgg(vgg16_trunk(), [torch.ones(channels) for channels in (64, 128, 256, 512, 512)]), 0.0)
    embed.requires_grad_(False).to(memory_format=torch.channels_last)
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(100, 3, 256, 256, dtype=torch.uint8)
        with LiveBytes() as building:
            looked = NeighbourPass(embed, "cpu", images, len(images))
        kept = sum(maps.nbytes for maps in [*looked.queries, *looked.sums])
        with LiveBytes() as adding:
            looked.add(images[:64])
        with LiveBytes() as ending:
            looked.result()
    assert kept == 2 * 100 * 7995392 * 4
    assert kept < building.peak < 1.1 * kept and 0 < adding.peak < 0.1 * kept and 0 < ending.peak < 0.1 * kept


@pytest.mark.parametrize("count", [2, 300])
@pytest.mark.parametrize("near", [True, False], ids=["at a training image", "elsewhere"])
def test_identical_samples_have_no_spread(embed, queries, near, count):
    sample = queries[1:2] if near else queries[-1:]
    found = measured(embed, queries[:2], sample.expand(count, -1, -1, -1), clusters=2)
    cluster = int(found["members"].argmax())
    assert found["members"][cluster] == count and (cluster == 1 or not near)
    assert 0 <= found["spread"][cluster] < 1e-5 and found["spread"][1 - cluster].isnan()


def test_intra_distance_is_the_mean_over_clusters_of_two_and_more():
    measurement = intra_distance(torch.tensor([1.0, 4.0, math.nan, math.nan]), torch.tensor([2, 5, 1, 0]))
    assert measurement.value == 2.5
    assert measurement.error == pytest.approx(1.5)  # of two values: half of what they lie apart
    assert measurement.note.startswith("2 of 4 training images")


def test_intra_distance_of_one_cluster_has_no_error():
    measurement = intra_distance(torch.tensor([math.nan, 0.5]), torch.tensor([0, 2]))
    assert (measurement.value, measurement.error, measurement.reason) == (0.5, None, None)


def test_intra_distance_without_clusters_is_none_with_a_reason():
    measurement = intra_distance(torch.full((3,), math.nan), torch.tensor([1, 0, 1]))
    assert measurement.value is None and "two samples" in measurement.reason


def test_intra_distance_of_a_pass(embed, queries, samples):
    found = measured(embed, queries, samples)
    measurement = intra_distance(found["spread"], found["members"])
    assert measurement.value == pytest.approx(found["spread"][:2].mean().item())
    assert measurement.note.startswith("2 of 4 training images")
