"""What every method keeps to: trained, stopped, resumed, sampled and scored by the commands, which know it by name alone."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import copied_images
from PIL import Image
from test_golden import StoppedAfter

import evaluate
import methods
import sample
import train
from data import load_images
from errors import UserError
from methods import METHODS, Parts, load_config, open_sampler
from models import inversion
from models.generator import Generator
from models.pixels import CHANNELS
from sampling.exports import write_export
from training import checkpoint
from training.drawing import generate
from training.settings import resolution, to_dict
from training.start import Source
from training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
TOY = {"toy": Parts("toy_method:Config", "toy_method:Linear", "toy_method:open_drawing")}
SHARED = [
    "data.resolution=16",
    "train.batch_size=4",
    "train.epochs=8",
    "train.learning_rate=1e-2",
    "train.warmup_steps=0",
    "log.sheet_epochs=4",
    "log.checkpoint_minutes=100000",
    "log.num_scored=8",
]
TINY = {  # settings of each method: seconds, and some of all that it can do
    "imle": [
        "loss.perceptual=pixels",
        "model.latent_dim=8",
        "model.style_dim=8",
        "model.channels=[16,16,8]",
        "model.blocks=[1,1,1]",
        "imle.refresh_epochs=3",
        "imle.perturbation=1e-3",
    ],
    "fastgan": [
        "method=fastgan",
        "data.resolution=32",
        "train.learning_rate=2e-3",
        "fastgan.latent_dim=8",
        "fastgan.width=4",
        "fastgan.perceptual=pixels",
    ],
    "score-sde": ["method=score-sde", "train.learning_rate=3e-3", "denoiser.channels=[32]", "sampling.steps=2", "data.holdout=0.1"],
    "crdi": ["method=crdi", "crdi.steps=4", "crdi.window=[3,1]"],
    "toy": ["method=toy", "toy.latent_dim=5"],
}
TINY |= {f"imle {channels}": [*TINY["imle"], f"data.channels={channels}"] for channels in ("rgba", "grey")}
IMLES = ("imle", "imle rgba", "imle grey")
LOSSES = dict.fromkeys(IMLES, ("loss",)) | {
    "fastgan": ("critic_loss", "painter_loss"),
    "score-sde": ("loss",),
    "crdi": (),
    "toy": ("loss",),
}
NO_START = {  # what a method that cannot start from weights says
    "score-sde": "train.start_from: score-sde starts from a denoiser.prior; name the run there",
    "crdi": "train.start_from: crdi trains no network; name the denoiser that it guides as crdi.prior",
}
LEARNERS = dict.fromkeys(IMLES, ("learner",)) | {
    "fastgan": ("painter", "critic"),
    "score-sde": ("learner",),
    "crdi": (),
    "toy": ("learner",),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch, prior):
    for name, parts in TOY.items():
        monkeypatch.setitem(METHODS, name, parts)
    monkeypatch.setitem(TINY, "crdi", [*TINY["crdi"], f"crdi.prior={prior}"])


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """Return an export of a denoiser that predicts too much noise, so that guidance has something to do."""
    trainer = made("score-sde")
    trainer.method.average.unet.conv_out.bias.data.fill_(3)
    return exported(trainer, tmp_path_factory.mktemp("prior") / "prior.pt")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder of ten images that are transparent where they were white."""
    folder = copied_images(tmp_path_factory.mktemp("images"), 10)
    for path in folder.iterdir():
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGBA")).copy()
        pixels[pixels.min(axis=2) > 250] = 0
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture
def run(images, monkeypatch, tmp_path):
    """Return a function that trains by the command, to the end or for so many steps, and returns the run's folder."""
    empty = tmp_path / "empty.yaml"
    empty.write_text("")

    def trained(method: str, name: str = "run", steps: int = 10**9, words: tuple[str, ...] = ()) -> Path:
        monkeypatch.setattr(train, "Signals", lambda: StoppedAfter(steps))
        folder = tmp_path / f"{method}-{name}"
        given = ["--config", str(empty), "--run", str(folder), "--device", "cpu", f"data.path={images}", *SHARED, *TINY[method], *words]
        if steps < 24:  # of all
            with pytest.raises(SystemExit):
                train.main(given)
        else:
            train.main(given)
        return folder

    return trained


