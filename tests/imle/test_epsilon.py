"""The rejection radius and the ranks."""

import math

import pytest
import torch

from imle.epsilon import measure, radius_below, ranks, target_share
from imle.settings import Imle


def table(candidates=400, n=7, seed=0):
    return torch.rand(candidates, n, generator=torch.Generator().manual_seed(seed)) + 0.5


@pytest.mark.parametrize("n, m", [(1, 2), (7, 400), (100, 500), (100, 2000)])
def test_target_share_moves_the_median_of_the_nearest_of_m_to_that_of_n(n, m):
    share = target_share(n, m)
    # With the nearest `share` gone, P(nearest of m > t) = ((1 - F) / (1 - share))^m; at its median 1 - F is
    survivors = (1 - share) * 2 ** (-1 / m)
    assert survivors == pytest.approx(2 ** (-1 / n), rel=1e-12)


@pytest.mark.parametrize("n, m", [(100, 100), (100, 10), (1, 1)])
def test_target_share_is_zero_for_a_pool_no_larger_than_the_set(n, m):
    assert target_share(n, m) == 0


@pytest.mark.parametrize("candidates", [1, 2, 7, 400])
@pytest.mark.parametrize("share", [0.0, 0.004, 0.1, 0.5, 0.99, 1.0])
def test_as_many_entries_lie_below_the_radius_as_asked_and_clearly(candidates, share):
    values = table(candidates)
    radius = radius_below(values, share)
    below = min(round(share * candidates), candidates - 1)
    assert radius.shape == (7,) and ((values < radius).sum(dim=0) == below).all()
    if below:  # no entry is so near the radius that its rounding could change sides
        assert ((values - radius).abs() > 1e-7).all()
    else:
        assert (radius == 0).all()


@pytest.mark.parametrize("n, m", [(1, 5), (7, 40), (100, 500), (100, 2000), (5, 5), (5, 3)])
def test_the_rank_is_that_of_the_nearest_of_n_chosen_from_m(n, m):
    """Against the counting of combinations: the nearest r are all passed over in C(m - r, n) of C(m, n) choices."""
    draws = torch.cat([ranks("rank", n, m, torch.Generator().manual_seed(seed)) for seed in range(-(-20_000 // n))])
    assert draws.min() == 1 and draws.max() <= max(1, m - n + 1)
    beyond = torch.tensor([math.comb(m - r, n) / math.comb(m, n) if n < m else 0.0 for r in range(1, m + 1)])
    seen = torch.tensor([(draws > r).double().mean() for r in range(1, m + 1)])
    assert (seen - beyond).abs().max() < 0.015
    (median,) = ranks("median_rank", n, m, torch.Generator()).unique().tolist()
    assert beyond[median - 1] <= 0.5 and (median == 1 or beyond[median - 2] > 0.5)


def test_fixed_is_the_number_itself():
    assert measure(Imle(reject="fixed", epsilon=0.12), table(), 400).item() == 0.12


def test_rejected_fraction_counts_candidates_near_any_image():
    radius = measure(Imle(reject="share", rejected_fraction=0.3), table(), 400)
    assert radius.shape == () and (table() < radius).any(dim=1).sum() == 120


def test_quantile_gives_every_image_a_ball_of_the_target_share():
    radius = measure(Imle(reject="quantile"), table(), 400)
    assert ((table() < radius).sum(dim=0) == round(target_share(7, 400) * 400)).all()
    assert (measure(Imle(reject="quantile"), table(7), 7) == 0).all()
