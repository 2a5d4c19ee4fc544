"""train.py as people run it, stop it, kill it and get it wrong. Nothing that was saved may ever be lost."""

import hashlib
import json
import random
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import copied_images
from PIL import Image
from test_colour import DISPLAY_P3

import methods
import train
from data import load_images
from errors import UserError
from imle.method import make_networks
from imle.targets import embed
from methods import from_dict, load_config, open_sampler
from training import checkpoint, costs, dryrun
from training.dryrun import dry_run
from training.runlog import RunLog, SilentLog
from training.scores import energy_distance
from training.settings import to_dict
from training.trainer import Trainer

ROOT = Path(__file__).parents[2]
TINY = ["loss.perceptual=pixels", "train.schedule=constant", "train.batch_size=4", "imle.perturbation=1e-3", "log.num_scored=8"]
RECIPES = {
    "rs": [*TINY, "train.schedule=cosine", "train.epochs=30", "log.sheet_epochs=10"],
    "switches": [
        *TINY,
        "train.optimizer=muon",
        "train.clip=1.1",
        "loss.stage_weight=0.5",
        "train.epochs=24",
        "log.sheet_epochs=8",
    ],
    "adaptive": [
        *TINY,
        "imle.match=adaptive",
        "imle.reject=none",
        "imle.staleness=1",
        "imle.force_resample=4",
        "train.epochs=24",
        "log.sheet_epochs=8",
    ],
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder with a dozen of the shipped images."""
    return copied_images(tmp_path_factory.mktemp("images"), 12)


def words(images, run, *settings):
    return ["--config", ROOT / "configs" / "smoke-32.yaml", "--run", run, "--device", "cpu", f"data.path={images}", *settings]


@pytest.fixture(scope="module")
def straight(images, command, tmp_path_factory):
    """Return a function that gives the run of a recipe that nobody disturbed."""
    runs = {}

    def run(recipe):
        if recipe not in runs:
            runs[recipe] = tmp_path_factory.mktemp("straight") / recipe
            result = command("train.py", *words(images, runs[recipe], *RECIPES[recipe]))
            assert result.returncode == 0, result.stderr
        return runs[recipe]

    return run


@pytest.fixture(scope="module")
def short_run(images, command, tmp_path_factory):
    """Return a finished run of 12 steps."""
    run = tmp_path_factory.mktemp("short") / "run"
    result = command("train.py", *words(images, run, *TINY, "log.sheet_epochs=2"))
    assert result.returncode == 0, result.stderr
    return run


@pytest.fixture
def finished(short_run, tmp_path):
    """Return a copy of it, free to be spoilt."""
    return shutil.copytree(short_run, tmp_path / "finished")


def tiny_trainer(settings=(*TINY, "train.epochs=3")):
    """Return a trainer on eight images of noise, two steps to an epoch."""
    config = load_config(ROOT / "configs" / "smoke-32.yaml", list(settings))
    images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return trainer_of(config, images)


def trainer_of(config, images, **how):
    cpu = torch.device("cpu")
    return Trainer(config, methods.make(config, images, device=cpu, **how), len(images), data={}, device=cpu)


def hashes(folder):
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def rows(run):
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.exists() else []
    return [{key: value for key, value in line.items() if key not in ("seconds", "cpu_seconds")} for line in lines]


def assert_equal(a, b, place="checkpoint"):
    """Compare everything in two checkpoints bit for bit, but for the length of the log, which holds seconds."""
    assert type(a) is type(b), place
    if isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a.keys() - {"log_position"}:
            assert_equal(a[key], b[key], f"{place}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), place
        for i, pair in enumerate(zip(a, b)):
            assert_equal(*pair, f"{place}.{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), place
    else:
        assert a == b, place


def assert_same_run(run, other):
    for name in ("last.pt", "best.pt"):
        assert_equal(*(checkpoint.load(folder / "checkpoints" / name) for folder in (run, other)), name)
    assert rows(run) == rows(other)
    for kind in ("samples", "matches"):
        ours, theirs = (
            {path.name: path.read_bytes() for path in (folder / kind).iterdir() if path.suffix == ".png"} for folder in (run, other)
        )
        assert ours == theirs


def one_line(result, code=2):
    """Return the only line on stderr, which the progress bar may stand before."""
    assert result.returncode == code, result
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error:") == 1 and result.stderr.endswith("\n")
    line = result.stderr[result.stderr.index("error:") :]
    assert line.count("\n") == 1, line
    return line


# --- nothing is lost


@pytest.mark.parametrize("recipe, kills", [("rs", 20), ("adaptive", 5), ("switches", 3)])
def test_killed_at_any_moment_the_same_command_goes_on_to_the_same_end(recipe, kills, images, start, straight, tmp_path):
    moment, run = random.Random(0), tmp_path / "run"
    attempts = killed = going_on = while_saving = 0
    last = run / "checkpoints" / "last.pt"
    while killed < kills:
        attempts, going_on = attempts + 1, going_on + last.exists()
        assert attempts <= 3 * kills
        process = start("train.py", *words(images, run, *RECIPES[recipe]))
        alive, part = process.process.is_alive, last.with_name(f"last.pt.{process.process.pid}.part")
        while killed % 5 and alive() and not process.output("stderr"):  # every fifth kill may fall before the first step
            time.sleep(0.002)
        deadline = time.monotonic() + moment.uniform(0, 0.5)
        # every second time, wait on for a checkpoint that is just being written over another
        while alive() and (time.monotonic() < deadline or (killed % 2 and not (last.exists() and part.exists()))):
            time.sleep(0.0002)
        if alive():
            process.send(signal.SIGKILL)
        result = process.result()
        if result.returncode == -signal.SIGKILL:
            killed += 1
            while_saving += part.exists()
        else:
            assert result.returncode == 0, result.stderr
            assert_same_run(run, straight(recipe))
            shutil.rmtree(run)
    assert going_on >= kills / 3 and while_saving
    result = start("train.py", *words(images, run, *RECIPES[recipe])).result()
    assert result.returncode == 0, result.stderr
    assert_same_run(run, straight(recipe))
    assert not list(run.rglob("*.part"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_stopped_after_every_single_step_the_end_is_the_same(recipe, tmp_path):
    settings = [*RECIPES[recipe], "train.epochs=7", "log.sheet_epochs=3"]
    trainer = tiny_trainer(settings)
    trainer.run(RunLog(tmp_path / "straight"))
    path, stops = tmp_path / "stopped" / "checkpoints" / "last.pt", 0
    while not path.exists() or checkpoint.load(path)["step"] < trainer.total_steps:
        other, position = tiny_trainer(settings), (0, 0)
        if path.exists():
            state = checkpoint.load(path)
            other.load_state(state)
            position = (state["log_position"], state["step"])
        first = other.step
        log = RunLog(tmp_path / "stopped", *position)
        other.run(log, should_stop=lambda: other.step > first)
        log.close()
        stops += 1
    assert stops == trainer.total_steps == 14
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")


def test_ctrl_c_and_sigterm_save_first(images, start, straight, tmp_path):
    run, step = tmp_path / "run", 0
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        before = step
        process = start("train.py", *words(images, run, *RECIPES["rs"]))
        patience = time.monotonic() + 60
        while not any(row["kind"] == "train" and row["step"] > before for row in rows(run)):
            assert time.monotonic() < patience and process.process.is_alive()
            time.sleep(0.005)
        process.send(number)
        result = process.result()
        assert result.returncode == code, result
        step = checkpoint.load(run / "checkpoints" / "last.pt")["step"]
        assert result.stdout.splitlines()[-1] == f"stopped and saved at step {step} of 90; the same command goes on from there"
        assert before < step < 90
    assert start("train.py", *words(images, run, *RECIPES["rs"])).result().returncode == 0
    assert_same_run(run, straight("rs"))


def test_half_a_line_in_the_log_is_cut_back_and_epochs_may_grow(images, command, finished, tmp_path):
    with open(finished / "metrics.jsonl", "a") as file:
        file.write('{"kind": "train", "step": 99, "loss": 1}\n{"kind": "tra')
    settings = [*TINY, "log.sheet_epochs=2", "train.epochs=6"]
    grown = command("train.py", *words(images, finished, *settings))
    assert grown.returncode == 0, grown.stderr
    assert "train.epochs: 4 -> 6 from step 12\ngoing on from step 12 of 18" in grown.stdout
    assert command("train.py", *words(images, tmp_path / "run", *settings)).returncode == 0
    assert_same_run(finished, tmp_path / "run")


def test_a_finished_run_says_so_and_names_its_report_and_stays_as_it_is(images, command, finished):
    report = finished / "evaluation" / "inception" / "report.html"
    report.parent.mkdir(parents=True)
    report.touch()
    before = hashes(finished)
    for settings, told in (
        ([], "is finished, at step 12; a train.epochs above 4 continues it"),
        (["train.epochs=2"], "is at epoch 4 of 4, and train.epochs=2 asks for no more; a larger number continues it"),
    ):
        result = command("train.py", *words(images, finished, *TINY, "log.sheet_epochs=2", *settings))
        assert result.returncode == 0, result.stderr
        assert result.stdout.endswith(f"{finished} {told}\nreport: {report}\n")
    assert hashes(finished) == before
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    spent = [row["cpu_seconds"] for row in rows if row["kind"] == "train"]
    assert len(spent) == 4 and spent[0] > 0 and spent == sorted(spent)


# --- another run than the one that began


def spoil_by_removing(folder):
    sorted(folder.glob("*.png"))[3].unlink()


def spoil_by_adding(folder):
    Image.new("RGB", (40, 40), "red").save(folder / "zz.png")


def spoil_by_one_pixel(folder):
    path = sorted(folder.glob("*.png"))[3]
    image = Image.open(path).convert("RGB")
    image.putpixel((image.width // 2, image.height // 2), (1, 2, 3))
    image.resize((32, 32)).save(path)


@pytest.mark.parametrize(
    "spoil, told",
    [
        (spoil_by_removing, "1 removed (1f467-1f3fc.png)"),
        (spoil_by_adding, "1 added (zz.png)"),
        (spoil_by_one_pixel, "the names are the same, the pixels differ"),
    ],
)
def test_changed_images_are_refused(spoil, told, images, command, finished, tmp_path):
    changed = shutil.copytree(images, tmp_path / "images")
    unmoved = command("train.py", *words(changed, finished, *TINY, "log.sheet_epochs=2"))
    assert unmoved.returncode == 0  # the folder may move
    spoil(changed)
    before = hashes(finished)
    line = one_line(command("train.py", *words(changed, finished, *TINY, "train.epochs=9")))
    assert "the images have changed since this run began" in line and told in line
    assert hashes(finished) == before


def test_a_run_of_an_earlier_reader_goes_on_with_it_or_is_told_what_is_read_otherwise(images, command, tmp_path):
    """Large photographs are decoded whole as before; where this revision converts colours, the run does not go on with other pixels."""
    changed = shutil.copytree(images, tmp_path / "images")
    first = sorted(changed.glob("*.png"))[0]
    large = Image.open(first).convert("RGB").resize((2100, 2000))
    large.save(changed / "large.jpg", quality=95)
    readers = {reader: load_images(changed, resolution=(32, 32), reader=reader).fingerprint for reader in (1, 2)}
    assert readers[1] != readers[2]
    run, last = tmp_path / "run", tmp_path / "run" / "checkpoints" / "last.pt"
    train = partial(command, "train.py", *words(changed, run, *TINY, "log.sheet_epochs=2"))
    assert train("train.epochs=1").returncode == 0 and checkpoint.load(last)["data"]["reader"] == 2
    assert "going on" in train("train.epochs=2").stdout
    state = checkpoint.load(last)
    del state["data"]["reader"]  # as an earlier revision left it
    checkpoint.save(state | {"data": state["data"] | {"fingerprint": readers[1]}}, last)
    assert "going on" in (result := train("train.epochs=3")).stdout, result.stderr
    assert checkpoint.load(last)["data"] == state["data"] | {"fingerprint": readers[1], "reader": 1}
    Image.open(first).save(first, icc_profile=DISPLAY_P3)
    line = one_line(train("train.epochs=4"))
    assert (
        "the names are the same, the pixels differ (this revision converts colours to sRGB" in line
        and "1 converted to sRGB" in train("train.epochs=4").stdout
    )


@pytest.mark.parametrize(
    "setting",
    [
        "model.style_dim=16",
        "model.blocks=[1, 1, 1, 2]",
        "seed=1",
        "data.flips=true",
        "imle.match=adaptive",
        "loss.pixel_weight=0.2",
        "data.resolution=64",
        "train.batch_size=10",
        "train.batch_size=3",
        "train.betas=[0.9, 0.999]",
    ],
)
def test_a_changed_model_is_refused(setting, images, command, finished):
    before = hashes(finished)
    line = one_line(command("train.py", *words(images, finished, *TINY, "train.epochs=9", setting)))
    assert line.startswith(f"error: {setting.split('=')[0]}: this run began with ") and "choose another --run" in line
    assert hashes(finished) == before


def test_a_changed_learning_rate_is_told(images, command, finished):
    result = command("train.py", *words(images, finished, *TINY, "train.epochs=5", "train.learning_rate=1e-4", "train.micro_batch=3"))
    assert result.returncode == 0 and "train.learning_rate: 0.002 -> 0.0001 from step 12\n" in result.stdout
    assert "micro_batch" not in result.stdout  # which changes nothing


# --- best.pt


def test_best_is_chosen_by_the_distance_to_the_training_images(smoke_run):
    """As the report says: held-out images, which this run has, choose nothing."""
    sampler = open_sampler(smoke_run / "checkpoints" / "best.pt")
    config = from_dict(sampler.config)
    *_, search_features = make_networks(config, torch.device("cpu"))
    dataset = load_images(config.data.path, resolution=(32, 32))
    samples = embed(search_features, sampler.images(range(config.log.num_scored)))
    distances = [
        energy_distance(samples, embed(search_features, dataset.images[[dataset.names.index(name) for name in names]]))
        for names in (sampler.data.names, sampler.data.heldout)
    ]
    best = checkpoint.load(smoke_run / "checkpoints" / "best.pt")["best"]
    assert best == pytest.approx(distances[0], rel=1e-4) and best != pytest.approx(distances[1], rel=1e-2)
    assert best == min(row["energy_distance"] for row in rows(smoke_run) if row["kind"] == "score" and row["step"])


# --- what cannot be gone on with


def torch_file(content):
    def write(path):
        torch.save(content, path)

    return write


def truncated(path):
    path.write_bytes(path.read_bytes()[:-5000])


def without_optimizer(path):
    state = checkpoint.load(path)
    checkpoint.save({key: state[key] for key in ("config", "data", "step", "sampled")}, path)


def other_shapes(path):
    state = checkpoint.load(path)
    learner = state["method"]["learner"]
    learner["network"] = {key: value.repeat(2, *[1] * (value.ndim - 1)) for key, value in learner["network"].items()}
    checkpoint.save(state, path)


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        without_optimizer,
        other_shapes,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("hello"),
        torch_file({"weight": torch.ones(3)}),
        torch_file([1, 2]),
        torch_file({"format": "rs-imle/2"}),
        torch_file({"format": "rs-imle/1", "config": 3}),
    ],
)
def test_a_spoilt_checkpoint_is_refused_and_kept(spoil, images, command, finished):
    spoil(finished / "checkpoints" / "last.pt")
    before = hashes(finished)
    line = one_line(command("train.py", *words(images, finished, *TINY, "train.epochs=9")))
    assert line.startswith(f"error: {finished / 'checkpoints' / 'last.pt'}: ")
    assert hashes(finished) == before


def test_a_run_that_cannot_be_written_is_told(images, command, tmp_path):
    (tmp_path / "file").write_text("")
    for run in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        assert f"--run {run}: cannot write there" in one_line(command("train.py", *words(images, run, *TINY)))
    assert (tmp_path / "file").read_text() == ""


def test_a_run_has_one_process_at_a_time(images, command, finished):
    before, go_on = hashes(finished), words(images, finished, *TINY, "train.epochs=9")
    log = RunLog(finished, *position_of(finished))
    try:
        told = one_line(command("train.py", *go_on))
    finally:
        log.close()
    shutil.rmtree(finished / "tensorboard")  # the log above left its own file
    assert told == f"error: --run {finished}: another process is training in it; wait until it ends, or choose another --run\n"
    assert {name: value for name, value in before.items() if "tensorboard" not in name} == hashes(finished)
    assert command("train.py", *go_on).returncode == 0


def test_a_run_that_goes_on_removes_what_killed_processes_left_of_its_files(finished):
    ours = [
        "config.yaml.1.part",
        "environment.json.22.part",
        "images.png.3.part",
        "checkpoints/last.pt.4.part",
        "checkpoints/last.pt.part",
        "checkpoints/best.pt.5.part",
        "samples/step-0000012.png.6.part",
        "samples/step-0000012.png.part",
        "matches/step-0000012.png.7.part",
    ]
    others = ["export.pt.1.part", "samples/seed0001.png.1.part", "evaluation/inception/metrics.json.1.part"]  # may be being written
    for name in (*ours, *others):
        (finished / name).parent.mkdir(parents=True, exist_ok=True)
        (finished / name).write_text("half")
    before = hashes(finished)
    log = RunLog(finished, *position_of(finished))
    with pytest.raises(UserError, match="another process is training in it"):
        (finished / ours[0]).write_text("its")
        RunLog(finished)
    assert (finished / ours[0]).read_text() == "its"
    log.close()
    (finished / ours[0]).unlink()
    shutil.rmtree(finished / "tensorboard")  # the log left its own file
    removed = {str(finished / name) for name in ours}
    assert hashes(finished) == {name: value for name, value in before.items() if name not in removed and "tensorboard" not in name}


def position_of(run):
    state = checkpoint.load(run / "checkpoints" / "last.pt")
    return state["log_position"], state["step"]


def test_a_run_inside_its_own_images_is_refused(images, command):
    assert "is inside data.path" in one_line(command("train.py", *words(images, images / "run")))
    assert not (images / "run").exists()


def test_a_full_disk_leaves_the_earlier_checkpoint(images, command, finished):
    last, settings = finished / "checkpoints" / "last.pt", [*TINY, "train.epochs=6", "log.sheet_epochs=2"]
    before = last.read_bytes()
    line = one_line(command("train.py", *words(images, finished, *settings), file_limit=len(before) - 5000))
    assert f"{last}: cannot be written (File too large), the file there before is intact" in line
    assert last.read_bytes() == before and not list(finished.rglob("*.part"))
    result = command("train.py", *words(images, finished, *settings))
    assert result.returncode == 0 and checkpoint.load(last)["step"] == 18


@pytest.mark.parametrize("limit", [1000, 30000])  # enough for its own output, then for the sheets too
def test_a_disk_full_from_the_start_is_one_line(limit, images, command, tmp_path):
    assert str(tmp_path / "run") in one_line(command("train.py", *words(images, tmp_path / "run", *TINY), file_limit=limit))


# --- mistakes in the command


@pytest.mark.parametrize(
    "setting, told",
    [
        ("imle.epsilom=1", "imle.epsilom: no such setting; did you mean imle.epsilon?"),
        ("train.epochs=many", "train.epochs: expected a whole number, found 'many'"),
        ("data.holdout=1", "data.holdout: 1.0 is out of range"),
        ("data.path=nowhere", "data.path: no folder or .zip 'nowhere'"),
        ("data.background=blurple", "data.background: "),
        ("train.epochs", "'train.epochs' is not a setting"),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(setting, told, images, command, tmp_path):
    assert told in one_line(command("train.py", *words(images, tmp_path / "run", setting)))
    assert not (tmp_path / "run").exists()


def test_a_device_that_is_not_there_is_told(images, command, tmp_path):
    for device in ("tpu", *([] if torch.cuda.is_available() else ["cuda", "cuda:7"])):
        line = one_line(command("train.py", *words(images, tmp_path / "run"), "--device", device))
        assert line.startswith(f"error: --device {device}: not available here (")
    assert one_line(command("train.py", *words(images, tmp_path / "run"), "--device", "mps")).startswith(
        "error: --device mps: only cpu and cuda are supported"
    )
    assert not (tmp_path / "run").exists()


def test_usage_is_told_by_argparse(command):
    for wrong in ([], ["--config", "x"], ["--config", "x", "--run", "y", "--nonsense"]):
        assert command("train.py", *wrong).returncode == 2
    help = command("train.py", "--help")
    assert help.returncode == 0 and "imle.rejected_fraction=0.1" in help.stdout


def test_missing_weights_are_told_before_anything_is_written(images, command, tmp_path):
    (tmp_path / "weights").mkdir()
    offline = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path / "hub"), "RS_IMLE_WEIGHTS": str(tmp_path / "weights")}
    settings = words(images, tmp_path / "run", "loss.perceptual=lpips-vgg")
    result = command("train.py", *settings, env=offline)
    assert result.returncode == 3 and "Traceback" not in result.stderr
    for fact in (
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        "397923af8e79cdbb6a7127f12361acd7a2f83e06",
    ):
        assert fact in result.stderr
    (tmp_path / "weights" / "vgg16-397923af.pth").write_bytes(b"half a download")
    assert command("train.py", *settings, env=offline).returncode == 3
    assert not (tmp_path / "run").exists()


# --- what a run leaves


def test_the_run_folder_tells_everything(smoke_run):
    config = load_config(smoke_run / "config.yaml")
    assert to_dict(config) == checkpoint.load(smoke_run / "checkpoints" / "last.pt")["config"]
    assert config == load_config(ROOT / "configs" / "smoke-32.yaml", ["data.holdout=0.1", f"data.path={config.data.path}"])
    environment = json.loads((smoke_run / "environment.json").read_text())
    assert (
        environment["torch"] == torch.__version__
        and environment["device"] == "cpu"
        and environment["processes"] == 1
        and "--run" in environment["command"]
    )
    assert list((smoke_run / "tensorboard").glob("events.*"))
    assert sorted(path.name for path in (smoke_run / "samples").iterdir()) == [f"step-{step:07d}.png" for step in (0, 18, 36)]
    assert sorted(path.name for path in (smoke_run / "matches").iterdir()) == [f"step-{step:07d}.png" for step in (18, 36)]
    assert Image.open(smoke_run / "images.png").width == 20 * 34 + 2
    assert {(row["kind"], row["step"]) for row in rows(smoke_run)} >= {("score", 0), ("refresh", 0), ("train", 9), ("score", 36)}


def test_a_run_with_one_image_left_logs_valid_json(command, images, tmp_path):
    pair = tmp_path / "pair"
    pair.mkdir()
    for path in sorted(images.iterdir())[:2]:
        shutil.copy(path, pair)
    result = command("train.py", *words(pair, tmp_path / "run", *TINY, "data.holdout=0.5", "train.epochs=1"))
    assert result.returncode == 0, result.stderr
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def test_odd_names_do_no_harm(command, images, tmp_path):
    odd = tmp_path / "100 [é] #1: no"
    odd.mkdir()
    for i, path in enumerate(sorted(images.iterdir())[:4]):
        shutil.copy(path, bytes(odd) + [b"/\xff.png", "/ü 😀.png".encode(), b"/line\nbreak.png", b"/-x.png"][i])
    (odd / "broken\udcff.png").write_bytes(b"")
    run = tmp_path / "run ü"
    for epochs in (1, 2):
        result = command("train.py", *words(odd, run, *TINY, f"train.epochs={epochs}"))
        assert result.returncode == 0, result.stderr
    assert load_config(run / "config.yaml").data.path == str(odd)


def test_dry_run_tells_the_costs_and_writes_nothing(command, smoke, tmp_path):
    result = command("train.py", *smoke, "--run", tmp_path / "run", "--dry-run", "--device", "cpu", "train.micro_batch=3")
    assert result.returncode == 0, result.stderr
    for fact in (
        "reject: share",
        " 13,771\n",
        "GMAC",
        "a step  ",
        "times\n",
        "peak memory",
        "a refresh",
        "the run",
        " hours on this cpu\n",
    ):
        assert fact in result.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epochs, sheet_epochs, sheets", [(3, 2, 3), (4, 2, 3), (1, 9, 2)])
def test_the_dry_run_counts_the_sheets_and_saves_of_a_run(epochs, sheet_epochs, sheets, tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr(costs, "RunLog", lambda folder: folders.append(folder) or RunLog(folder))
    trainer = tiny_trainer([*TINY, f"train.epochs={epochs}", f"log.sheet_epochs={sheet_epochs}"])
    report = dry_run(trainer.config, methods.make, trainer.device, num_images=8)
    told = {line[:23].strip(): line.split()[-2] for line in report.splitlines() if line.endswith(" times")}
    assert len(folders) == 1 and not folders[0].exists()
    drawn, saved, best = [], [], iter(range(100, 0, -1))  # every score is better than the one before
    monkeypatch.setattr(trainer, "draw_and_score", lambda: drawn.append(trainer.step) or {"energy_distance": next(best)})
    monkeypatch.setattr(trainer, "save", lambda name, chosen_by=None: saved.append(name))
    trainer.run(RunLog(tmp_path / "run"))
    assert told["a sheet and its score"] == str(len(drawn)) == str(sheets)
    assert told["a save"] == str(len(saved)) == str(epochs + sheets - 1)


def test_the_dry_run_counts_saves_by_the_time_of_the_run():
    def saves(seconds, *words):
        return costs.saves(load_config(None, list(words)).log.checkpoint_minutes, seconds, 350)

    assert [saves(seconds) for seconds in (0.0, 299.0, 3601.0, 1e9)] == [1, 1, 13, 350]
    assert saves(10.0, "log.checkpoint_minutes=0") == 350


def test_the_dry_run_tells_what_torch_reserves_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2.5e9)
    assert dryrun._peak_memory(torch.device("cuda")) == "2.50 GB reserved by torch"


# --- not a number


def test_it_stops_before_an_update_that_is_not_finite(tmp_path):
    trainer = tiny_trainer()
    embedding = trainer.method.embedding

    def spoilt(images):
        return [level * float("nan") if trainer.step == 3 and images.requires_grad else level for level in embedding(images)]

    trainer.method.embedding = spoilt
    with pytest.raises(UserError, match=r"not finite at step 3, .*last\.pt, of step 2, is good"):
        trainer.run(RunLog(tmp_path))
    saved = checkpoint.load(tmp_path / "checkpoints" / "last.pt")
    assert saved["step"] == 2 and all(value.isfinite().all() for value in saved["method"]["learner"]["network"].values())
    assert all(parameter.isfinite().all() for parameter in trainer.method.generator.parameters())


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    trainer = tiny_trainer()
    trainer.write_to(RunLog(tmp_path))
    trainer.save("last")
    trainer.writer.wait()
    before = (tmp_path / "checkpoints" / "last.pt").read_bytes()
    with torch.no_grad():
        next(trainer.method.generator.parameters()).view(-1)[0] = float("inf")
    with pytest.raises(UserError, match="a weight is not finite at step 0"):
        trainer.save("last")
    assert (tmp_path / "checkpoints" / "last.pt").read_bytes() == before


@pytest.mark.parametrize("rate", ["1e4", "1e20", "1e38", "1e300"])
def test_an_absurd_learning_rate_ends_in_one_line(rate, images, command, tmp_path):
    line = one_line(command("train.py", *words(images, tmp_path / "run", *TINY, f"train.learning_rate={rate}")))
    assert "not finite at step" in line and "Lower train.learning_rate" in line
    last = tmp_path / "run" / "checkpoints" / "last.pt"
    if last.exists():
        state = checkpoint.load(last)
        assert all(value.isfinite().all() for part in (state["method"]["learner"]["network"], state["sampled"]) for value in part.values())


# --- the published recipe


def test_the_paper_recipe_takes_three_steps():
    config = to_dict(load_config(ROOT / "configs" / "paper-256.yaml"))
    config["train"]["batch_size"] = 1  # its own 4, and 20 n candidates, take minutes on a CPU
    config["imle"]["pool_factor"] = 0.5
    images = torch.randint(256, (2, 3, 256, 256), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    trainer = trainer_of(from_dict(config), images, pretrained=False)
    trainer.write_to(SilentLog())
    before = [parameter.detach().clone() for parameter in trainer.method.generator.parameters()]
    for _ in range(3):
        trainer.advance()
    assert trainer.method.losses.isfinite().all() and trainer.method.losses.min() > 0
    assert all((a != b).any() for a, b in zip(before, trainer.method.generator.parameters()))


def test_varied_images_are_told_what_to_expect():
    line = train.advice(torch.eye(5))  # all equally far from each other
    assert len(line) == 1 and "the nearest other one is 1.00 times as far" in line[0]
    assert train.advice(torch.tensor([[0.0], [0.1], [9.0], [9.1]])) == []  # twins
    assert train.advice(torch.zeros(4, 2)) == []
