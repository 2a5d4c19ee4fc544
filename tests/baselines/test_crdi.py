"""CRDI against the descent that it replaces, plain DDIM, and a denoiser whose fault is known."""

from itertools import pairwise

import pytest
import torch

import methods
from baselines.denoiser import Denoiser
from baselines.guidance import Guided, closed_form, draw_guided, factors
from baselines.sde import diffusion_of, noised, wide
from baselines.solvers import clean, ddim, ddim_step, times
from errors import UserError
from methods import load_config
from models.pixels import to_float
from models.unet import architecture
from training import checkpoint, rng
from training.settings import to_dict
from training.trainer import Trainer

CPU = torch.device("cpu")
SIDE = 8
WORDS = [f"data.resolution={SIDE}", "train.batch_size=3", "crdi.steps=6", "crdi.window=[5,2]", "method=crdi"]


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear").to(torch.uint8)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Write an export of a denoiser with random weights that predicts too much noise."""
    config = load_config(None, ["method=score-sde", f"data.resolution={SIDE}", "denoiser.channels=[32]"])
    torch.manual_seed(0)
    unet = architecture(SIDE, [32], exploding=False)
    network = Denoiser(unet, diffusion_of("vp", 0.0))
    network.unet.conv_out.bias.data += torch.tensor([1.0, -0.5, 0.3])
    path = tmp_path_factory.mktemp("prior") / "prior.pt"
    sampled = {"unet": unet, "weights": network.state_dict(), "prior": None}
    checkpoint.save({"config": to_dict(config), "data": {}, "step": 0, "selected_by": None, "sampled": sampled}, path)
    return path


def found(images, prior, passes: int, *words: str):
    """Return CRDI after so many passes over the images."""
    config = load_config(None, [*WORDS, f"crdi.prior={prior}", f"train.epochs={passes}", *words])
    method = methods.make(config, images, device=CPU)
    trainer = Trainer(config, method, len(images), data={}, device=CPU)
    for _ in range(passes):
        trainer.advance()
    return method


ADAM = ["crdi.solver=adam", "train.learning_rate=0.05", "train.weight_decay=0", "train.warmup_steps=0", "train.ema_decay=0.9"]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_closed_form_is_where_a_long_descent_ends(images, prior, weight):
    closed, adam = (found(images, prior, 300, f"crdi.weight={weight}", *words) for words in ((), ADAM))
    for number in range(3):
        ours, theirs = (method.guidance()[:, number].flatten() for method in (closed, adam))
        assert torch.cosine_similarity(ours, theirs, dim=0) > 0.99
        assert (ours - theirs).norm() < 0.1 * ours.norm()


def test_the_closed_form_is_least(images, prior):
    """Its loss, over the noises that were seen, is lower than that of any neighbour."""
    torch.manual_seed(0)
    rho, k, weight = torch.randn(4, 2, 3, 2, 2, dtype=torch.float64), torch.tensor([0.7, 3.0], dtype=torch.float64), 0.6
    best = closed_form(rho, k, weight).requires_grad_()
    apart = weight * (best - best.mean(dim=0)).square()
    loss = ((rho - best).square() * k[:, None, None, None] + apart).sum()
    (gradient,) = torch.autograd.grad(loss, best)
    assert gradient.abs().max() < 1e-12


