"""A refresh against brute force in float64: what is rejected, what is matched, what is drawn again, what is logged."""

import math

import pytest
import torch

from imle import refresh
from imle.epsilon import measure, ranks
from imle.refresh import Refresher, latent_gap
from methods import from_dict
from training import rng

LATENT_DIM, FEATURES, N = 6, 10, 12
SEARCHES = ["exact", "dci"]


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def embed(latents):
    """Map latents (B, 6) to features (B, 10), every row by itself to the last bit."""
    weights = normal(2, LATENT_DIM, FEATURES, seed=99)
    one, two = (sum(latents[:, i, None] * w[i] for i in range(LATENT_DIM)) for w in weights)  # (B, 10) each
    return one + 0.2 * two * two.abs()


def images(n=N, seed=1):
    return embed(normal(n, LATENT_DIM, seed=seed)) + 0.5 * normal(n, FEATURES, seed=seed + 1)


def refresher(targets=None, *, seed=0, **settings):
    config = from_dict({"seed": seed, "model": {"latent_dim": LATENT_DIM}, "imle": {"pool_factor": 20, **settings}})
    return Refresher(config, images() if targets is None else targets)


def table_of(chosen: Refresher, number: int, size: int):
    """Return a pool's latents (size, 6) and, from float64 differences, its distances to the images (size, n)."""
    latents = rng.pool_latents(chosen.config.seed, number, 0, size, LATENT_DIM)
    return latents, torch.cdist(embed(latents).double(), chosen.targets.double(), compute_mode="donot_use_mm_for_euclid_dist")


def ids_of(matches, latents):
    """Return the pool ids (n,) of the matched latents, found by comparing bits."""
    same = (matches.latents[:, None] == latents).all(dim=2)  # (n, size)
    assert bool((same.sum(dim=1) == 1).all()), "a matched latent is none of the pool's"
    return same.int().argmax(dim=1)


def assert_same(one, other):
    assert torch.equal(one.latents, other.latents) and torch.equal(one.distance, other.distance)
    assert one.diagnostics == other.diagnostics


RADII = {
    "fixed": {"reject": "fixed", "epsilon": 4.0},
    "tenth": {"reject": "share", "rejected_fraction": 0.1},
    "most": {"reject": "share", "rejected_fraction": 0.9},
    "quantile": {"reject": "quantile"},
    "adaptive": {"match": "adaptive", "reject": "share", "rejected_fraction": 0.2},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("radii", RADII)
def test_nothing_is_matched_within_epsilon_of_any_image(radii, search, seed):
    chosen = refresher(images(seed=seed), seed=seed, search=search, **RADII[radii])
    matches = chosen.refresh(embed, number=seed)
    seen = matches.diagnostics["pool_seen"]
    latents, table = table_of(chosen, seed, seen)
    radius = measure(chosen.config.imle, table[:240].float(), 240).double()
    rejected = (table < radius).any(dim=1)
    assert 0 < rejected.sum() < len(rejected)
    assert matches.diagnostics["rejected_share"] == rejected.double().mean().item()
    assert matches.diagnostics["fallback_images"] == 0
    ids = ids_of(matches, latents)
    assert not rejected[ids].any()
    torch.testing.assert_close(matches.distance.double(), table[ids, torch.arange(N)], rtol=1e-6, atol=0)
    expected = table.masked_fill(rejected[:, None], torch.inf).argmin(dim=0)
    # DCI may overlook a neighbour, though hardly in a pool this small; what it overlooks cannot be nearer than epsilon.
    assert torch.equal(ids, expected) if search == "exact" else (ids == expected).double().mean() > 0.8


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    "settings",
    [
        {"reject": "none"},
        {"match": "adaptive", "reject": "none"},
        {"reject": "none", "pool_factor": 0.25},
        {"reject": "fixed", "epsilon": 0.0},
        {"rejected_fraction": 0.0},
        {"reject": "quantile", "pool_factor": 1},
    ],
)
def test_without_a_radius_it_is_imle(settings, search):
    chosen = refresher(search=search, **settings)
    matches = chosen.refresh(embed, number=0)
    size = round(N * settings.get("pool_factor", 20))
    latents, table = table_of(chosen, 0, size)
    assert matches.diagnostics["pool_seen"] == size and matches.diagnostics["rejected_share"] == 0
    assert torch.equal(ids_of(matches, latents), table.argmin(dim=0))
    torch.testing.assert_close(matches.distance.double(), table.amin(dim=0), rtol=1e-6, atol=0)
    assert matches.diagnostics["pit"] == 1 / (size + 1)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize(
    "settings",
    [{"reject": "none"}, {"rejected_fraction": 0.3}, {"reject": "quantile"}, {"pool_factor": 2, "reject": "fixed", "epsilon": 11.0}],
)
def test_pool_batch_changes_nothing(settings, search):
    results = [refresher(search=search, pool_batch=size, **settings).refresh(embed, 3) for size in (64, 1, 7, 1000)]
    for other in results[1:]:
        assert_same(results[0], other)


