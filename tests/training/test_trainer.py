"""The method as the trainer runs it, on eight tiny images; commands and checkpoints are tested elsewhere."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import methods
from data import mirrored
from errors import UserError
from imle.targets import Targets
from methods import from_dict
from models.memory import memory_for
from models.pixels import to_float, to_uint8
from models.precision import PRECISIONS, SIXTEEN_BITS
from training import guard, learner, processes, rng
from training.ema import Ema
from training.graph import replays
from training.guard import Diverged
from training.scores import energy_distance
from training.settings import Train
from training.trainer import Trainer


def images(n=8, side=16):
    """Draw smooth uint8 images."""
    coarse = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear").to(torch.uint8)


NONE = torch.empty(0, 3, 16, 16, dtype=torch.uint8)  # held-out images
SWITCHES = [{"loss": {"stage_weight": 0.5}}]


def trainer(*, pixels=None, device="cpu", **sections) -> Trainer:
    settings = {
        "data": {"resolution": 16},
        "model": {"latent_dim": 8, "style_dim": 16, "mapping_layers": 1, "channels": [16, 16, 8], "blocks": [1, 1, 1]},
        "loss": {"perceptual": "pixels"},
        "imle": {"pool_factor": 4, "refresh_epochs": 2},
        "train": {"epochs": 20, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 3, "schedule": "constant"},
    }
    config = from_dict({section: {**settings.get(section, {}), **sections.get(section, {})} for section in {**settings, **sections}})
    pixels = images() if pixels is None else pixels
    made = Trainer(config, methods.make(config, pixels, device=torch.device(device)), len(pixels), data={}, device=torch.device(device))
    made.rows = []
    made.write_to(
        SimpleNamespace(position=lambda: 0, row=lambda kind, step, values, _: made.rows.append({"kind": kind, "step": step, **values}))
    )
    return made


def pull(made: Trainer) -> None:
    """Take a step without new matches."""
    made.method.pull(made.batch(made.step), made.step)
    made.step += 1


def train(made: Trainer, steps: int) -> list[list[float]]:
    """Take some steps; return every image's latest loss after each."""
    history = []
    for _ in range(steps):
        made.advance()
        history.append(made.method.losses.tolist())
    return history