def made(method: str, device: str = "cpu", **train_settings) -> Trainer:
    """Return an untrained trainer on ten images of noise."""
    words = [*SHARED, *TINY[method], *(f"train.{key}={value}" for key, value in train_settings.items())]
    config, place = load_config(None, words), torch.device(device)
    shape = 10, CHANNELS[config.data.channels], *resolution(config)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    trainer = Trainer(config, methods.make(config, images, device=place), len(images), data={}, device=place)
    trainer.write_to(Rows())
    return trainer


def exported(trainer: Trainer, path: Path) -> Path:
    """Write an export of a trainer that has not trained."""
    data = {"fingerprint": "none", "names": ["a.png"], "heldout": []}
    checkpoint.save(
        {"config": to_dict(trainer.config), "data": data, "step": 0, "selected_by": None, "sampled": trainer.method.sampled()}, path
    )
    return path


class Rows:
    """Stand in for the log."""

    def row(self, *_) -> None:
        pass

    def position(self) -> int:
        return 0


def rows(run: Path) -> list[dict]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "cpu_seconds")} for row in found]


def flat(state: object, place: str = "") -> dict[str, object]:
    """Return the leaves of nested dicts and lists by their place."""
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, (list, tuple)) else ()
    return {place: state} if not items else {key: leaf for name, part in items for key, leaf in flat(part, f"{place}/{name}").items()}


def tensors(state: dict) -> dict[str, torch.Tensor]:
    return {key: leaf for key, leaf in flat(state).items() if isinstance(leaf, torch.Tensor)}


def assert_same(a: dict, b: dict) -> None:
    one, other = ({key: leaf for key, leaf in flat(state).items() if key != "/log_position"} for state in (a, b))  # the log has seconds
    assert one.keys() == other.keys()
    for key, leaf in one.items():
        assert torch.equal(leaf, other[key]) if isinstance(leaf, torch.Tensor) else leaf == other[key], key


every_method = pytest.mark.parametrize("method", TINY)


def test_every_method_is_here():
    assert {name.split()[0] for name in TINY} == METHODS.keys()


@every_method
def test_it_learns_and_goes_on_bit_for_bit_where_it_was_stopped(method, run):
    straight = run(method, "straight")
    losses = [row["loss"] for row in rows(straight) if row["kind"] == "train"]
    assert len(losses) == 8 and losses[-1] < 0.9 * losses[0]
    for steps in (1, 7, 11):
        stopped = run(method, "stopped", steps)
    stopped = run(method, "stopped")
    assert rows(stopped) == rows(straight)
    for name in ("last.pt", "best.pt"):
        assert_same(*(checkpoint.load(folder / "checkpoints" / name) for folder in (stopped, straight)))
    assert {path.name for path in (straight / "samples").iterdir()} == {"step-0000000.png", "step-0000012.png", "step-0000024.png"}


@every_method
def test_a_seed_is_one_picture_and_an_export_draws_it(method, run, tmp_path):
    folder = run(method)
    sampler = open_sampler(folder)
    whole = sampler.images(range(9))
    assert whole.dtype == torch.uint8 and whole.shape[2:] == sampler.resolution and len(whole.flatten(1).unique(dim=0)) == 9
    assert whole.shape[:2] == (9, CHANNELS[sampler.channels])
    assert torch.equal(torch.cat([sampler.images([8]), sampler.images([3, 0], batch_size=1)]), whole[[8, 3, 0]])
    sample.main([str(folder), "--export", str(tmp_path / "x.pt"), "--out", str(tmp_path / "drawn"), "--num", "3"])
    assert torch.equal(open_sampler(tmp_path / "x.pt").images(range(9)), whole)
    state = checkpoint.load(tmp_path / "x.pt")
    assert (
        sorted(state) == ["config", "data", "format", "sampled", "selected_by", "step"] and state["config"]["method"] == method.split()[0]
    )
    assert len(list((tmp_path / "drawn").glob("seed*.png"))) == 3
    read = load_images(tmp_path / "drawn", resolution=sampler.resolution, channels=sampler.channels)
    assert torch.equal(read.images, whole[:3])  # a file holds exactly what was drawn
    if sampler.drawing.generator is not None:
        assert torch.equal(sampler.decode(sampler.latents([4])), whole[[4]])
    else:
        with pytest.raises(UserError, match=sampler.drawing.why):
            sampler.latents([4])


