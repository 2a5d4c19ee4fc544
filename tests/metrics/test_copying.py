"""Copying: against brute force and scipy, and on toy sets whose truth is known."""

import numpy as np
import pytest
import torch
from scipy import stats

from metrics import alterations, prdc
from metrics.copying import MINIMUM, authentic_share, copy_rate, copying_test, thumbnail_copy_rate, thumbnail_distances
from metrics.prdc import nearest_distances, nearest_other_distances


@pytest.fixture(params=[3, 7, 1024])
def chunk(request, monkeypatch):
    monkeypatch.setattr(prdc, "CHUNK", request.param)


def normal(n, dimension=16, seed=0, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator) * scale + shift


def near_copies(real, n, seed=1):
    """Return n features, one half near some of the real ones and one half fresh, in turn."""
    fresh = normal(n, real.shape[1], seed)
    copies = real[torch.arange(n) % len(real)] + 0.3 * normal(n, real.shape[1], seed + 1)
    return torch.where(torch.arange(n)[:, None] % 2 == 0, copies, fresh)


def grid(n, seed):
    """Return integer features, many of which lie equally far from others."""
    return torch.randint(6, (n, 3), generator=torch.Generator().manual_seed(seed)).float()


def brute_distances(points, others):
    points, others = points.double().numpy(), others.double().numpy()
    return np.sqrt(((points[:, None] - others) ** 2).sum(axis=2))


def brute_own(real):
    distances = brute_distances(real, real)
    np.fill_diagonal(distances, np.inf)
    return distances


def with_mirror(real, mirror):
    return real if mirror is None else torch.cat([real, mirror])


def brute_copy_rate(real, fake, mirror=None):
    threshold = np.quantile(brute_own(real).min(axis=1), 0.05)
    rate = (brute_distances(fake, with_mirror(real, mirror)).min(axis=1) < threshold).mean()
    return rate if threshold > 0 else None


def brute_authentic_share(real, fake):
    distances = brute_distances(fake, real)
    return (distances.min(axis=1) > brute_own(real).min(axis=1)[distances.argmin(axis=1)]).mean()


def scipy_z(fakes, fresh):
    test = stats.mannwhitneyu(fakes, fresh, use_continuity=False, method="asymptotic")
    return stats.norm.isf(test.pvalue / 2) * np.sign(test.statistic - len(fakes) * len(fresh) / 2)


def brute_copying_test(real, fake, heldout, mirror=None):
    return scipy_z(*(brute_distances(each, with_mirror(real, mirror)).min(axis=1) for each in (fake, heldout)))


# distances


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_distances_equal_brute_force(offset, chunk):
    others, points = normal(30, shift=offset), normal(23, seed=1, shift=offset)
    distances, nearest = nearest_distances(points, others)
    expected = brute_distances(points, others)
    assert distances.dtype == torch.float64
    np.testing.assert_allclose(distances, expected.min(axis=1), rtol=1e-9)
    assert nearest.tolist() == expected.argmin(axis=1).tolist()