def test_factors_are_what_guidance_adds():
    diffusion, (t, after) = diffusion_of("vp", 0.0), torch.tensor([0.6, 0.4], dtype=torch.float64)
    x, eps, guidance = torch.randn(3, 1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    c1, c2 = factors(diffusion, t, after)
    changed = eps - diffusion.sigma(t) * guidance
    torch.testing.assert_close(clean(lambda *_: changed, diffusion, x, t) - clean(lambda *_: eps, diffusion, x, t), c1 * guidance)
    torch.testing.assert_close(ddim_step(diffusion, x, changed, t, after) - ddim_step(diffusion, x, eps, t, after), c2 * guidance)


def test_without_guidance_a_sample_is_ddim_from_the_noised_image_to_the_last_bit(images, prior):
    method = found(images, prior, 1)
    network, shape = method.network, (3, SIDE, SIDE)
    guided = Guided(images, torch.zeros_like(method.guidance()), 6, 1, "own", 0.0)
    target = int(torch.randint(3, (), generator=rng.generator(7, "crdi target")))
    grid = times(6, torch.zeros(()))[1:]
    with torch.inference_mode():
        x = noised(network.diffusion, to_float(images[[target]]), grid[:1], rng.normal(shape, 7, "crdi start")[None])
        plain = clean(network, network.diffusion, ddim(network, network.diffusion, x, grid, clip=True), grid[-1])
    assert torch.equal(draw_guided(network, guided, [7], CPU), plain)
    assert not torch.equal(draw_guided(network, guided._replace(guidance=method.guidance()), [7], CPU), plain)


class Normal:
    """The exact denoiser of normal numbers around -0.5, a domain far from the images."""

    diffusion = diffusion_of("vp", 0.0)

    def __call__(self, x, t):
        alpha, sigma = wide(self.diffusion.alpha(t)), wide(self.diffusion.sigma(t))
        return sigma * (x + 0.5 * alpha) / ((0.3 * alpha).square() + sigma.square())


def test_guidance_leads_back_to_the_images():
    """A sample is an image of the domain without guidance, and near its target, a coloured card, with it."""
    network, images = Normal(), torch.zeros(3, 3, SIDE, SIDE, dtype=torch.uint8)
    images[:, 0, :4], images[:, 1, :, 4:], images[:, 2, 4:, 4:] = 220, 180, 250
    start = Guided(images, torch.zeros(3, 25, 3, SIDE, SIDE), 25, 0, "own", 0.0)
    guidance = []
    for t, after in pairwise(start.grid()):
        x = network.diffusion.alpha(t) * to_float(images)  # the mean of the noised images; this denoiser is linear
        c1, _ = factors(network.diffusion, t, after)
        guidance.append((to_float(images) - clean(network, network.diffusion, x, t)) / c1)
    guided = start._replace(guidance=torch.stack(guidance, dim=1))
    # What is left varies as the domain does; the mean of samples is their target's.
    far, near = (
        (draw_guided(network, each, list(range(30)), CPU).mean(dim=0) - to_float(images[0])).square().mean() for each in (start, guided)
    )
    assert far > 0.5 and near < 0.01


def test_select_and_anneal_change_samples_and_a_seed_stays_one_picture(images, prior):
    method = found(images, prior, 2)
    own = Guided(images, method.guidance(), 6, 1, "own", 0.0)
    drawn = {
        name: draw_guided(method.network, guided, [3, 5], CPU)
        for name, guided in {"own": own, "shuffle": own._replace(select="shuffle"), "anneal": own._replace(anneal=1.0)}.items()
    }
    assert not torch.equal(drawn["own"], drawn["shuffle"]) and not torch.equal(drawn["own"], drawn["anneal"])
    for name, guided in {"shuffle": own._replace(select="shuffle"), "anneal": own._replace(anneal=1.0)}.items():
        assert torch.equal(draw_guided(method.network, guided, [5], CPU), drawn[name][1:])


@pytest.mark.parametrize(
    "words, said",
    [
        (["crdi.prior="], "^crdi.prior: name a trained denoiser"),
        (["crdi.window=[2,5]"], r"^crdi.window: expected two falling numbers up to crdi.steps=6, such as \[20,5\], found \[2, 5\]"),
        (["crdi.window=[7,5]"], "^crdi.window: expected two falling numbers up to crdi.steps=6"),
        (["crdi.window=[5]"], "^crdi.window: expected two falling numbers"),
        (["crdi.prior=nowhere"], "^prior: there is no nowhere nor .*nowhere.pt; give a run, checkpoint or export of score-sde"),
    ],
)
def test_settings_that_make_no_sense_are_refused(images, prior, words, said, monkeypatch):
    monkeypatch.delenv("RS_IMLE_WEIGHTS", raising=False)
    with pytest.raises(UserError, match=said):
        found(images, prior, 1, *words)


@pytest.mark.parametrize("kind", ["vp", "subvp", "ve"])
def test_any_diffusion_is_guided(kind, images, prior, tmp_path):
    """A denoiser with a constant fault misses less with guidance; NCSN++'s random weights have no such fault to put right."""
    state = checkpoint.load(prior)
    state["config"]["sde"]["kind"] = kind
    if kind == "ve":
        network = Denoiser(architecture(SIDE, [32], exploding=True), diffusion_of("ve", 50.0))
        state["sampled"] |= {"unet": architecture(SIDE, [32], exploding=True), "weights": network.state_dict()}
    checkpoint.save({key: value for key, value in state.items() if key != "format"}, tmp_path / "other.pt")
    method = found(images, tmp_path / "other.pt", 40)
    assert method.guidance().isfinite().all() and method.draw([1, 2]).isfinite().all()
    if kind != "ve":
        assert method.numbers(40)["loss"] < found(images, tmp_path / "other.pt", 1).numbers(1)["loss"]


def test_what_is_not_finite_is_not_saved(images, prior):
    method = found(images, prior, 1)
    method.network.unet.conv_out.bias.data.fill_(float("nan"))
    method.step(torch.arange(3), 1)
    with pytest.raises(Exception, match="a predicted image is not finite at step 2"):
        method.check(2)


def test_a_run_and_its_samples_refuse_another_prior(images, prior, tmp_path):
    path = tmp_path / "prior.pt"
    path.write_bytes(prior.read_bytes())
    method = found(images, path, 1)
    config, sampled, state = to_dict(method.config), method.sampled(), method.state_dict()
    changed = checkpoint.load(path)
    changed["sampled"]["weights"]["unet.conv_out.bias"] += 1
    checkpoint.save({key: value for key, value in changed.items() if key != "format"}, path)
    for job in (
        lambda: found(images, path, 1).load_state_dict(state, sampled),
        lambda: methods.open_drawing({"config": config, "sampled": sampled}, CPU),
    ):
        with pytest.raises(UserError, match="^prior: .* is another model than it was; put back the one with sha256 "):
            job()