@every_method
def test_it_is_steered_or_says_in_one_line_why_not(method, run, images, tmp_path, monkeypatch, capsys):
    for name, value in (("NUM_LATENTS", 8), ("STARTS", 2), ("SCREENING", 2), ("STEPS", 4)):
        monkeypatch.setattr(inversion, name, value)
    folder, out = run(method, steps=1), tmp_path / "out"

    def steered(*words: object, into: Path = out) -> None:
        sample.main([str(word) for word in (folder, "--out", into, *words)])

    steered("--training-film")
    with Image.open(out / "training.gif") as film, Image.open(folder / "samples" / "step-0000000.png") as sheet:
        assert film.size == sheet.size
    drawing, (face, *_) = open_sampler(folder).drawing, sorted(images.iterdir())
    searched, styles = drawing.generator is not None, isinstance(drawing.generator, Generator)
    latents, name = (("--latents", out / "latents.pt"), face.name) if searched else ((), "3")
    for possible, words, made in (
        (searched, ("--project", face), "projected.png"),
        (searched, ("--interpolate", f"0,{name}", "--frames", 4, *latents), "frame0003.png"),
        (styles, ("--mix", "0-1", name, *latents), "mix.png"),
        (styles, ("--truncation", 0.5, "--num", 1), "seed0000.png"),
    ):
        if possible:
            steered(*words)
        else:
            with pytest.raises(UserError, match=drawing.why or "maps latents to images without styles") as told:
                steered(*words, into=tmp_path / "refused")
            assert "\n" not in str(told.value) and not (tmp_path / "refused").exists()
        assert (out / made).exists() == possible


@every_method
def test_it_goes_elsewhere(method, tmp_path, prior, monkeypatch):
    """By safetensors, from which the same is drawn, and by ONNX, if there is a generator."""
    sampler = open_sampler(exported(made(method), tmp_path / "x.pt"))
    write_export(sampler, tmp_path / "hub" / "x.safetensors")
    monkeypatch.setenv("RS_IMLE_WEIGHTS", str(prior.parent))  # the name of a prior is there, its path is not
    shared = open_sampler(tmp_path / "hub" / "x.safetensors")
    assert torch.equal(shared.images(range(3)), sampler.images(range(3)))
    told, ours = flat(shared.content), flat(sampler.content)
    assert not [leaf for leaf in told.values() if str(leaf).startswith("/")]
    assert_same(told, {place: Path(leaf).name if str(leaf).startswith("/") else leaf for place, leaf in ours.items()})

    onnx = tmp_path / "x.onnx"
    if sampler.drawing.generator is None:
        with pytest.raises(UserError, match=sampler.drawing.why):
            write_export(sampler, onnx)
        assert not onnx.exists()
        return
    write_export(sampler, onnx)
    session = onnxruntime.InferenceSession(onnx)
    for count in (1, 5):
        latents = sampler.latents(list(range(count)))
        (images,) = session.run(None, {"latents": latents.numpy()})
        ours = generate(sampler.generator, latents)
        assert images.shape == (count, CHANNELS[sampler.channels], *sampler.resolution) and ours.std() > 0.01
        torch.testing.assert_close(torch.from_numpy(images), ours, rtol=0, atol=1e-4)


@every_method
def test_it_starts_from_a_run_of_itself_and_goes_on_when_that_is_gone(method, run, tmp_path, capsys):
    if method in NO_START:
        with pytest.raises(UserError, match=f"^{NO_START[method]}$"):
            run(method, "started", words=(f"train.start_from={tmp_path}",))
        return
    source = run(method, "source")
    start = f"train.start_from={source}"
    capsys.readouterr()
    started = run(method, "started", words=(start,))
    said = capsys.readouterr().out
    assert f"train.start_from: {source}, of step 24; the optimiser starts anew\n  taken  " in said and "  new  " not in said
    assert (started / "samples/step-0000000.png").read_bytes() == (source / "samples/step-0000024.png").read_bytes()
    record = {"name": str(source), "sha256": hashlib.sha256((source / "checkpoints/last.pt").read_bytes()).hexdigest()}

    stopped = run(method, "stopped", 7, (start,))
    source.rename(tmp_path / "gone")
    stopped = run(method, "stopped", words=(start,))
    for name in ("last.pt", "best.pt"):
        states = [checkpoint.load(folder / "checkpoints" / name) for folder in (stopped, started)]
        assert_same(*states)
        assert states[0]["started_from"] == record
    with pytest.raises(UserError, match="^train.start_from: this run began with .* and cannot continue with '"):
        run(method, "stopped")
    sample.main([str(started), "--export", str(tmp_path / "x.pt")])
    assert checkpoint.load(tmp_path / "x.pt")["started_from"] == record
    assert open_sampler(tmp_path / "x.pt").drawing.prior == f"{source} {record['sha256']}"