def test_too_few_survivors_are_topped_up_until_there_are_enough(monkeypatch):
    monkeypatch.setattr(refresh, "TOP_UP", 9)
    chosen = refresher(pool_factor=2, reject="fixed", epsilon=12.0)
    matches = chosen.refresh(embed, 3)
    _, table = table_of(chosen, 3, 2 * N * 9)
    survivors = (table >= 12).all(dim=1).cumsum(dim=0)  # (candidates,)
    seen = matches.diagnostics["pool_seen"]
    assert 2 * N < seen < 2 * N * 9 and (seen - 2 * N) % N == 0
    assert survivors[seen - 1] >= N > survivors[seen - N - 1]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_pool_smaller_than_the_images_is_not_filled_up(search):
    matches = refresher(pool_factor=0.5, reject="fixed", epsilon=1e-3, search=search).refresh(embed, 0)
    assert matches.diagnostics["pool_seen"] == N // 2


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("pool_factor, top_up, seen", [(20, 4, 960), (2, 1, 24), (0.25, 4, 12)])
def test_where_all_is_rejected_imle_decides_and_is_counted(pool_factor, top_up, seen, search, monkeypatch):
    monkeypatch.setattr(refresh, "TOP_UP", top_up)
    chosen = refresher(pool_factor=pool_factor, reject="fixed", epsilon=1e6, search=search)
    matches = chosen.refresh(embed, 0)
    latents, table = table_of(chosen, 0, seen)
    assert matches.diagnostics["pool_seen"] == seen and matches.diagnostics["rejected_share"] == 1
    assert matches.diagnostics["fallback_images"] == N
    assert torch.equal(ids_of(matches, latents), table.argmin(dim=0))
    torch.testing.assert_close(matches.distance.double(), table.amin(dim=0), rtol=1e-6, atol=0)
    assert matches.diagnostics["pit"] == 1 / (seen + 1)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.9, 0.99])
def test_rejected_fraction_is_exact_on_a_pool_that_fits_the_pilot(share, monkeypatch):
    monkeypatch.setattr(refresh, "TOP_UP", 1)
    for seed in range(5):
        chosen = refresher(seed=seed, rejected_fraction=share)
        assert chosen.refresh(embed, 0).diagnostics["rejected_share"] == round(share * 240) / 240


def test_rejected_fraction_is_about_right_on_a_pool_that_does_not(monkeypatch):
    monkeypatch.setattr(refresh, "PILOT", 1000)
    chosen = refresher(pool_factor=1000, pool_batch=512, rejected_fraction=0.3)
    diagnostics = chosen.refresh(embed, 0).diagnostics
    assert diagnostics["pool_seen"] == 12_000
    assert diagnostics["rejected_share"] == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 1000))


def test_the_pilot_is_bounded_in_memory(monkeypatch):
    monkeypatch.setattr(refresh, "PILOT_ELEMENTS", 16 * FEATURES)
    chosen = refresher(reject="fixed", epsilon=4.0)
    assert chosen.pilot_size == 16
    monkeypatch.undo()
    small, whole = chosen.refresh(embed, 0), refresher(reject="fixed", epsilon=4.0).refresh(embed, 0)
    assert torch.equal(small.latents, whole.latents)