@pytest.mark.parametrize("reject", ["none", "share"])
@pytest.mark.parametrize("match", ["every", "adaptive"])
def test_the_loss_falls(match, reject):
    history = train(trainer(imle={"match": match, "reject": reject, "refresh_epochs": 10}), 60)
    first, last = sum(history[1]), sum(history[-1])  # after one epoch, and after thirty
    assert last < 0.5 * first


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_the_loss_falls_past_the_paper_too(switch, precision):
    made = trainer(**switch, train={"precision": precision}, imle={"refresh_epochs": 10})
    history = train(made, 60)
    assert sum(history[-1]) < 0.6 * sum(history[1])
    assert all(p.grad.abs().max() > 0 and p.dtype == torch.float32 for p in made.method.learner.network.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("perceptual", ["pixels", "effnet-lite0"])
def test_cached_targets_give_the_losses_of_targets_embedded_at_each_step(perceptual, precision):
    """The weights stand still: targets that differ in the last bits may turn a weight's step, and bf16 shows that in a loss."""

    def losses(cache_gb):
        made = trainer(loss={"perceptual": perceptual, "cache_gb": cache_gb}, train={"precision": precision, "learning_rate": 1e-9})
        assert (made.method.targets.cached is None) == (cache_gb == 0)
        told = made.method.facts()["cached targets"]
        assert told.endswith("GB, more than 0.00 GB (loss.cache_gb=0.0): each step embeds its images again" if cache_gb == 0 else " GB")
        return torch.tensor(train(made, 4))

    torch.testing.assert_close(losses(0), losses(4.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("perceptual", ["pixels", "effnet-lite0"])
def test_a_match_s_distance_squared_is_its_training_loss(perceptual):
    made = trainer(imle={"features": "loss"}, train={"batch_size": 8}, loss={"perceptual": perceptual, "pixel_weight": 0.3})
    found, refresh = [], made.method.refresher.refresh
    made.method.refresher.refresh = lambda *args: found.append(refresh(*args)) or found[-1]
    train(made, 1)
    torch.testing.assert_close(made.method.losses, found[0].distance.square(), rtol=1e-4, atol=0)
    assert torch.equal(made.method.latents, found[0].latents)


def test_latents_and_losses_stay_with_their_images():
    made = trainer(pixels=images(7))
    made.method.latents.normal_(generator=torch.Generator().manual_seed(0))
    for _ in range(120):  # epochs of two steps in random order, the last batch of three
        pull(made)
    table = torch.cdist(made.method.embed_latents(made.method.latents), made.method.targets.features).square()
    assert torch.equal(table.argmin(dim=1), torch.arange(7))
    torch.testing.assert_close(table.diagonal(), made.method.losses, rtol=0.25, atol=0)


@pytest.mark.parametrize("n, batch_size", [(8, 4), (7, 3), (5, 8), (2, 1)])
def test_every_epoch_visits_every_image_and_its_last_batch_is_filled_up_from_the_first(n, batch_size):
    made = trainer(pixels=images(n), train={"batch_size": batch_size})
    assert made.steps_per_epoch == math.ceil(n / batch_size)
    orders = []
    for epoch in range(3):
        batches = [made.batch(epoch * made.steps_per_epoch + i).tolist() for i in range(made.steps_per_epoch)]
        assert all(len(batch) == len(set(batch)) == min(batch_size, n) for batch in batches)
        order = [image for batch in batches for image in batch]
        orders.append(order[:n])
        assert sorted(orders[-1]) == list(range(n)) and order[n:] == order[: len(order) - n]
    assert n == 2 or orders[0] != orders[1] != orders[2]


def test_refreshes_come_every_so_many_epochs_and_are_logged():
    made = trainer(imle={"refresh_epochs": 3})
    train(made, 13)
    assert [row["step"] for row in made.rows] == [0, 6, 12] and made.method.refreshes == 3
    assert all(row["kind"] == "refresh" and row["pool_seen"] == 32 for row in made.rows)


@pytest.mark.parametrize("loss", [{}, {"stage_weight": 0.5}])
def test_a_refresh_logs_the_losses_before_and_after_it_and_those_of_fresh_samples(loss):
    made = trainer(imle={"refresh_epochs": 3}, loss={"perceptual": "pixels", **loss})
    everyone, targets = torch.arange(8), made.method.targets
    for _ in range(2):
        train(made, 5)
        before = made.method.losses.mean().item()
        made.method.rematch(made.step + 1)
        row = made.rows[-1]
        assert row["loss_before"] == before
        assert row["loss_after"] == pytest.approx(made.method.loss(everyone, made.method.latents)[1].mean().item(), rel=1e-4)
        pool = made.method.embed_latents(rng.pool_latents(0, made.method.refreshes - 1, 0, 32, 8))
        assert row["loss_fresh"] == pytest.approx(torch.cdist(pool, targets.features).amin(dim=1).square().mean().item(), rel=1e-4)
        train(made, 1)
    assert "loss_before" not in made.rows[0]


def test_the_matches_are_shown_and_scored_beside_their_images():
    made = trainer(train={"epochs": 40})
    images, method = made.method.targets.images, made.method
    train(made, 1)
    sheets, first = method.watch(8, NONE)
    assert torch.equal(sheets["matches"][::2], images) and torch.equal(sheets["matches"][1::2], to_uint8(method.generator(method.latents)))
    train(made, 100)
    _, later = method.watch(8, NONE)
    assert later["matched_energy_distance"] < first["matched_energy_distance"] and later["matched_detail"] > first["matched_detail"]
    each = iter(to_float(images).split(1))
    method.generator.forward = lambda z, dtype=None: next(each)  # every match equals its image
    assert method.watch(8, NONE)[1] == {"matched_energy_distance": energy_distance(method.features, method.features), "matched_detail": 1}


@pytest.mark.parametrize("change", [{"normalise": True}, {"features": "pixels"}])
def test_distances_that_are_not_the_loss_are_not_logged_as_losses(change):
    made = trainer(imle=change)
    train(made, 5)
    assert made.rows and not any({"loss_after", "loss_fresh"} & row.keys() for row in made.rows)


def test_perturbation_is_noise_of_the_step_on_the_matched_latents():
    made = trainer(imle={"perturbation": 0.5})
    given = []
    made.method.generator.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    made.method.latents.normal_(generator=torch.Generator().manual_seed(0))
    pull(made), pull(made)
    noise = [given[step] - made.method.latents[made.batch(step)] for step in range(2)]
    for step in range(2):
        torch.testing.assert_close(noise[step], 0.5 * rng.normal((4, 8), 0, "perturb", step), rtol=0, atol=1e-6)
    assert not torch.equal(*noise)
    once, again, without = (train(trainer(imle={"perturbation": p}), 5) for p in (0.5, 0.5, 0.0))
    assert once == again != without


def test_the_average_follows_its_recurrence():
    module = torch.nn.Linear(2, 2)
    ema, weights = Ema(module, 0.9), [module.weight.detach().clone()]
    expected = weights[0].double()
    for step in range(120):
        with torch.no_grad():
            module.weight.normal_()
        ema.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
        torch.testing.assert_close(ema.module.weight.double(), expected, rtol=1e-4, atol=1e-6)
    assert decay == 0.9 and not any(p.requires_grad for p in ema.module.parameters())


def test_the_average_has_the_latest_buffers():
    module = torch.nn.BatchNorm1d(3)
    ema = Ema(module, 0.9)
    for step in range(3):
        module(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)) + 5)
        ema.update(module, step)
        assert module.running_mean.min() > 0.3 and module.num_batches_tracked == step + 1
        assert all(map(torch.equal, ema.module.buffers(), module.buffers()))
    module.reset_running_stats()
    assert ema.module.running_mean.min() > 0.3  # they are copies


def test_the_trainer_averages_after_each_update():
    made = trainer(train={"ema_decay": 0.5})
    before = made.method.learner.ema.module.to_rgb.weight.clone()
    train(made, 1)
    torch.testing.assert_close(made.method.learner.ema.module.to_rgb.weight, 0.1 * before + 0.9 * made.method.generator.to_rgb.weight)


def test_learning_rates():
    settings = {"epochs": 10, "batch_size": 4, "learning_rate": 1.0, "warmup_steps": 4}  # 20 steps of 8 images
    constant = trainer(train={**settings, "schedule": "constant"}).method.learner.learning_rate
    assert [constant(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    cosine = trainer(train={**settings, "schedule": "cosine"}).method.learner.learning_rate
    assert [cosine(10), cosine(20)] == pytest.approx([0.5, 0])
    assert cosine(2) == pytest.approx(0.6 * (1 + math.cos(math.pi / 10)) / 2)
    assert 0 < cosine(19) < 0.01
    step = trainer(train={**settings, "schedule": "step", "decay_epochs": 3, "decay_factor": 0.5}).method.learner.learning_rate
    assert [step(k) for k in (5, 6, 11, 12, 18)] == [1, 0.5, 0.5, 0.25, 0.125]
    made = trainer(train={**settings, "warmup_steps": 0})
    train(made, 1)
    assert made.method.learner.optimizer.param_groups[0]["lr"] == 1.0


@pytest.mark.parametrize("precision", SIXTEEN_BITS)
def test_sixteen_bits_run_close_to_float32(precision):
    exact, losses = (torch.tensor(train(trainer(train={"precision": name}), 3)) for name in ("fp32", precision))
    assert not torch.equal(losses, exact)
    torch.testing.assert_close(losses, exact, rtol=0.1, atol=0)
    made = trainer(train={"precision": precision})
    assert made.method.embed_latents(torch.randn(2, 8)).dtype == torch.float32
    train(made, 1)
    assert all(p.dtype == torch.float32 for p in [*made.method.generator.parameters(), *made.method.learner.ema.module.parameters()])


def test_on_a_cpu_tf32_is_float32():
    assert train(trainer(train={"precision": "tf32"}), 3) == train(trainer(train={"precision": "fp32"}), 3)


def test_the_loss_scale_leaves_no_trace(monkeypatch):
    monkeypatch.setitem(learner.LOSS_SCALE, "fp32", 2.0**12)
    runs = [trainer(loss={"stage_weight": 0.5}, train={"precision": precision, "clip": 2.0}) for precision in ("fp32", "tf32")]
    assert runs[0].method.learner.guard.scale == 2**12
    for made in runs:
        train(made, 6)
    assert all(torch.equal(a, b) for a, b in zip(*(made.method.generator.parameters() for made in runs)))


def overflowing(made, when):
    """Make the loss of the trainer infinite at the steps in `when`."""
    embedding = made.method.embedding
    made.method.embedding = lambda images: [level * (float("inf") if made.step in when else 1) for level in embedding(images)]
    return made


def test_a_step_that_overflows_is_left_out_and_the_loss_scale_halved():
    made = overflowing(trainer(train={"precision": "fp16", "clip": 2.0}), {3, 4})
    train(made, 3)
    before = [p.detach().clone() for p in made.method.generator.parameters()]
    usual = made.method.learner.clipping.usual.clone()
    train(made, 2)
    assert all(torch.equal(old, p) for old, p in zip(before, made.method.generator.parameters()))
    assert torch.equal(made.method.learner.clipping.usual, usual)
    assert made.method.learner.guard.scale == 2**10
    assert torch.tensor(train(made, 4)[-1]).isfinite().all()
    assert not any(torch.equal(old, p) for old, p in zip(before, made.method.generator.parameters()))

    other = trainer(train={"precision": "fp16", "clip": 2.0})
    other.load_state(copy.deepcopy(made.state()))
    assert other.method.learner.guard.scale == 2**10
    assert train(other, 4) == train(made, 4)
    exact = trainer(train={"precision": "fp32", "clip": 2.0})
    exact.load_state(made.state())
    back = trainer(train={"precision": "fp16", "clip": 2.0})
    back.load_state(exact.state())
    assert exact.method.learner.guard.scale == 1 and back.method.learner.guard.scale == 2**12


def test_a_halved_loss_scale_grows_again_up_to_its_first_value(monkeypatch):
    monkeypatch.setattr(guard, "GROWTH", 4)
    made, scales = overflowing(trainer(train={"precision": "fp16"}), {1, 2, 5}), []
    for _ in range(16):
        train(made, 1)
        scales.append(math.log2(made.method.learner.guard.scale))
    assert scales == [12, 11, 10, 10, 11, 10, 10, 10, 11, 11, 11, 11, 12, 12, 12, 12]


def test_a_run_whose_every_step_overflows_stops():
    made = overflowing(trainer(train={"precision": "fp16"}), range(2, 99))
    with pytest.raises(UserError, match="the loss or its gradient is not finite at step 14, .*or set train.precision=tf32"):
        train(made, 99)


@pytest.mark.parametrize("precision", SIXTEEN_BITS)
def test_the_precision_is_that_of_the_pool_too(precision):
    latents = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    pools = [trainer(train={"precision": name}).method.embed_latents(latents) for name in ("fp32", precision)]
    assert not torch.equal(*pools)
    torch.testing.assert_close(*pools, rtol=0.1, atol=0.01)
    assert all(pool.dtype == torch.float32 and not pool.requires_grad for pool in pools)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_and_pools_take_the_products_that_the_precision_names_and_all_else_true_float32(precision):
    """A CPU has no TF32, so this reads the switches that a GPU would obey, while the networks run."""
    made, seen = trainer(train={"precision": precision}), []
    method = made.method

    def read(*_):
        seen.append((torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision))

    def modes(job):
        seen.clear()
        job()
        return {*seen}

    for network in (method.generator, method.learner.ema.module, method.embedding):
        network.register_forward_pre_hook(read)
    before = modes(read)
    named = "ieee" if precision == "fp32" else "tf32"
    assert modes(lambda: pull(made)) == modes(lambda: method.embed_latents(torch.randn(2, 8))) == {(named, named)}
    true = {("ieee", "ieee")}
    assert modes(lambda: method.draw([0])) == modes(lambda: method.watch(2, NONE)) == modes(lambda: method.embed(images(2))) == true
    assert modes(lambda: Targets(images(2), method.embedding, method.search_features, "auto")) == true
    assert modes(read) == before


@pytest.mark.parametrize("precision", PRECISIONS)
def test_samples_and_the_features_that_score_them_are_in_true_float32(precision):
    made, exact = trainer(train={"precision": precision}), trainer(train={"precision": "fp32"})
    assert torch.equal(made.method.draw([0, 1]), exact.method.draw([0, 1]))
    assert torch.equal(made.method.features, exact.method.features)


@pytest.mark.parametrize("switch", [{"loss": {"perceptual": "pixels"}}, {"loss": {"perceptual": "effnet-lite0"}}, *SWITCHES], ids=str)
@pytest.mark.parametrize("micro_batch", [1, 3, 4, 100])
def test_a_batch_in_parts_has_the_losses_and_the_gradient_of_the_whole(micro_batch, switch, float64):
    """In float64, as biases before an instance norm have gradients that cancel: in float32 their rounding is up to 1e-5 of them."""
    whole, parts = (trainer(pixels=images(7), **switch, train={"batch_size": 5, "micro_batch": size}) for size in (0, micro_batch))
    for one in (whole, parts):
        one.method.latents.normal_(generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # batches of five and of two
        pull(whole), pull(parts)
        torch.testing.assert_close(parts.method.losses, whole.method.losses, rtol=2.0**-22, atol=0)  # they are told in float32
        for ours, theirs in zip(parts.method.learner.network.parameters(), whole.method.learner.network.parameters()):
            assert (ours.grad - theirs.grad).abs().max() <= 1e-9 * theirs.grad.abs().max() > 0


def test_only_the_networks_of_a_step_are_compiled(monkeypatch):
    called = []

    def stand_in(network, dynamic):
        assert dynamic is False
        return lambda inputs, *dtype: called.append((network, inputs.requires_grad)) or network(inputs, *dtype)

    monkeypatch.setattr(torch, "compile", stand_in)
    plain = train(trainer(), 3)
    assert not called
    made = trainer(train={"compile": True})
    targets, pool = made.method.targets.embedding, made.method.search_features.embedding
    assert train(made, 3) == plain
    assert [network for network, _ in called] == 3 * [made.method.generator, pool] and pool is targets


def test_each_network_is_compiled_once(monkeypatch):
    """A last batch of another size, or a size that torch takes for a variable, would compile them again."""
    counter, compile = CompileCounterWithBackend("eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda network, **how: compile(network, backend=counter, **how))
    made = trainer(pixels=images(7), train={"batch_size": 3, "compile": True}, loss={"perceptual": "effnet-lite0"})
    plain = trainer(pixels=images(7), train={"batch_size": 3}, loss={"perceptual": "effnet-lite0"})
    assert train(made, 9) == train(plain, 9)
    assert counter.frame_count == 2 and all(
        isinstance(size, int)
        for graph in counter.graphs
        for node in graph.graph.nodes
        for value in [node.meta.get("example_value")]
        for size in getattr(value, "shape", ())
    )


def test_what_cannot_be_compiled_is_one_line(monkeypatch):
    def broken(network, dynamic):
        def run(*inputs):
            raise torch._dynamo.exc.InternalTorchDynamoError("no C++ compiler\n  was found")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    made = trainer(train={"compile": True})
    with pytest.raises(UserError, match=r"^train.compile: .*no C\+\+ compiler was found.*; set train.compile=false$"):
        made.advance()


def test_a_step_that_is_not_finite_changes_nothing_until_it_is_told():
    """As on a GPU, which is asked at the end of an epoch only."""
    made = trainer()
    made.method.learner.guard.at_once = False
    train(made, 3)
    before = [p.detach().clone() for p in made.method.generator.parameters()]
    moments = [value.clone() for state in made.method.learner.optimizer.state.values() for value in state.values()]
    overflowing(made, {3})
    for step in range(3, 6):
        made.advance()
        with pytest.raises(Diverged, match="the loss or its gradient is not finite at step 3$"):
            made.method.check(made.step)
        assert made.step == step + 1
        assert all(torch.equal(a, b) for a, b in zip(before, made.method.generator.parameters()))
        assert all(map(torch.equal, moments, [value for state in made.method.learner.optimizer.state.values() for value in state.values()]))
    assert all(p.isfinite().all() for p in made.method.learner.ema.module.parameters())
    for told in (lambda: made.end_epoch(0.0, 0.0, None), lambda: made.save("last"), made.check):
        with pytest.raises(UserError, match="the loss or its gradient is not finite at step 3, "):
            told()


@pytest.mark.parametrize(
    "settings, kind, count, expected",
    [
        ({}, "cuda", 1, True),
        ({}, "cpu", 1, False),
        ({}, "cuda", 2, False),
        ({"compile": True}, "cuda", 1, False),
        ({"cuda_graph": False}, "cuda", 1, False),
    ],
)
def test_steps_are_replayed_on_one_gpu_unless_they_are_compiled(settings, kind, count, expected, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: count)
    assert replays(Train(**settings), torch.device(kind)) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"train": {"micro_batch": 3}}, {"train": {"precision": "bf16"}}, {"train": {"clip": 2.0}}, *SWITCHES], ids=str
)
def test_a_step_does_not_wait_for_the_gpu(settings, graph):
    settings = {**settings, "train": settings.get("train", {}) | {"cuda_graph": graph}}
    made = trainer(imle={"perturbation": 0.1, "refresh_epochs": 99}, **settings, device="cuda")
    train(made, 2)  # the first step sets up libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):  # into the next epoch, whose order is new; no refresh
            made.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    made.check(weights=True)
    assert made.method.losses.isfinite().all()


def test_mirror_images_are_images_of_their_own():
    pixels = mirrored(images())
    made = trainer(pixels=pixels)
    assert made.n == 16 and made.steps_per_epoch == 4 and made.method.refresher.pool_size == 64
    assert made.method.latents.shape == (16, 8)
    assert torch.equal(made.method.targets.images[8:].flip(3), made.method.targets.images[:8])
    train(made, 4)
    assert (made.method.losses > 0).all()


@pytest.mark.parametrize("search", ["exact", "dci"])
@pytest.mark.parametrize(
    "settings",
    [
        {"features": "pixels", "sketch_dim": 20, "normalise": True, "reject": "fixed", "epsilon": 0.1},
        {"features": "effnet-lite0", "sketch_dim": 64},
        {"reject": "quantile"},
        {"pool_factor": 0.3},
        {"reject": "fixed", "epsilon": 1e6},
        {"match": "adaptive", "reject": "none", "staleness": 1, "force_resample": 2},
        {"match": "adaptive", "reject": "share", "rejected_fraction": 0.3, "staleness": 1, "force_resample": 2},
        {"match": "adaptive", "reject": "quantile", "staleness": 1, "force_resample": 2},
    ],
)
def test_every_kind_of_refresh_trains(settings, search):
    made = trainer(imle={"search": search, **settings})
    train(made, 6)
    assert made.method.latents.abs().sum(dim=1).min() > 0 and (made.method.losses > 0).all()
    assert all(math.isfinite(value) for row in made.rows for value in row.values() if not isinstance(value, str))


def test_two_images_are_enough():
    for settings in ({"reject": "none"}, {}, {"match": "adaptive", "reject": "none"}, {"reject": "rank"}):
        train(trainer(pixels=images(2), imle=settings), 6)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
    ids=type,
)
@pytest.mark.parametrize(
    "job, told",
    [
        ("embed_latents", "the pool: lower imle.pool_batch (now 64)"),
        ("pull", "a training step: set train.micro_batch=2 (a step then takes 2 images at once"),
        ("draw_and_score", "the sheets and the score: lower log.num_scored (now 100)"),
    ],
)
def test_out_of_memory_names_the_setting_to_lower(job, told, error, monkeypatch):
    def full(*_):
        raise error

    made = trainer()
    if job != "draw_and_score":
        monkeypatch.setattr(made, "draw_and_score", lambda: {"energy_distance": math.inf})
    monkeypatch.setattr(made if job == "draw_and_score" else made.method, job, full)
    with pytest.raises(UserError) as caught:
        made.run(made.log)
    assert str(caught.value).startswith(f"out of memory for {told}") and "\n" not in str(caught.value)


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    made = trainer()
    monkeypatch.setattr(made, "draw_and_score", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made.run(made.log)
    with pytest.raises(RuntimeError, match="shapes"), memory_for("a job", "nothing"):
        raise RuntimeError("shapes differ")