@pytest.mark.parametrize("method", [method for method in TINY if method not in NO_START])
def test_weights_and_average_start_from_the_average_and_all_else_anew(method, tmp_path):
    source, trainer, untouched = made(method), made(method), made(method)
    for _ in range(4):
        source.advance()
    state = checkpoint.snapshot(source.state())
    trainer.start(Source(tmp_path, state, {"name": "it", "sha256": "0"}))
    assert_same(trainer.method.sampled(), state["sampled"])
    assert_same(getattr(trainer.method, LEARNERS[method][0]).averaged.state_dict(), state["sampled"])
    before, now = (checkpoint.snapshot(each.method.state_dict()) for each in (untouched, trainer))
    networks = {learner: (now[learner].pop("network"), before[learner].pop("network"))[0] for learner in LEARNERS[method]}
    if "critic" in networks:
        assert_same(networks["critic"], state["method"]["critic"]["network"])
    assert_same(now, before)
    assert trainer.step == 0 and trainer.best == float("inf")


def test_a_run_starts_from_no_other_method_and_from_nothing_that_is_not_there(run, tmp_path):
    source = run("imle", steps=2)
    for start, told in (
        (source, f"train.start_from: {source} is of method=imle, and this run has method=toy; both must be of one"),
        (tmp_path, f"train.start_from: {tmp_path}: no checkpoints/last.pt in it; give a run folder, a checkpoint or an export"),
        (tmp_path / "no", f"train.start_from: {tmp_path}/no: no such run or checkpoint"),
        (tmp_path / "empty.yaml", f"train.start_from: {tmp_path}/empty.yaml: not a checkpoint of this project, or damaged"),
    ):
        with pytest.raises(UserError, match=f"^{told}"):
            run("toy", words=(f"train.start_from={start}",))
    with pytest.raises(UserError, match=f"^train.start_from: {source}, of step 2, has nothing that fits this run; give this run its model"):
        run("imle", "wide", words=(f"train.start_from={source}", "model.channels=[9,9,9]", "model.latent_dim=9", "model.style_dim=9"))
    assert not (tmp_path / "toy-run").exists() and not (tmp_path / "imle-wide").exists()


def test_a_dry_run_says_what_would_be_taken(run, capsys):
    source = run("toy", "source")
    capsys.readouterr()
    run("toy", "started", words=(f"train.start_from={source}", "--dry-run"))
    said = capsys.readouterr().out
    assert f"\ntrain.start_from: {source}, of step 24; the optimiser starts anew\n  taken  network\n" in said and "\na step  " in said
    assert not source.with_name("toy-started").exists()


@every_method
def test_it_is_scored(method, run, tmp_path, capsys):
    evaluate.main(
        [
            str(run(method)),
            "--features",
            "effnet-lite0",
            "--metrics",
            "fid,fid_heldout,copying,likelihood",
            "--num-samples",
            "12",
            "--device",
            "cpu",
            "--out",
            str(tmp_path / "scores"),
        ]
    )
    assert "fd_effnetlite0" in capsys.readouterr().out
    found = json.loads((tmp_path / "scores" / "metrics.json").read_text())["metrics"]
    assert found["fd_effnetlite0"]["value"] > 0
    assert ("bits_per_dim_train" in found) == (open_sampler(run(method)).drawing.bits_per_dim is not None) == (method == "score-sde")


@pytest.mark.parametrize("method, loss", [(method, loss) for method in TINY for loss in LOSSES[method]])
def test_a_loss_that_is_not_finite_changes_no_weight(method, loss):
    trainer = made(method, learning_rate=1e-3)
    trainer.advance()
    buffers = {name for learner in LEARNERS[method] for name, _ in getattr(trainer.method, learner).network.named_buffers()}

    def state() -> dict:
        """Return what the next steps depend on, without the running statistics, which a forward pass changes."""
        leaves = flat(trainer.method.state_dict())
        return {key: leaf for key, leaf in leaves.items() if key.rpartition("network/")[2] not in buffers}

    before = {key: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for key, leaf in state().items()}
    broken = getattr(trainer.method, loss)
    setattr(trainer.method, loss, lambda *parts: tuple(value * float("nan") for value in broken(*parts)))
    with pytest.raises(UserError, match="the loss or its gradient is not finite at step 1, and the run was stopped before using it"):
        trainer.advance()
    assert trainer.step == 1
    after = state()
    if loss == "painter_loss":  # the critic has taken its step
        before, after = ({key: leaf for key, leaf in each.items() if "/painter" in key} for each in (before, after))
    assert_same(before, after)
    with pytest.raises(UserError, match="not finite at step 1"):
        trainer.save("last")


