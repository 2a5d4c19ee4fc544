"""Training on transparent images: the loss sees colours and opacity apart, over colours that say nothing."""

import pytest
import torch

from errors import UserError
from imle.method import Imle
from methods import load_config, open_sampler
from models.perceptual import load_embedding, squared_distance
from models.pixels import coloured, over, to_float, to_uint8
from training import checkpoint
from training.drawing import flattened
from training.settings import to_dict

TINY = [
    "data.channels=rgba",
    "data.resolution=16",
    "loss.perceptual=pixels",
    "model.latent_dim=8",
    "model.style_dim=8",
    "model.channels=[16,16,8]",
    "model.blocks=[1,1,1]",
    "train.warmup_steps=0",
    "train.learning_rate=1e-2",
]


def discs(count=4, side=16):
    """Return blue discs of several sizes with a soft edge, uint8 (count, 4, side, side), premultiplied."""
    rows = torch.arange(side) - side / 2 + 0.5
    far = (rows[:, None] ** 2 + rows**2).sqrt()
    opacity = torch.stack([(4 + i - far).clamp(0, 1) for i in range(count)])[:, None]
    return torch.cat([opacity * 0.1, opacity * 0.2, opacity * 0.9, opacity], dim=1).mul(255).round().to(torch.uint8)


def method(*words, images=None):
    made = Imle(load_config(None, [*TINY, *words]), discs() if images is None else images, device=torch.device("cpu"))
    made.log = lambda *row: None
    return made


def test_a_fringe_that_one_background_hides_costs_over_others():
    """The edge of `fringed` has white in its colours, as if cut out of a white page: over white it looks right."""
    image = to_float(discs()[:1])
    opacity = (image[:, 3:] + 1) / 2
    soft = (opacity > 0) & (opacity < 1)
    fringed = torch.where(soft, torch.cat([coloured(image, torch.ones(3)), torch.ones_like(opacity)], dim=1), image)
    embed, white, red = load_embedding("pixels"), torch.ones(1, 3), torch.tensor([[1.0, -1, -1]])

    def apart(background):
        return squared_distance(embed(fringed, background), embed(image, background)).item()

    assert soft.any()
    assert apart(white) < 1e-12 and apart(red) > 0.01


def test_the_loss_of_the_right_image_is_zero_over_every_background_and_its_gradient_reaches_every_channel(monkeypatch):
    learner = method()
    index, backgrounds = torch.arange(4), torch.rand(4, 3) * 2 - 1
    right = to_float(learner.targets.images)
    monkeypatch.setattr(learner.learner, "forward", lambda z, dtype: right)
    assert learner.loss(index, torch.zeros(4, 8), backgrounds)[0].max() < 1e-12
    drawn = (right + 0.1).requires_grad_()
    monkeypatch.setattr(learner.learner, "forward", lambda z, dtype: drawn)
    learner.loss(index, torch.zeros(4, 8), backgrounds)[0].sum().backward()
    assert drawn.grad.abs().amax(dim=(2, 3)).min() > 0


def test_backgrounds_differ_by_step_and_image_and_depend_on_the_seed_alone(monkeypatch):
    seen = []
    for learner in (method(), method(), method("seed=1")):
        monkeypatch.setattr(learner.learner, "step", lambda batch, loss, step: (seen.append(batch[2]), torch.zeros(4))[1])
        for step in (5, 6):
            learner.pull(torch.arange(4), step)
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[4])
    assert all(len(batch.unique(dim=0)) == 4 and batch.abs().max() <= 1 and batch.std() > 0.3 for batch in seen)


def test_micro_batches_and_a_cache_change_nothing():
    whole, parts = method("loss.cache_gb=4"), method("train.micro_batch=3", "loss.cache_gb=0")
    assert whole.targets.cached is None
    for learner in (whole, parts):
        for step in range(3):
            learner.step(torch.arange(4), step)
    torch.testing.assert_close(whole.losses, parts.losses, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("background", ["white", "red"])
def test_samples_of_blue_discs_are_blue_to_their_edge_whatever_the_background(background):
    learner = method(f"data.background={background}", "loss.pixel_weight=0", "train.epochs=150", "imle.refresh_epochs=150")
    for step in range(150):
        learner.step(torch.arange(4), step)
    samples = to_uint8(learner.generator(learner.latents).detach()).double()
    colours, opacity = samples[:, :3], samples[:, 3]
    edge = (opacity > 64) & (opacity < 224)
    assert edge.sum() > 40
    found = colours.movedim(1, 0)[:, edge].sum(dim=1) / opacity[edge].sum() * 255
    assert (found - torch.tensor([25.5, 51, 229.5])).abs().max() < 40  # with one background for all steps more than 180


def test_search_features_see_images_over_the_background_of_the_settings():
    images = discs()
    for background, colour in (("white", (255, 255, 255)), ("#102030", (16, 32, 48))):
        learner = method(f"data.background={background}", "imle.features=pixels")
        assert torch.allclose(learner.features, to_float(over(images, colour)).flatten(1) / 768**0.5, atol=2e-4)  # `over` rounds to levels


def test_the_stages_draw_all_channels():
    learner = method("loss.stage_weight=0.5")
    assert [stage.shape[1] for stage in learner.learner.network(torch.zeros(2, 8))] == [4, 4, 4]
    learner.step(torch.arange(4), 0)
    assert learner.losses.isfinite().all()


def test_a_run_of_another_kind_gives_all_but_its_colours():
    trained = method("data.channels=rgb", images=discs()[:, :3])
    fates = method().start({"config": to_dict(trained.config), "sampled": trained.sampled()})
    assert fates.pop("to_rgb") == "new" and set(fates.values()) == {"taken"}


def test_scores_see_samples_as_they_look_over_the_background(tmp_path):
    learner = method("data.background=#204060")
    state = {"config": to_dict(learner.config), "data": {"fingerprint": "", "names": [], "heldout": []}, "step": 0}
    checkpoint.save(state | {"sampled": learner.sampled()}, tmp_path / "x.pt")
    sampler = open_sampler(tmp_path / "x.pt")
    flat = flattened(sampler)
    seen = over(sampler.images(range(5)), (32, 64, 96))
    assert torch.equal(flat.images(range(5)), seen) and sampler.images([0]).shape[1] == 4
    z = sampler.latents([0, 1]).requires_grad_()
    drawn = flat.drawing.generator(z)  # what backtracking descends through; not clipped
    torch.testing.assert_close(drawn, coloured(sampler.generator(z), to_float(torch.tensor([32, 64, 96]))))
    drawn.sum().backward()
    assert z.grad.abs().max() > 0
    sampler.generator.to_rgb.bias.data.fill_(torch.nan)
    with pytest.raises(UserError, match="gives images that are not finite"):
        flat.images([0])


@pytest.mark.parametrize("name", ["fastgan", "score-sde", "crdi"])
def test_a_method_that_draws_rgb_only_says_so(name):
    words = {"fastgan": [], "score-sde": ["denoiser.channels=[32]"], "crdi": ["crdi.prior=x"]}[name]
    for channels in ("rgba", "grey"):
        with pytest.raises(UserError, match=f"^data.channels: method={name} draws rgb only; use that, or method=imle for {channels}$"):
            load_config(None, [f"method={name}", f"data.channels={channels}", *words])