def test_diagnostics_equal_their_definitions():
    chosen = refresher(rejected_fraction=0.5)
    matches = chosen.refresh(embed, 5)
    latents, table = table_of(chosen, 5, 240)
    ids, told = ids_of(matches, latents), matches.diagnostics
    distance = table[ids, torch.arange(N)]
    between = torch.pdist(chosen.targets.double())
    assert told["unique_matches"] == len(set(ids.tolist())) / N < 1
    nearer = (table < distance * (1 - 1e-6)).sum(dim=0)  # one lies within float32 rounding of its image's match
    assert told["pit"] == pytest.approx((nearer.double().mean().item() + 1) / 241)
    assert told["pit"] > 2 / 241
    assert told["matched_distance"] == pytest.approx(distance.mean().item(), rel=1e-6)
    assert told["train_test_gap"] == pytest.approx((table.amin(dim=1).mean() - distance.mean()).item(), rel=1e-4)
    assert told["matched_level"] == pytest.approx((distance.mean() / between.mean()).item(), rel=1e-5)
    assert told["latent_gap"] == latent_gap(matches.latents, 0, 5)


def test_latent_gap_is_one_for_fresh_latents_and_larger_for_a_cluster():
    fresh = normal(200, LATENT_DIM, seed=3)
    assert latent_gap(fresh, 0, 0) == pytest.approx(1, abs=0.1)
    assert latent_gap(0.1 * fresh, 0, 0) > 1.3
    probes, control = (rng.normal((p, LATENT_DIM), 0, "latent_gap", 4, k) for p, k in ((512, 0), (200, 1)))
    far = [sorted(min(math.dist(p, z) for z in latents) for p in probes.tolist()) for latents in ((0.1 * fresh).tolist(), control.tolist())]
    position = 0.95 * 511
    low, part = int(position), position % 1
    expected = [d[low] + part * (d[low + 1] - d[low]) for d in far]
    assert latent_gap(0.1 * fresh, 0, 4) == pytest.approx(expected[0] / expected[1], rel=1e-4)


@pytest.mark.parametrize("targets", [images(2), images(1).expand(2, -1), images(1)])
def test_two_images_or_copies_or_a_single_one_are_enough(targets):
    chosen = refresher(targets.contiguous(), rejected_fraction=0.2)
    for number in range(3):
        matches = chosen.refresh(embed, number)
        assert torch.isfinite(matches.distance).all() and matches.latents.shape == (len(targets), LATENT_DIM)


@pytest.mark.parametrize("settings, exponent", [({"reject": "none"}, 60), ({"reject": "rank"}, 3)])
def test_selected_distances_follow_the_law_of_the_nearest_of_so_many(settings, exponent):
    """With F the distribution of distances of fresh samples, the nearest of k has 1 - (1 - F)^k.

    For IMLE k is the size of the pool, for the rank prior the number of images, here 3.
    """
    repeats, targets = 2000, images(3)
    chosen = refresher(targets, seed=11, **settings)
    fresh = torch.cdist(targets, embed(normal(200_000, LATENT_DIM, seed=7))).sort(dim=1).values
    selected = torch.stack([chosen.refresh(embed, number).distance for number in range(repeats)], dim=1)  # (3, repeats)
    below = torch.searchsorted(fresh, selected.contiguous()) / fresh.shape[1]  # F at every selected distance
    law = (1 - (1 - below) ** exponent).flatten().sort().values  # even on [0, 1] if the law holds
    steps = torch.arange(len(law) + 1) / len(law)
    assert max((law - steps[:-1]).abs().max(), (law - steps[1:]).abs().max()) < 0.03  # Kolmogorov-Smirnov


@pytest.mark.parametrize("pool_batch", [64, 7])
@pytest.mark.parametrize("pool_factor, top_rank", [(20, 2), (1, 1), (0.5, 1)])
@pytest.mark.parametrize("mode", ["rank", "median_rank"])
def test_ranks_match_the_candidate_of_that_rank(mode, pool_factor, top_rank, pool_batch):
    chosen = refresher(reject=mode, pool_factor=pool_factor, pool_batch=pool_batch)
    matches = chosen.refresh(embed, 3)
    latents, table = table_of(chosen, 3, round(N * pool_factor))
    ids = ids_of(matches, latents)
    drawn = ranks(mode, N, len(table), rng.generator(0, "ranks", 3))
    assert torch.equal(ids, table.argsort(dim=0)[drawn - 1, torch.arange(N)])
    assert drawn.max() >= top_rank and (pool_factor > 1 or (drawn == 1).all())
    told = matches.diagnostics
    assert told["rejected_share"] == 0 and told["fallback_images"] == 0
    assert told["pit"] == pytest.approx(drawn.double().mean().item() / (len(table) + 1))