@every_method
def test_every_parameter_moves_and_so_does_what_is_sampled(method):
    trainer = made(method)

    def weights() -> dict:
        """Return all weights and running statistics of the method's networks."""
        state = trainer.method.state_dict()
        found = {f"{learner}.{name}": value for learner in LEARNERS[method] for name, value in state[learner]["network"].items()}
        return {
            name: value for name, value in found.items() if not (name.endswith("._u") and value.numel() == 1)
        }  # spectral norm's, 1 or -1

    still = {name: value.clone() for name, value in weights().items()}
    average = {name: value.clone() for name, value in tensors(trainer.method.sampled()).items()}
    for _ in range(4):
        trainer.advance()
    assert not [name for name, value in weights().items() if torch.equal(value, still[name])]
    sampled = tensors(trainer.method.sampled())
    assert not [
        name for name, value in sampled.items() if torch.equal(value, average[name]) and "num_batches" not in name and name != "/images"
    ]


@every_method
def test_its_jobs_can_be_timed_and_its_facts_told(method, images, tmp_path, capsys):
    work = made(method).method.work()
    assert "a step" in work and all(job.per_epoch > 0 and job.part > 0 for job in work.values())
    for job in work.values():
        job.job()
    (tmp_path / "empty.yaml").write_text("")
    train.main(
        [
            "--config",
            str(tmp_path / "empty.yaml"),
            "--run",
            str(tmp_path / "none"),
            "--dry-run",
            "--device",
            "cpu",
            f"data.path={images}",
            *SHARED,
            *TINY[method],
        ]
    )
    said = capsys.readouterr().out
    assert f"method: {method.split()[0]}\n" in said and "parameters" in said and all(f"\n{name}  " in said for name in work)


def test_another_method_s_settings_are_refused_and_help_is_of_the_method_that_is_asked_for(tmp_path, capsys):
    with pytest.raises(UserError, match="^toy: belongs to method=toy, and this run has method=imle; leave it out, or set method=toy$"):
        load_config(None, ["toy.latent_dim=3"])
    with pytest.raises(UserError, match="^imle: belongs to method=imle, and this run has method=toy"):
        load_config(None, ["method=toy", "imle.search=dci"])
    with pytest.raises(UserError, match="^method: 'gan' is not one of imle, fastgan, score-sde, crdi, toy$"):
        load_config(None, ["method=gan"])
    (tmp_path / "toy.yaml").write_text("method: toy\n")
    for words, own, other in (
        (["method=toy"], "toy.latent_dim", "imle.match"),
        (["--config", str(tmp_path / "toy.yaml")], "toy.latent_dim", "model."),
        ([], "imle.match", "toy."),
    ):
        with pytest.raises(SystemExit):
            train.main([*words, "--help"])
        said = capsys.readouterr().out
        assert f"  {own}" in said and "  train.epochs" in said and f"  {other}" not in said


def test_a_method_names_the_packages_that_it_needs(tmp_path):
    (tmp_path / "score.yaml").write_text("method: score-sde\n")
    (tmp_path / "broken.yaml").write_text("method: [\n")
    extra = "baselines/requirements.txt"
    for words, needed in (
        (["--config", str(tmp_path / "score.yaml"), "train.epochs=3"], extra),
        (["--config", str(tmp_path / "score.yaml"), "method=imle"], ""),
        (["method=crdi"], extra),
        ([], ""),
        (["method=gan"], ""),
        (["--config", str(tmp_path / "broken.yaml")], ""),
    ):
        assert methods.requirements(words) == needed, words


def test_a_run_does_not_go_on_with_another_method(run):
    folder = run("imle", steps=2)
    shutil.move(folder, folder.with_name("toy-run"))
    with pytest.raises(UserError, match="^method: this run began with 'imle' and cannot continue with 'toy'"):
        run("toy", "run")
