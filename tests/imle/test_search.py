"""Rejecting and matching against float64 brute force, on kind and on hostile pools; DCI against its pseudo-code."""

import heapq
import math
import sys
from bisect import bisect_left
from types import ModuleType, SimpleNamespace

import pytest
import torch

from errors import UserError
from imle.search import DCI, SEARCHES, ExactIndex, PoolMatcher, bounds, clearance, dci, distances, exact, matcher, nearest, open_index
from imle.search.bounds import Bounds, Queries, block_size, not_positive, squared_distances
from imle.search.dci import SETTINGS, Setting
from models.precision import true_fp32

EVERY_SEARCH = ["exact", "dci"]  # dciknn_cuda needs a GPU: its calls are checked on a stand-in


@pytest.fixture(autouse=True)
def one_thread():
    """Take one thread: these tests are small, and other work may be running."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=EVERY_SEARCH)
def search(request):
    return request.param


def normal(*shape, seed=0, scale=1.0, offset=0.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale + offset


def manifold(count, *, seed, dim=800, intrinsic=32):
    """Draw points of a curved 32-dimensional surface in 800 dimensions; the surface is always the same."""
    weights = normal(intrinsic, 128, seed=100) / math.sqrt(intrinsic), normal(128, dim, seed=101) / math.sqrt(128)
    return torch.tanh(torch.tanh(normal(count, intrinsic, seed=seed) @ weights[0] * 2) @ weights[1])


def true_distances(points, targets):
    """Return all distances (N, n), from float64 differences summed by a library reduction."""
    rows = [(points.double() - target.double()).square().sum(1).sqrt() for target in targets]
    return torch.stack(rows, 1)


def brute_force(targets, pool, epsilon):
    """Return (rejected (m,), index (n,), distance (n,), nearer (n,), fallback (n,)) by definition."""
    table = true_distances(pool, targets)  # (m, n)
    rejected = (table < torch.as_tensor(epsilon, dtype=torch.float64)).any(1)
    kept = table.masked_fill(rejected[:, None], torch.inf)
    distance, index = kept.min(0)
    index = index.where(distance < torch.inf, -1)
    nearer = (table < distance).sum(0)
    return rejected, index, distance, nearer, table.argmin(0)


def run(targets, chunks, epsilon, search="exact", **options):
    """Offer the chunks; return (rejected (m,), Match)."""
    pool = PoolMatcher(targets, epsilon, search, **options)
    flags = [pool.offer(chunk) for chunk in chunks]
    return torch.cat(flags), pool.result()


def assert_same(one, other):
    """Compare two (rejected, Match) bit for bit."""
    assert torch.equal(one[0], other[0])
    for name, value in vars(one[1]).items():
        same = vars(other[1])[name]
        assert torch.equal(value, same) if torch.is_tensor(value) else value == same, name


def cases():
    """Name pools of many shapes, and a radius that rejects some of each: (targets, pool, epsilon)."""
    made = []
    for seed, (n, m, dim, scale, offset) in enumerate(
        [
            (1, 1, 1, 1, 0),
            (1, 50, 3, 1, 0),
            (7, 40, 1, 10, 0),
            (20, 300, 8, 1, 5),
            (5, 2100, 17, 1e-3, 1),
            (40, 500, 64, 100, 0),
            (9, 120, 800, 1, 1000),
            (3, 30, 5000, 0.01, -3),
            (30, 10, 33, 1e8, 0),
            (12, 200, 20, 1e-12, 0),
        ]
    ):
        targets = normal(n, dim, seed=seed, scale=scale, offset=offset)
        pool = normal(m, dim, seed=seed + 50, scale=scale, offset=offset)
        table = true_distances(pool, targets)
        share = (0.1, 0.5, 0.9)[seed % 3]
        one_for_all = float(table.amin(1).quantile(share))
        one_each = table.quantile(share / n, dim=0)
        made += [(targets, pool, one_for_all), (targets, pool, one_each), (targets, pool, 0.0), (targets, pool, 1e30)]
    return made


# -- exact ------------------------------------------------------------------------------------------------------------


def test_exact_is_brute_force_for_any_shape_and_radius():
    for targets, pool, epsilon in cases():
        rejected, match = run(targets, pool.split(37), epsilon)
        expected = brute_force(targets, pool, epsilon)
        assert torch.equal(rejected, expected[0])
        assert torch.equal(match.index, expected[1])
        torch.testing.assert_close(match.distance.double(), expected[2], rtol=1e-7, atol=0)
        assert match.seen == len(pool) and match.rejected == int(expected[0].sum())
        torch.testing.assert_close(match.nearer, expected[3].where(match.index >= 0, len(pool)))
        none = match.index < 0
        assert torch.equal(match.taken, expected[4].where(none, match.index))
        fallback_distance = true_distances(pool, targets).amin(0).where(none, expected[2])
        torch.testing.assert_close(match.taken_distance.double(), fallback_distance, rtol=1e-7, atol=0)


def test_no_match_is_nearer_than_epsilon_to_any_target(search):
    for targets, pool, epsilon in cases():
        rejected, match = run(targets, pool.split(100), epsilon, search)
        expected = brute_force(targets, pool, epsilon)
        assert torch.equal(rejected, expected[0])
        chosen = match.index[match.index >= 0]
        assert len(chosen) == (len(targets) if (~rejected).any() else 0)
        assert not (true_distances(pool[chosen], targets) < torch.as_tensor(epsilon, dtype=torch.float64)).any()
        assert (match.taken >= 0).all() and torch.isfinite(match.taken_distance).all()
        assert (match.distance.double() >= expected[2] * (1 - 1e-7)).all()


def hostile_pool():
    """Candidates at distances from a target that differ by less than float32 can tell, many on the radius itself."""
    dim, offset = 300, 100.0
    targets = normal(6, dim, seed=1, offset=offset)
    ways = normal(400, dim, seed=2)
    ways /= ways.norm(dim=1, keepdim=True)
    on_sphere = targets.repeat(67, 1)[:400] + 5 * ways  # at 5 from a target, up to rounding
    ahead = targets[:1] + 6 * (1 + 1e-7 * normal(200, 1, seed=3)) * ways[:200]
    pool = torch.cat((on_sphere, ahead, on_sphere[:50], targets[:2] + 20))
    return targets, pool[torch.randperm(len(pool), generator=torch.Generator().manual_seed(4))]


def test_near_ties_and_the_radius_itself_are_decided_as_in_float64():
    targets, pool = hostile_pool()
    naive = (pool.square().sum(1)[:, None] - 2 * pool @ targets.T + targets.square().sum(1)).clamp(min=0).sqrt()
    for epsilon in (0.0, 5.0, 5.0000005, 6.0):
        expected = brute_force(targets, pool, epsilon)
        rejected, match = run(targets, [pool], epsilon)
        assert torch.equal(rejected, expected[0])
        assert torch.equal(match.index, expected[1])
        if epsilon == 5.0:
            assert ((naive < epsilon).any(1) != rejected).sum() > 20, "the pool is meant to defeat float32"


@pytest.mark.parametrize(
    "make", [hostile_pool, lambda: (manifold(15, seed=1), manifold(500, seed=2)), lambda: (normal(4, 3), normal(500, 3, seed=1).round())]
)
def test_result_does_not_depend_on_chunks(make, search, monkeypatch):
    monkeypatch.setattr(matcher, "SAMPLE_SIZE", 64)
    targets, pool = make()
    for epsilon in (0.0, float(clearance(pool, targets).median())):
        whole = run(targets, [pool], epsilon, search)
        for sizes in (1, 7, 64, 300):
            assert_same(run(targets, pool.split(sizes), epsilon, search), whole)
        with monkeypatch.context() as context:
            context.setattr(bounds, "BLOCK_POINTS", 29)
            assert_same(run(targets, [pool[:3], pool[:0], pool[3:]], epsilon, search), whole)


def test_the_definition_of_a_distance_is_the_sum_of_squares():
    one, other = normal(20, 801, seed=1, offset=3), normal(20, 801, seed=2)
    rows = torch.arange(20)
    found = squared_distances(one, other, rows, rows.flip(0))
    for i in range(20):
        terms = [(a - b) ** 2 for a, b in zip(one[i].tolist(), other[19 - i].tolist())]
        assert found[i].item() == pytest.approx(math.fsum(terms), rel=1e-14)
    assert torch.equal(found[3:9], squared_distances(one[3:], other, rows[:6], rows.flip(0)[3:9]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [1, 2, 33, 800, 30_000])
def test_bounds_hold(dim, dtype):
    for scale, offset in [(1, 0), (1, 3), (1, 1e4), (1e-19, 0), (1e-22, 0), (1e12, 0), (0, 7)]:
        queries = normal(5, dim, seed=1, scale=scale, offset=offset)
        others = normal(40, dim, seed=2, scale=scale, offset=offset), normal(3, dim, seed=3, scale=1000 * scale).abs()
        points = torch.cat((*others, queries, queries * (1 + 1e-6), -queries))
        found = Bounds(Queries(queries, "q"), points, "p", dtype)
        rows, columns = torch.ones_like(found.low).nonzero(as_tuple=True)
        true = squared_distances(queries, points, rows, columns).view_as(found.low)
        assert (found.low <= true).all() and (true <= found.low.double() + found.width).all()


def test_a_common_offset_does_not_widen_the_band():
    targets, pool = normal(5, 100, seed=1), normal(50, 100, seed=2)
    near = Bounds(Queries(targets, "q"), pool, "p").width.max()
    far = Bounds(Queries(targets + 1e4, "q"), pool + 1e4, "p").width.max()
    assert far < 2 * near


def test_a_far_outlier_in_a_block_costs_no_match():
    targets, pool = normal(20, 50, seed=1), normal(400, 50, seed=2)
    pool[::50] *= 1e6  # its band is wide enough to hold all others
    for epsilon in (0.0, float(clearance(pool, targets).quantile(0.2))):
        rejected, match = run(targets, [pool], epsilon)
        expected = brute_force(targets, pool, epsilon)
        assert torch.equal(rejected, expected[0]) and torch.equal(match.index, expected[1])
        assert torch.equal(nearest(targets, pool, 3)[1], true_distances(pool, targets).T.sort(stable=True).indices[:, :3])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 1.0])
def test_not_positive_finds_every_pair_in_row_order(share):
    margins = torch.rand(13, 200, generator=torch.Generator().manual_seed(0)) - share
    margins[3, 5], margins[4, 6] = 0.0, torch.inf
    found, expected = not_positive(margins), (margins <= 0).nonzero(as_tuple=True)
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_blocks_are_as_wide_as_memory_allows():
    assert block_size(800, 100) == block_size(800, 1) == block_size(1, 0) == bounds.BLOCK_POINTS
    assert block_size(800, 1000) == bounds.BLOCK_PAIRS // 1000 > bounds.BLOCK_FEWEST
    assert block_size(800, 10**6) == bounds.BLOCK_FEWEST
    assert block_size(10**7, 100) == 1 == block_size(10**9, 100)


def test_a_collapsed_generator_is_matched_right_and_without_measuring_every_pair(monkeypatch):
    measured = []
    monkeypatch.setattr(exact, "squared_distances", lambda *args: measured.append(len(args[2])) or squared_distances(*args))
    targets = normal(20, 100, seed=1)
    pool = normal(1, 100, seed=2) + 1e-5 * normal(1000, 100, seed=3)
    epsilon = float(clearance(pool, targets).median())
    measured.clear()
    rejected, match = run(targets, [pool], epsilon)
    expected = brute_force(targets, pool, epsilon)
    assert torch.equal(rejected, expected[0]) and torch.equal(match.index, expected[1])
    assert sum(measured) < 0.01 * len(targets) * len(pool)


def test_precision_settings_and_autocast_change_nothing():
    targets, pool = manifold(30, seed=1), manifold(600, seed=2)
    epsilon = float(clearance(pool, targets).quantile(0.3))
    plain = run(targets, [pool], epsilon), run(targets, [pool], epsilon, "dci"), distances(pool, targets)
    leaves = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [leaf.fp32_precision for leaf in leaves]
    try:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = "tf32", "bf16"
        with torch.autocast("cpu", torch.bfloat16):
            assert_same(run(targets, [pool], epsilon), plain[0])
            assert_same(run(targets, [pool], epsilon, "dci"), plain[1])
            assert torch.equal(distances(pool, targets), plain[2])
            assert (targets @ pool.T).dtype == torch.bfloat16
            width = Bounds(Queries(targets, "q"), pool, "p")
            true = true_distances(pool, targets).square().T
            assert (width.low <= true).all() and (true <= width.low.double() + width.width).all()
        assert [leaf.fp32_precision for leaf in leaves] == ["tf32", "bf16"]
    finally:
        for leaf, precision in zip(leaves, before):
            leaf.fp32_precision = precision


def test_true_fp32_leaves_an_inherited_setting_inherited():
    leaf, before = torch.backends.cuda.matmul, torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        with pytest.raises(KeyError), true_fp32(torch.device("cpu")):
            assert leaf.fp32_precision == "ieee"
            raise KeyError
        assert leaf.fp32_precision == "tf32"
        torch.backends.fp32_precision = "ieee"
        assert leaf.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = before


# -- what a match says ------------------------------------------------------------------------------------------------


def test_epsilon_zero_rejects_nothing_not_even_copies(search):
    targets = normal(8, 12, seed=1)
    pool = torch.cat((normal(30, 12, seed=2), targets))
    rejected, match = run(targets, [pool], 0.0, search)
    assert not rejected.any() and match.rejected == 0
    assert match.index.tolist() == list(range(30, 38)) == match.taken.tolist()
    assert not match.distance.any() and not match.nearer.any()


def test_a_copy_of_a_target_is_rejected_by_any_radius(search):
    targets = normal(8, 12, seed=1)
    rejected, match = run(targets, [torch.cat((targets, targets + 1))], 1e-30, search)
    assert rejected.tolist() == [True] * 8 + [False] * 8
    assert (match.index >= 8).all() and torch.equal(match.taken, match.index)


def test_the_radius_is_strict():
    targets, candidate = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    assert not run(targets, [candidate], 5.0)[0].any()
    assert run(targets, [candidate], math.nextafter(5.0, 6.0))[0].all()
    assert not run(targets, [candidate], torch.tensor([5.0]))[0].any()


def test_a_radius_per_target_is_that_target_s_own():
    targets = torch.tensor([[0.0], [10.0]])
    pool = torch.tensor([[2.0], [8.0], [5.0]])
    rejected, match = run(targets, [pool], torch.tensor([3.0, 1.0]))
    assert rejected.tolist() == [True, False, False]
    assert match.index.tolist() == [2, 1] and match.nearer.tolist() == [1, 0]


def test_everything_rejected_falls_back_to_the_nearest(search, monkeypatch):
    monkeypatch.setattr(matcher, "SAMPLE_SIZE", 16)
    targets, pool = normal(5, 6, seed=1), normal(70, 6, seed=2)
    rejected, match = run(targets, pool.split(20), 1e6, search)
    assert rejected.all() and match.rejected == match.seen == 70
    assert (match.index == -1).all() and (match.distance == torch.inf).all() and (match.nearer == 70).all()
    assert torch.equal(match.taken, true_distances(pool, targets).argmin(0))


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_an_empty_pool_matches_nothing(search, epsilon):
    for offers in ([], [torch.zeros(0, 4)]):
        pool = PoolMatcher(normal(3, 4), epsilon, search)
        assert [pool.offer(offer).shape for offer in offers] == [(0,)] * len(offers)
        match = pool.result()
        assert (match.index == -1).all() and (match.taken == -1).all() and not match.nearer.any()
        assert (match.distance == torch.inf).all() and (match.taken_distance == torch.inf).all()
        assert match.seen == match.rejected == 0


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_of_duplicates_the_first_wins(search, epsilon):
    targets = normal(6, 10, seed=1)
    distinct = normal(25, 10, seed=2)
    pool = distinct.repeat(3, 1)
    match = run(targets, pool.split(9), epsilon, search)[1]
    assert torch.equal(match.index, true_distances(distinct, targets).argmin(0))


def test_result_may_be_asked_for_early_and_often(search):
    targets, pool = normal(6, 10, seed=1), normal(90, 10, seed=2)
    epsilon = float(clearance(pool, targets).quantile(0.2))
    generator = torch.Generator().manual_seed(5)
    gradual = PoolMatcher(targets, epsilon, search, generator=generator)
    flags = []
    for chunk in pool.split(40):
        flags.append(gradual.offer(chunk))
        gradual.result()
    assert_same((torch.cat(flags), gradual.result()), run(targets, [pool], epsilon, search, generator=generator))


def test_nearer_is_an_estimate_beyond_the_sample(monkeypatch):
    monkeypatch.setattr(matcher, "SAMPLE_SIZE", 256)
    targets, pool = normal(30, 8, seed=1), normal(8000, 8, seed=2)
    epsilon = float(clearance(pool, targets).quantile(0.4))
    match = run(targets, pool.split(500), epsilon)[1]
    share, true = match.nearer / len(pool), brute_force(targets, pool, epsilon)[3] / len(pool)
    assert match.rejected > 256 and not torch.equal(share, true)
    assert ((share - true).abs() <= 4 * (2 * true / 256).sqrt() + 2 / 256).all()
    assert share.mean() == pytest.approx(true.mean().item(), rel=0.15)


def test_nearer_counts_what_another_search_overlooked(monkeypatch):
    targets, pool = normal(5, 4, seed=1), normal(40, 4, seed=2)
    first_of_all = SimpleNamespace(add=len, query=lambda queries: (None, torch.zeros(len(queries), 1, dtype=torch.int64)))
    monkeypatch.setattr(matcher, "open_index", lambda *_: first_of_all)
    match = run(targets, [pool], 0.0, "dci")[1]
    table = true_distances(pool, targets)
    assert not match.index.any() and torch.equal(match.nearer, (table < table[0]).sum(0))


def test_a_match_that_the_index_misses_is_repaired(monkeypatch):
    targets, pool = normal(5, 4, seed=1), normal(40, 4, seed=2)
    lost = torch.tensor([True, False, True, False, False])

    class Forgetful(ExactIndex):
        def query(self, queries, k=1):
            distance, ids = super().query(queries, k)
            return distance, ids.masked_fill(lost[:, None], -1)

    monkeypatch.setattr(matcher, "open_index", lambda *_: Forgetful())
    match = run(targets, [pool], 1.0, "dci")[1]
    assert_same((lost, match), (lost, run(targets, [pool], 1.0)[1]))


def test_offered_features_may_be_overwritten_afterwards(search):
    targets, pool = normal(5, 4, seed=1), normal(40, 4, seed=2)
    expected = run(targets, [pool], 0.3, search)
    reused, flags, gradual = torch.empty(10, 4), [], PoolMatcher(targets, 0.3, search)
    for chunk in pool.split(10):
        reused.copy_(chunk)
        flags.append(gradual.offer(reused))
    reused.fill_(0)
    assert_same((torch.cat(flags), gradual.result()), expected)


def test_half_precision_and_gradients_are_accepted(search):
    targets, pool = normal(5, 4, seed=1).half(), normal(40, 4, seed=2).bfloat16()
    expected = run(targets.float(), [pool.float()], 0.3, search)
    assert_same(run(targets, [pool.clone().requires_grad_()], 0.3, search), expected)


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e20])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_non_finite_features_are_refused(search, epsilon, bad):
    targets, pool = normal(5, 4, seed=1), normal(40, 4, seed=2)
    spoilt = pool.clone()
    spoilt[17, 2] = bad
    gradual = PoolMatcher(targets, epsilon, search)
    with pytest.raises(UserError, match="candidate features hold NaN"):
        gradual.offer(spoilt)
    assert_same((gradual.offer(pool), gradual.result()), run(targets, [pool], epsilon, search))
    with pytest.raises(UserError, match="targets hold NaN"):
        PoolMatcher(spoilt, epsilon, search)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_indexes_refuse_non_finite_points(search, bad):
    points = normal(10, 3)
    spoilt = points.clone()
    spoilt[4] = bad
    index = open_index(search)
    with pytest.raises(UserError, match="points hold NaN"):
        index.add(spoilt)
        index.query(points)
    index = open_index(search)
    index.add(points)
    with pytest.raises(UserError, match="queries hold NaN"):
        index.query(spoilt)


def test_mistakes_in_the_arguments_are_named():
    targets = normal(3, 4)
    with pytest.raises(UserError, match="imle.search: no search is called 'annoy'; choose one of exact, dci, dciknn_cuda"):
        PoolMatcher(targets, 0.0, "annoy")
    for epsilon in (-1.0, math.nan, torch.tensor([0.0, 1.0, math.nan])):
        with pytest.raises(ValueError, match="epsilon must not be negative or NaN"):
            PoolMatcher(targets, epsilon)
    with pytest.raises(ValueError, match=r"one per target \(3\), not \(4,\)"):
        PoolMatcher(targets, torch.zeros(4))
    with pytest.raises(ValueError, match="have 5 dimensions where 4"):
        PoolMatcher(targets, 0.0).offer(normal(2, 5))
    with pytest.raises(ValueError, match="must be a floating-point"):
        PoolMatcher(targets.long(), 0.0)
    with pytest.raises(ValueError, match="no targets"):
        PoolMatcher(targets[:0], 0.0)


def test_a_missing_library_is_a_user_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dciknn_cuda", None)
    with pytest.raises(UserError, match="imle.search=dciknn_cuda.*requirements.txt"):
        PoolMatcher(normal(3, 4), 0.0, "dciknn_cuda")


def test_no_library_is_imported_unasked(monkeypatch):
    monkeypatch.setitem(sys.modules, "dciknn_cuda", None)
    run(normal(3, 4), [normal(9, 4)], 0.1)
    run(normal(3, 4), [normal(9, 4)], 0.1, "dci")


# -- plain queries ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 20])
def test_nearest_is_brute_force(k, monkeypatch):
    queries, points = normal(30, 9, seed=1), normal(15, 9, seed=2)
    table = true_distances(points, queries).T
    distance, ids = nearest(queries, points, k)
    order = table.sort(dim=1, stable=True)
    assert ids.shape == distance.shape == (30, k) and distance.dtype == torch.float32
    assert torch.equal(ids[:, :15], order.indices[:, :k])
    torch.testing.assert_close(distance[:, :15].double(), order.values[:, :k], rtol=1e-7, atol=0)
    assert (ids[:, 15:] == -1).all() and (distance[:, 15:] == torch.inf).all()
    monkeypatch.setattr(bounds, "BLOCK_POINTS", 4)
    again = nearest(queries, points, k)
    assert torch.equal(again[0], distance) and torch.equal(again[1], ids)


def test_nearest_orders_ties_by_row_across_blocks(monkeypatch):
    monkeypatch.setattr(bounds, "BLOCK_POINTS", 3)
    assert nearest(torch.zeros(1, 2), torch.ones(10, 2), k=7)[1].tolist() == [[0, 1, 2, 3, 4, 5, 6]]
    assert nearest(torch.zeros(2, 2), torch.ones(0, 2))[1].tolist() == [[-1], [-1]]
    assert nearest(torch.zeros(0, 2), torch.ones(5, 2), k=2)[1].shape == (0, 2)


def test_clearance_and_distances():
    targets, pool = manifold(20, seed=1), manifold(300, seed=2)
    pool[0] = targets[3]
    table = true_distances(pool, targets)
    torch.testing.assert_close(clearance(pool, targets).double(), table.amin(1), rtol=1e-7, atol=0)
    assert clearance(pool, targets)[0] == 0
    torch.testing.assert_close(distances(pool, targets).double(), table, rtol=1e-7, atol=1e-4)
    assert torch.equal(distances(pool, targets)[1:] > 0, table[1:] > 0)
    far = distances(pool + 1000, targets + 1000).double()
    torch.testing.assert_close(far, true_distances(pool + 1000, targets + 1000), rtol=1e-6, atol=1e-4)
    assert clearance(pool[:0], targets).shape == (0,) and distances(pool[:0], targets).shape == (0, 20)


def test_indexes_agree_and_count_ids_on(search):
    points, queries = normal(60, 7, seed=1), normal(9, 7, seed=2)
    index = open_index(search) if search != "dci" else DCI(Setting(2, 3, lambda num_points: num_points))
    assert index.query(queries)[1].tolist() == [[-1]] * 9
    for part in points.split(25):
        index.add(part)
    for k in (1, 4, 70):
        distance, ids = index.query(queries, k)
        expected = nearest(queries, points, k)
        assert torch.equal(ids, expected[1]) and torch.equal(distance, expected[0])
        assert distance.dtype == torch.float32 and ids.dtype == torch.int64


# -- DCI --------------------------------------------------------------------------------------------------------------


def published_candidates(point_keys, query_keys, k0):
    """Return S_l of Prioritized DCI's query (arXiv 1703.00440, algorithm 2), one composite index, k1 unbounded.

    `point_keys[h][j]` and `query_keys[j]` are projections on u_jl. A sorted list stands for the search tree T_jl, two
    cursors for its walk outward from the query, and the queue hands out the nearest key first.
    """
    num_simple = len(query_keys)
    trees = [sorted((keys[j], h) for h, keys in enumerate(point_keys)) for j in range(num_simple)]
    above = [bisect_left(tree, (query_keys[j], -1)) for j, tree in enumerate(trees)]
    below = [cursor - 1 for cursor in above]
    queue, visits, chosen = [], [0] * len(point_keys), set()

    def push_next(j):
        tree, steps = trees[j], []
        if below[j] >= 0:
            steps.append((abs(tree[below[j]][0] - query_keys[j]), tree[below[j]][1], j, below, -1))
        if above[j] < len(tree):
            steps.append((abs(tree[above[j]][0] - query_keys[j]), tree[above[j]][1], j, above, 1))
        if steps:
            gap, h, _, cursor, step = min(steps, key=lambda option: option[:2])
            cursor[j] += step
            heapq.heappush(queue, (gap, h, j))

    for j in range(num_simple):
        push_next(j)
    while len(chosen) < min(k0, len(point_keys)):
        _, h, j = heapq.heappop(queue)
        push_next(j)
        visits[h] += 1
        if visits[h] == num_simple:
            chosen.add(h)
    return sorted(chosen)


@pytest.mark.parametrize("num_composite, num_simple, k0", [(1, 1, 5), (2, 7, 30), (4, 40, 50), (3, 2, 1), (2, 5, 500)])
def test_candidates_are_those_of_the_published_algorithm(num_composite, num_simple, k0, monkeypatch):
    monkeypatch.setattr(dci, "BLOCK_POINTS", 64)
    monkeypatch.setattr(dci, "TABLE_ELEMENTS", 700)
    index = DCI(Setting(num_composite, num_simple, lambda num_points: k0))
    points, queries = manifold(300, seed=1, dim=60), manifold(6, seed=2, dim=60)
    index.add(points)
    found = index.candidates(queries)  # (n, L, k0)
    assert found.shape == (6, num_composite, min(k0, 300))
    point_keys, query_keys = index.keys.numpy(), index.project(queries).numpy()  # float32, so the gaps round alike
    for i in range(len(queries)):
        for c in range(num_composite):
            assert found[i, c].tolist() == published_candidates(point_keys[c], query_keys[c, i], k0)


def test_dci_asks_the_priority_that_the_paper_states():
    index = DCI(Setting(2, 3, lambda num_points: 10))
    points, queries = manifold(200, seed=1, dim=50), manifold(4, seed=2, dim=50)
    index.add(points)
    directions = index.directions.view(50, 2, 3)
    torch.testing.assert_close(directions.norm(dim=0), torch.ones(2, 3))
    gaps = torch.einsum("dlj,npd->nplj", directions, queries[:, None] - points).abs().amax(-1)
    expected = gaps.topk(10, dim=1, largest=False).indices.sort(1).values.transpose(1, 2)  # (n, L, k0)
    assert torch.equal(index.candidates(queries), expected)


@pytest.mark.parametrize("make", [hostile_pool, lambda: (manifold(20, seed=1), manifold(500, seed=2))])
def test_dci_with_all_candidates_is_exact_whatever_the_tiles(make, monkeypatch):
    queries, points = make()
    expected = nearest(queries, points, 5)
    for table_elements in (2**22, 3000):
        monkeypatch.setattr(dci, "TABLE_ELEMENTS", table_elements)
        index = DCI(Setting(2, 2, lambda num_points: num_points))
        index.add(points)
        found = index.query(queries, 5)
        assert torch.equal(found[1], expected[1]) and torch.equal(found[0], expected[0])


def test_dci_ranks_truly_where_float32_sums_cannot(monkeypatch):
    queries, points = hostile_pool()
    rough, dim = dci.rough_distances, points.shape[1]
    monkeypatch.setattr(
        dci, "rough_distances", lambda *args: (values := rough(*args)) * (1 + (dim + 8) * 2**-24 * normal(len(values), seed=9).sign())
    )
    index = DCI(Setting(1, 2, lambda num_points: num_points))
    index.add(points)
    assert torch.equal(index.query(queries, 5)[1], nearest(queries, points, 5)[1])


def test_dci_takes_the_first_of_equal_points(monkeypatch):
    monkeypatch.setattr(dci, "BLOCK_POINTS", 8)
    index = DCI(Setting(2, 3, lambda num_points: 4))
    index.add(torch.ones(30, 5))
    assert index.candidates(torch.zeros(1, 5)).tolist() == [[[0, 1, 2, 3]] * 2]
    assert index.query(torch.zeros(2, 5), 6)[1].tolist() == [[0, 1, 2, 3, -1, -1]] * 2


def test_dci_is_a_function_of_its_generator():
    targets, pool = manifold(40, seed=1), manifold(2000, seed=2)
    matches = []
    for seed in (7, 7, 8):
        generator = torch.Generator().manual_seed(seed)
        matches.append(run(targets, pool.split(300), 0.0, "dci", generator=generator))
        assert torch.equal(generator.get_state(), torch.Generator().manual_seed(seed).get_state())
    assert_same(matches[0], matches[1])
    few = Setting(1, 2, lambda num_points: 20)
    found = []
    for seed in (7, 8):
        index = DCI(few, generator=torch.Generator().manual_seed(seed))
        index.add(pool)
        found.append(index.query(targets)[1])
    assert not torch.equal(*found)


@pytest.mark.parametrize("setting, floor", [("default", 0.97), ("paper", 0.9)])
def test_recall_of_dci_on_a_curved_manifold(setting, floor):
    points, queries = manifold(10_000, seed=1), manifold(100, seed=2)
    index = DCI(SETTINGS[setting], generator=torch.Generator().manual_seed(3))
    index.add(points)
    assert (index.query(queries)[1] == nearest(queries, points)[1]).float().mean() >= floor


# -- another library, as a stand-in ------------------------------------------------------------------------------------


class AuthorsDci:
    """Answers like dciknn_cuda.DCI: one add only, no more neighbours than points, ids as float32."""

    made = []

    def __init__(self, dim, num_comp_indices, num_simp_indices, bs=100, ts=10, device=0):
        assert ts == 1, "with more threads a block the library overwrites its results"
        self.points = None
        self.made.append(self)

    def add(self, points):
        assert self.points is None and points.is_contiguous() and torch.isfinite(points).all()
        self.points = points

    def query(self, queries, num_neighbours):
        assert 0 < num_neighbours <= len(self.points)
        ids = nearest(queries, self.points, num_neighbours)[1]
        return ids.float(), torch.full(ids.shape, math.nan)


@pytest.fixture
def stand_in(monkeypatch):
    library = ModuleType("dciknn_cuda")
    library.DCI = AuthorsDci
    monkeypatch.setitem(sys.modules, "dciknn_cuda", library)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return "dciknn_cuda"


def test_the_adapter_calls_its_library_rightly(stand_in):
    points, queries = normal(60, 7, seed=1, offset=1000), normal(9, 7, seed=2, offset=1000)
    index = open_index(stand_in)
    assert index.query(queries)[1].tolist() == [[-1]] * 9
    for part in points.split(25):
        index.add(part)
        index.query(queries)
    for k in (1, 4, 70):
        found, expected = index.query(queries, k), nearest(queries, points, k)
        assert torch.equal(found[1], expected[1]) and torch.equal(found[0], expected[0])


def test_the_adapter_rejects_exactly(stand_in):
    for targets, pool, epsilon in cases():
        one, other = run(targets, [pool], epsilon, stand_in), run(targets, [pool], epsilon)
        assert torch.equal(one[0], other[0])
        for name in ("index", "distance", "taken", "taken_distance"):
            assert torch.equal(vars(one[1])[name], vars(other[1])[name])


def test_dciknn_cuda_needs_a_gpu_and_few_enough_points(stand_in, monkeypatch):
    index = open_index(stand_in)
    monkeypatch.setattr(type(index), "MOST_POINTS", 9)
    with pytest.raises(UserError, match="choose imle.search=dci"):
        index.add(normal(10, 2))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a CUDA GPU"):
        open_index(stand_in)


def test_every_search_has_a_name():
    assert SEARCHES == ("exact", "dci", "dciknn_cuda")
    assert isinstance(open_index("exact"), ExactIndex) and isinstance(open_index("dci"), DCI)
