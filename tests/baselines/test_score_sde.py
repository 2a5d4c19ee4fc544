"""The denoiser, its priors and the early stop of score-sde."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import methods
import train
from baselines.denoiser import Denoiser, draw
from baselines.prior import find_prior
from baselines.sde import KINDS, diffusion_of, noised
from data import load_images
from errors import MissingWeights, UserError
from methods import load_config, open_sampler
from models.pixels import to_float
from models.unet import architecture
from training import checkpoint
from training.sheets import save_png
from training.trainer import Trainer

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
WORDS = ["method=score-sde", "data.resolution=8", "denoiser.channels=[32]", "train.batch_size=4", "sampling.steps=3"]


@pytest.fixture(scope="module")
def images():
    coarse = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear").to(torch.uint8)


def made(images, *words: str, heldout=None) -> Trainer:
    config = load_config(None, [*WORDS, *words])
    trainer = Trainer(config, methods.make(config, images, device=CPU), len(images), data={}, device=CPU, heldout=heldout)
    trainer.write_to(Log())
    return trainer


class Log:
    """Stand in for the log."""

    def row(self, *_) -> None:
        pass

    def position(self) -> int:
        return 0


def filled(network: torch.nn.Module) -> torch.nn.Module:
    """Give every weight a value that follows from its place alone."""
    for number, parameter in enumerate(network.parameters()):
        place = torch.arange(parameter.numel(), dtype=torch.float64)
        parameter.data = (torch.cos(place * 1.7 + number) * (2 / max(1, parameter[0].numel()) ** 0.5)).view(parameter.shape).float()
    return network


@pytest.mark.parametrize(
    "exploding, power, pixels",
    [(False, [3.104353, 3.104012], [0.335840, 0.341483]), (True, [1.726927, 1.725488], [0.597522, 0.642657])],
    ids=["ddpm", "ncsnpp"],
)
def test_the_network_is_the_one_that_it_was(exploding, power, pixels):
    """A release of diffusers that computes something else would spoil every prior."""
    network = filled(Denoiser(architecture(16, [32, 64], exploding=exploding), diffusion_of("ve" if exploding else "vp", 50.0)))
    x = torch.cos(torch.arange(2 * 3 * 16 * 16, dtype=torch.float64)).view(2, 3, 16, 16).float()
    with torch.no_grad():
        eps = network(x, torch.tensor([0.2, 0.9]))
    assert eps.flatten(1).square().mean(dim=1).tolist() == pytest.approx(power, rel=1e-4)
    assert eps[:, 1, 5, 7].tolist() == pytest.approx(pixels, rel=1e-4)


class Exact(torch.nn.Module):
    """Stand in for a U-Net that knows that the image is all grey: it keeps what it is given, and answers as its kind does."""

    def __init__(self, exploding: bool):
        super().__init__()
        self.exploding = exploding

    def forward(self, x, time):
        self.time = time
        if self.exploding:  # the score of pixels in [0, 1] with noise of this deviation
            return SimpleNamespace(sample=-(x - 0.5) / time[:, None, None, None] ** 2)
        return SimpleNamespace(sample=x)


def test_scores_of_pixels_become_noise_and_times_those_of_ddpm():
    t, eps = torch.tensor([0.2, 0.9]), torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    network = Denoiser(architecture(8, [32], exploding=True), diffusion_of("ve", 50.0))
    network.unet = Exact(exploding=True)
    x = network.diffusion.sigma(t)[:, None, None, None] * eps  # grey is 0
    torch.testing.assert_close(network(x, t), eps)
    torch.testing.assert_close(network.unet.time, 0.01 * 5000**t)  # 0.01 to 50, as published
    network = Denoiser(architecture(8, [32], exploding=False), diffusion_of("vp", 0.0))
    network.unet = Exact(exploding=False)
    assert torch.equal(network(x, torch.tensor([0.0, 1.0])), x) and network.unet.time.tolist() == [0.0, 999.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["ddim", "pc", "ode"])
def test_a_seed_is_one_picture_with_every_solver(kind, solver):
    torch.manual_seed(0)
    network = Denoiser(architecture(8, [32], exploding=kind == "ve"), diffusion_of(kind, 50.0))
    whole = draw(network, solver, 3, shape=(3, 8, 8), seeds=[4, 0, 9], device=CPU)
    assert torch.equal(draw(network, solver, 3, shape=(3, 8, 8), seeds=[9], device=CPU), whole[2:])
    assert len(whole.flatten(1).unique(dim=0)) == 3


@pytest.mark.parametrize("exploding", [False, True], ids=["ddpm", "ncsnpp"])
def test_a_published_model_is_read_from_a_folder(exploding, images, tmp_path):
    kind = "ve" if exploding else "vp"
    network = filled(Denoiser(architecture(8, [32], exploding=exploding), diffusion_of(kind, 348.0)))
    network.unet.save_pretrained(tmp_path / "model")
    if exploding:
        (tmp_path / "model" / "scheduler_config.json").write_text(json.dumps({"sigma_max": 348.0}))
    prior = find_prior(str(tmp_path / "model"))
    assert prior.kind == kind and prior.sigma_max == (348.0 if exploding else None)
    words = [f"denoiser.prior={tmp_path}/model", "denoiser.channels=[]", f"sde.kind={kind}"]
    if exploding:
        with pytest.raises(UserError, match="^sde.sigma_max: 50, but the prior .* has another; set sde.sigma_max=348$"):
            made(images, *words)
        words += ["sde.sigma_max=348"]
    trainer = made(images, *words)
    seeds = {"shape": (3, 8, 8), "seeds": [1], "device": CPU}
    assert torch.equal(trainer.method.draw([1]), draw(network, "ddim", 3, **seeds))
    state = trainer.state()
    assert methods.open_drawing(state, CPU).prior == f"{tmp_path}/model {prior.sha256}"
    with pytest.raises(UserError, match=f"^sde.kind: this run has subvp, but the prior {tmp_path}/model is of kind {kind}"):
        made(images, *words, "sde.kind=subvp")


def test_the_shipped_prior_is_found_from_any_folder_and_knows_images_of_its_kind(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prior = find_prior("emoji-32")
    assert (prior.kind, prior.name) == ("vp", "emoji-32")
    faces = load_images(ROOT / "data" / "fluent_faces_heldout", resolution=(32, 32)).images[:32]  # rendered as what it has seen
    x, t, eps = to_float(faces), torch.full((32,), 0.3), torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (prior.denoiser()(noised(diffusion_of("vp", 0.0), x, t, eps), t) - eps).square().mean()
    assert error < 0.1  # of the variance of the noise; a model that knows nothing has 1
    for name in ("emoji-33", "elsewhere/emoji-32", f"{tmp_path}/emoji-32"):
        with pytest.raises(MissingWeights):
            find_prior(name)


def test_a_prior_that_cannot_be_used_is_told_in_one_message(images, tmp_path, monkeypatch):
    monkeypatch.setenv("RS_IMLE_WEIGHTS", str(tmp_path))

    def refused(prior, kind=UserError):
        with pytest.raises(kind) as caught:
            made(images, f"denoiser.prior={prior}", "denoiser.channels=[]")
        return str(caught.value)

    said = refused("google/ncsnpp-ffhq-256", MissingWeights)
    assert "no google/ncsnpp-ffhq-256 nor" in said and f"{tmp_path}/google/ncsnpp-ffhq-256" in said and "hf download" in said
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "not a checkpoint" in refused(tmp_path / "text.pt")
    (tmp_path / "folder").mkdir()
    assert "no checkpoints/last.pt in it" in refused(tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text("{}")
    assert "not a UNet2DModel that diffusers can read" in refused(tmp_path / "folder")
    state = {"config": {"method": "imle"}, "data": {}, "step": 0, "selected_by": None, "sampled": {}}
    checkpoint.save(state, tmp_path / "imle.pt")
    assert "is of method=imle; a prior is a run of score-sde" in refused(tmp_path / "imle.pt")


@pytest.mark.parametrize(
    "words, said",
    [
        (["denoiser.channels=[]"], r"^denoiser.channels: give widths, such as denoiser.channels=\[32,64\], or start from a denoiser.prior"),
        (["denoiser.channels=[48]"], "^denoiser.channels: 48 is not a multiple of 32"),
        (["denoiser.channels=[16]"], "^denoiser.channels: 16 is out of range"),
        (["denoiser.prior=x"], "^denoiser.channels: the prior has its own widths"),
        (["sampling.solver=euler"], "^sampling.solver: 'euler' is not one of ddim, pc, ode"),
    ],
)
def test_settings_that_make_no_sense_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        load_config(None, [*WORDS, *words])


def test_sides_that_the_network_cannot_halve_are_refused(images):
    with pytest.raises(UserError, match="^data.resolution: this denoiser needs sides that are multiples of 4, not 8 x 10$"):
        made(torch.zeros(2, 3, 8, 10, dtype=torch.uint8), "data.resolution=[8,10]", "denoiser.channels=[32,32,32]")


def test_best_is_chosen_by_the_bits_of_held_out_images(images, monkeypatch):
    """The method returns their bits with held-out images only; without any the energy distance chooses."""
    trainer, saved = made(images[:4], heldout=images[4:]), []
    monkeypatch.setattr(trainer, "save", lambda name, chosen_by=None: saved.append((name, chosen_by, trainer.best)))
    bits = iter([5.0, 6.0, 4.0])
    monkeypatch.setattr(trainer, "draw_and_score", lambda: {"energy_distance": 1.0, "heldout_bits_per_dim": next(bits)})
    for step in (1, 2, 3):
        trainer.step = step
        trainer.show()
    assert saved == [("best", "heldout_bits_per_dim", 5.0), ("best", "heldout_bits_per_dim", 4.0)]
    scores = trainer.method.watch(100, trainer.heldout)[1]
    assert scores.keys() == {"train_bits_per_dim", "heldout_bits_per_dim"} and all(
        7 < value < 20 for value in scores.values()
    )  # it knows nothing yet
    assert made(images[:4]).method.watch(100, images[:0])[1].keys() == {"train_bits_per_dim"}


def test_bits_are_those_of_the_images_and_not_of_scrambled_ones(images):
    """A denoiser that learned one coloured card has fewer bits for it than for the same bytes in another order."""
    card = torch.zeros(3, 8, 8, dtype=torch.uint8)
    card[0, :4], card[1, :, 4:], card[2, 4:] = 220, 180, 120
    trainer = made(
        card[None].repeat(4, 1, 1, 1), "train.epochs=400", "train.learning_rate=3e-3", "train.ema_decay=0.9", "sampling.steps=25"
    )
    for _ in range(400):
        trainer.advance()
    drawing = methods.open_drawing(trainer.state(), CPU)
    swapped = card.permute(1, 2, 0).reshape(3, 8, 8)  # pixels read as rows of colours
    straight, scrambled = drawing.bits_per_dim(torch.stack([card, swapped])).tolist()
    assert straight < scrambled - 1
    drawn = trainer.method.draw(list(range(8))).mean(dim=0)
    like, unlike = (torch.corrcoef(torch.stack([drawn.flatten(), each.float().flatten()]))[0, 1] for each in (card, swapped))
    assert like > 0.3 and like > unlike + 0.3, (like, unlike)


def test_a_run_adapts_a_run(images, tmp_path):
    """By the commands: a source, a run that starts from it, and their samples."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(images):
        save_png(image.repeat_interleave(2, 1).repeat_interleave(2, 2), folder / f"{number}.png")
    (tmp_path / "empty.yaml").write_text("")
    shared = ["--config", str(tmp_path / "empty.yaml"), "--device", "cpu", f"data.path={folder}", "data.resolution=16", "method=score-sde"]
    shared += ["train.epochs=1", "log.num_scored=2", "sampling.steps=2"]
    train.main([*shared, "--run", str(tmp_path / "source"), "denoiser.channels=[32]"])
    train.main([*shared, "--run", str(tmp_path / "adapted"), f"denoiser.prior={tmp_path}/source", "data.holdout=0.34"])
    row = [json.loads(line) for line in (tmp_path / "adapted" / "metrics.jsonl").read_text().splitlines()][-1]
    assert {"train_bits_per_dim", "heldout_bits_per_dim"} <= row.keys()
    assert checkpoint.load(tmp_path / "adapted" / "checkpoints" / "best.pt")["selected_by"] == "heldout_bits_per_dim"
    source, adapted = (open_sampler(tmp_path / name) for name in ("source", "adapted"))
    assert source.drawing.prior == "none" and adapted.drawing.prior.startswith(f"{tmp_path}/source ")
    assert not torch.equal(source.images([1]), adapted.images([1]))