@pytest.mark.parametrize("neighbours", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_nearest_other_distances_equal_brute_force(offset, neighbours, chunk):
    features = normal(30, shift=offset)
    expected = np.sort(brute_own(features), axis=1)[:, neighbours - 1]
    np.testing.assert_allclose(nearest_other_distances(features, neighbours), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("offset", [0.0, 0.1, 1000.0])
def test_duplicates_lie_at_exactly_zero_and_nothing_else_does(offset, scale, chunk):
    others = normal(40, 64, scale=scale, shift=offset)
    distances, nearest = nearest_distances(torch.cat([normal(5, 64, 1, scale, offset), others[10:20]]), others)
    assert (distances == 0).tolist() == [False] * 5 + [True] * 10
    assert nearest[5:].tolist() == list(range(10, 20))
    assert (nearest_other_distances(torch.cat([others, others[10:20]])) == 0).nonzero().flatten().tolist() == [
        *range(10, 20),
        *range(40, 50),
    ]


# oracles


@pytest.mark.parametrize("mirrored", [False, True])
def test_copy_rate_equals_brute_force(mirrored, chunk):
    real = normal(60)
    mirror = normal(60, seed=7) if mirrored else None
    fake = torch.cat([near_copies(real, 40), mirror[:10]]) if mirrored else near_copies(real, 40)
    rate = copy_rate(real, fake, mirror)
    assert rate == pytest.approx(brute_copy_rate(real, fake, mirror)) and 0.3 < rate < 0.9
    assert not mirrored or copy_rate(real, fake) < rate


def test_authentic_share_equals_brute_force(chunk):
    real = normal(60)
    fake = near_copies(real, 40)
    share = authentic_share(real, fake)
    assert share == pytest.approx(brute_authentic_share(real, fake)) and 0.1 < share < 0.6


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("shift", [-0.3, 0.0, 0.3])
def test_copying_test_equals_scipys_z(shift, mirrored, chunk):
    real, heldout = normal(60), normal(25, seed=3)
    fake = near_copies(real, 40) * (1 + shift)
    mirror = normal(60, seed=7) if mirrored else None
    assert copying_test(real, fake, heldout, mirror) == pytest.approx(brute_copying_test(real, fake, heldout, mirror), abs=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_copying_test_equals_scipys_z_with_ties(mirrored, chunk):
    """The numbers of real images are powers of two, so that equal distances of integers are equal in every bit."""
    real, fake, heldout = grid(16, 0), grid(50, 1), grid(30, 2) + 1
    mirror = grid(16, 3) if mirrored else None
    distances = brute_distances(torch.cat([fake, heldout]), with_mirror(real, mirror)).min(axis=1)
    assert len(np.unique(distances)) < 10
    expected = brute_copying_test(real, fake, heldout, mirror)
    assert copying_test(real, fake, heldout, mirror) == pytest.approx(expected, abs=1e-6) and abs(expected) > 1


def test_copying_test_of_copies_among_both_sides_equals_scipys_z(chunk):
    real = normal(60)
    fake, heldout = torch.cat([real[:30], normal(20, seed=1)]), torch.cat([real[30:45], normal(15, seed=2)])
    assert copying_test(real, fake, heldout) == pytest.approx(brute_copying_test(real, fake, heldout), abs=1e-6)


def test_copying_test_without_any_order_is_zero():
    real = normal(30)
    assert copying_test(real, real, real[:20]) == 0


def test_a_copy_is_nearer_than_the_threshold():
    """Images on a line, 4 apart: what lies 4 away from the last is none, and what lies nearer is one."""
    real = 4 * torch.arange(32.0)[:, None]
    fake = torch.tensor([[-4.0], [-3.9], [128.0], [127.9], [2.0]])
    assert copy_rate(real, fake) == pytest.approx(3 / 5)


# toy truths


@pytest.mark.parametrize("flipped", [False, True], ids=["training images", "mirror images"])
def test_a_copier_is_told(flipped):
    real, mirror, heldout = normal(100), normal(100, seed=5), normal(40, seed=1)
    copied = (mirror if flipped else real)[torch.arange(300) % 100]
    assert copy_rate(real, copied, mirror) == 1
    assert copying_test(real, copied, heldout, mirror) < -8
    if flipped:
        assert copy_rate(real, copied) < 0.2 and copying_test(real, copied, heldout) > -3
    else:
        assert authentic_share(real, copied) == 0


@pytest.mark.parametrize("dimension", [8, 64])
def test_fresh_draws_are_not_told_from_held_out_images(dimension):
    seeds = range(0, 60, 3)
    draws = [(normal(150, dimension, seed), normal(200, dimension, seed + 1), normal(50, dimension, seed + 2)) for seed in seeds]
    rates = np.array([copy_rate(real, fake) for real, fake, _ in draws])
    tests = np.array([copying_test(*draw) for draw in draws])
    assert abs(rates.mean() - 0.05) < 0.02
    assert abs(tests).max() < 3 and 0.5 < tests.std() < 1.5
    assert 0.5 < np.mean([authentic_share(real, fake) for real, fake, _ in draws]) < 0.9


def test_samples_far_away_are_no_copies():
    real, far = normal(100), normal(300, seed=1, shift=50)
    assert copy_rate(real, far, real) == 0
    assert authentic_share(real, far) == 1
    assert copying_test(real, far, normal(40, seed=2), real) > 8


# numbers that cannot be had


def test_too_few_images_give_none():
    real, fake = normal(MINIMUM), normal(9, seed=1)
    assert copy_rate(real[:-1], fake, real) is None and copy_rate(real, fake) is not None
    assert authentic_share(real[:1], fake) is None and authentic_share(real[:2], fake) is not None
    for count in (0, MINIMUM - 1):
        assert copying_test(real, fake, normal(count, seed=2)) is None
    assert copying_test(real[:1], fake[:1], normal(MINIMUM, seed=2)) is not None


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize(
    "repeats, given",
    [([2], True), ([2, 2], True), ([3, 2], True), ([2, 2, 2], False), ([2] * 50, False), ([100], False)],
    ids=["a pair", "two pairs", "three and a pair", "three pairs", "pairs", "one image"],
)
def test_repeated_training_images_give_none_or_the_right_number(repeats, given, offset):
    repeats = torch.tensor(repeats + [1] * (100 - sum(repeats)))
    real = normal(len(repeats), shift=offset).repeat_interleave(repeats, dim=0)
    for fake in (real, near_copies(real - offset, 80) + offset):
        rate = copy_rate(real, fake)
        assert rate == pytest.approx(brute_copy_rate(real, fake)) and (rate is not None) == given
        assert authentic_share(real, fake) == pytest.approx(brute_authentic_share(real, fake))


# thumbnails


def thumbnails(count, seed):
    """Draw smooth thumbnails in levels, (count, 768)."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 255
    return torch.nn.functional.interpolate(coarse, size=16, mode="bilinear").flatten(1)


def test_thumbnails_are_compared_in_levels_at_half_their_size():
    real = thumbnails(5, 0)
    fake = real + 7
    fake[3] += 12 * (torch.arange(768) % 2 * 2 - 1)  # a texture of single pixels
    distances = thumbnail_distances(fake, real)
    np.testing.assert_allclose(distances.diagonal(), 7, rtol=1e-3)
    expected = brute_distances(
        fake.view(-1, 3, 8, 2, 8, 2).mean(dim=(3, 5)).flatten(1), real.view(-1, 3, 8, 2, 8, 2).mean(dim=(3, 5)).flatten(1)
    )
    assert (distances.numpy() <= expected / 192**0.5 + 1e-3).all()  # the best of many positions


def test_a_small_shift_or_zoom_and_a_mirror_do_not_count():
    images = thumbnails(30, 0).view(-1, 3, 16, 16)
    large = torch.nn.functional.interpolate(images, size=128, mode="bilinear")
    moved = {
        "mirror": large.flip(3),
        "shift": torch.cat([large[..., :1].expand(-1, -1, -1, 6), large[..., :-6]], dim=3),
        "zoom": large[..., 6:-6, 6:-6],
    }
    fresh = thumbnail_distances(thumbnails(30, 1), images.flatten(1)).amin(dim=1).median()
    for name, pictures in moved.items():
        small = torch.nn.functional.interpolate(pictures, size=16, mode="bilinear", antialias=True).flatten(1)
        distances = thumbnail_distances(small, images.flatten(1))
        assert (distances.argmin(dim=1) == torch.arange(30)).all() and distances.diagonal().max() < 0.2 * fresh, name


def test_the_copy_rate_between_thumbnails():
    real, fresh = thumbnails(100, 0), thumbnails(100, 1)
    copies = real + 20 * (torch.arange(768) % 2 * 2 - 1)
    assert thumbnail_copy_rate(real, copies) == thumbnail_copy_rate(real, real) == 1
    assert thumbnail_copy_rate(real, fresh) < 0.15
    assert thumbnail_copy_rate(real, torch.cat([copies[:30], fresh[:70]])) == pytest.approx(
        0.3 + 0.7 * thumbnail_copy_rate(real, fresh[:70])
    )
    assert thumbnail_copy_rate(real[:19], copies) is None and thumbnail_copy_rate(real.repeat(11, 1), copies) is None
    assert thumbnail_copy_rate(real[:1].expand(50, -1), copies) is None  # all equal: no distance to compare with
    assert thumbnail_copy_rate(torch.cat([real[:40], real[:40]]), copies) is None


# what copies are tried on


def test_changes_are_what_they_are_called():
    images = torch.randint(256, (9, 3, 24, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    changed, ways = alterations.changed_copies(images)
    assert ways.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0] and changed.dtype == torch.uint8
    for number, change in enumerate(alterations.COPIES.values()):
        assert torch.equal(changed[ways == number], change(images[ways == number])) and not torch.equal(
            changed[ways == number], images[ways == number]
        )
    assert 0 < (alterations.noise(images).short() - images.short()).abs().max() <= 8
    flat = torch.full((1, 3, 16, 16), 77, dtype=torch.uint8)
    for change in (alterations.blur, alterations.quarter, alterations.pairs):
        assert torch.equal(change(flat), flat)
    large = torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert alterations.blur(large).float().std() < 0.5 * large.float().std()
    averages = alterations.pairs(images).float()
    sums = [[(images[i].float() + images[j].float()) / 2 for j in range(9) if j != i] for i in range(9)]
    assert all(any((average - each).abs().max() <= 0.5 for row in sums for each in row) for average in averages)
    small = alterations.quarter(images).float()
    assert small.shape == images.shape and small.std() < 0.5 * images.float().std()


@pytest.mark.parametrize("count, side", [(1, 8), (2, 8), (5, 13), (1, 256)])
def test_any_images_can_be_changed(count, side):
    images = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
    for changed in (alterations.changed_copies(images)[0], *(spoil(images) for spoil in alterations.SPOILT.values())):
        assert changed.shape == images.shape and changed.dtype == torch.uint8
