"""Randomness is a function of (seed, purpose, index): the same everywhere, whatever is drawn beside it."""

import pytest
import torch

from training import rng


def test_streams_are_a_function_of_their_words():
    assert torch.equal(rng.normal((4,), 0, "pool", 1), rng.normal((4,), 0, "pool", 1))
    words = [(0, "pool", 1), (1, "pool", 1), (0, "order", 1), (0, "pool", 2), (0, "pool"), (0, "pool", 1, 0), (0, "pool", 11)]
    draws = torch.stack([rng.normal((4,), *word) for word in words])
    assert len(draws.unique(dim=0)) == len(words)


def test_streams_do_not_touch_the_global_one():
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    rng.normal((10,), 0, "pool"), rng.permutation(10, 0, "order"), rng.pool_latents(0, 0, 0, 300, 2)
    assert torch.equal(torch.rand(3), expected)


def test_the_numbers_themselves_are_kept_from_one_version_to_the_next():
    assert torch.allclose(rng.normal((3,), 0, "sample"), torch.tensor([-0.3970932, 0.8336587, -0.5980605]), atol=1e-6)
    assert rng.permutation(6, 0, "order", 0).tolist() == [5, 0, 3, 2, 4, 1]


def test_any_part_of_a_pool_can_be_drawn_again():
    whole = rng.pool_latents(0, 3, 0, 700, 4)
    for start, stop in ((0, 1), (255, 257), (256, 512), (300, 700), (699, 700), (5, 5)):
        assert torch.equal(rng.pool_latents(0, 3, start, stop, 4), whole[start:stop])
    ids = torch.tensor([699, 0, 255, 256, 0])
    assert torch.equal(rng.pool_latents_at(0, 3, ids, 4), whole[ids])
    assert not torch.equal(rng.pool_latents(0, 4, 0, 10, 4), whole[:10])


@pytest.mark.parametrize("seeds", [[5], [3, 5, 8], [5, 5]])
def test_a_sample_is_a_function_of_its_seed(seeds):
    assert torch.equal(rng.sample_latents(seeds, 8)[seeds.index(5)], rng.sample_latents(list(range(64)), 8)[5])


def test_huge_and_negative_seeds_are_seeds():
    assert len(rng.sample_latents([0, -1, 2**63, 10**40], 8).unique(dim=0)) == 4


def test_draws_are_normal():
    draws = rng.pool_latents(0, 0, 0, 2560, 16).flatten()
    assert abs(draws.mean()) < 0.02 and abs(draws.std() - 1) < 0.02
