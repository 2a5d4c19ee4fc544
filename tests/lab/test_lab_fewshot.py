"""The few-shot experiment: equal budgets, runs that go on where they were stopped, tables that say what was found."""

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import copied_images

from errors import UserError
from lab import cells, fewshot
from lab.cells import Cell, ImageSet, Method, method_of, set_of
from lab.fewshot_figures import SCORES, draw_curves
from lab.intervals import interval, shown
from models import inversion
from models.perceptual import load_embedding
from models.pixels import to_float
from training import checkpoint
from training.trainer import Trainer, Work

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "configs" / "smoke-32.yaml")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of sixteen images."""
    return copied_images(tmp_path_factory.mktemp("images"), 16)


@pytest.fixture
def cell(images, tmp_path, monkeypatch):
    """A cell whose samples are scored by their mean, which takes no time."""
    monkeypatch.setattr(cells, "score", lambda cell, trainer: {"fd_heldout": trainer.method.numbers(trainer.step)["loss"]})
    return Cell(SMOKE, ImageSet("few", str(images)), "imle", ("imle.reject=none",), 3, 8, str(tmp_path / "run"))


def test_the_interval_is_students():
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert shown([1.0, 2.0, 3.0], 1) == "2.0 +- 2.5" and shown([4.25], 2) == "4.25"
    assert all(map(math.isnan, interval([1.0, math.nan, 3.0])))


def test_methods_are_names_or_settings():
    assert method_of("imle") == ("imle", cells.METHODS["imle"])
    assert method_of("a b:train.epochs=1;seed=2") == ("a b", Method(("train.epochs=1", "seed=2")))
    assert method_of("plain:") == ("plain", Method())
    assert method_of("gan=x/y.yaml") == ("gan", Method((), "x/y.yaml"))
    assert method_of("gan=y.yaml:seed=2") == ("gan", Method(("seed=2",), "y.yaml"))
    with pytest.raises(UserError, match="--methods fastgan: not one of imle, imle-n"):
        method_of("fastgan")


@pytest.mark.parametrize("name", cells.METHODS)
def test_every_method_is_a_recipe(name, cell):
    method_cell = Cell(cell.recipe, cell.set, name, cells.METHODS[name].settings, 0, 8, cell.folder)
    assert method_cell.config(7).train.epochs == 7


def test_sets_are_one_folder_or_two():
    assert set_of("a=x") == ImageSet("a", "x") and set_of("a=x,y=z") == ImageSet("a", "x", "y=z")
    assert set_of("a=x#10") == ImageSet("a", "x", None, 10)
    for word in ("a", "=x", "a=", "a=x,", "a=,y", "a=#3", "a=x#", "a=x#ten", "a=x#10,y"):
        with pytest.raises(UserError, match="write NAME=IMAGES"):
            set_of(word)


def test_a_set_without_held_out_images_keeps_a_quarter_of_its_own_apart(cell):
    train, heldout, data = cells.load(*cell.which())
    assert len(train) == 12 and len(heldout) == 4
    assert set(data["names"]).isdisjoint(data["heldout"]) and len(data["names"]) == 12


def test_a_set_can_train_on_some_images_and_hold_out_the_others(cell):
    some = Cell(cell.recipe, ImageSet("some", cell.set.images, None, 3), cell.method, cell.settings, 0, 8, cell.folder)
    train, heldout, data = cells.load(*some.which())
    assert len(train) == 3 and len(heldout) == 13 and set(data["names"]).isdisjoint(data["heldout"])
    for number in (16, 20):
        with pytest.raises(UserError, match=f"has 16 images; train on fewer of them than {number}"):
            ImageSet("all", cell.set.images, None, number).share(16)
    assert cell.trainer().n == 12


def test_a_stopped_run_ends_where_an_undisturbed_one_does(cell, tmp_path, monkeypatch):
    whole = cells.run(cell, 5)
    other = replace(cell, folder=str(tmp_path / "other"))
    advance, scored = Trainer.advance, cells.score
    with monkeypatch.context() as patch:
        patch.setattr(cells, "score", lambda cell, trainer: 1 / 0 if trainer.step == 5 else scored(cell, trainer))  # 1/2 of the way
        with pytest.raises(ZeroDivisionError):
            cells.run(other, 5)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", lambda trainer: 1 / 0 if trainer.step == 8 else advance(trainer))
        with pytest.raises(ZeroDivisionError):
            cells.run(other, 5)
    assert len(json.loads((Path(other.folder) / "curve.json").read_text())) == 3
    assert [without_seconds(point) for point in cells.run(other, 5)] == [without_seconds(point) for point in whole]
    one, same = (torch.load(Path(c.folder) / "checkpoints" / "last.pt", weights_only=True) for c in (cell, other))
    assert all(torch.equal(one["sampled"][name], same["sampled"][name]) for name in one["sampled"])
    assert cells.run(other, 5) == json.loads((Path(other.folder) / "curve.json").read_text())
    logs = [(Path(c.folder) / "metrics.jsonl").read_text().splitlines() for c in (cell, other)]
    assert logs[0] and [json.loads(row)["step"] for row in logs[0]] == [json.loads(row)["step"] for row in logs[1]]


def test_a_run_starts_from_another_and_goes_on_when_that_is_gone(cell, tmp_path):
    cells.run(cell, 2)
    source = Path(cell.folder).rename(tmp_path / "source")
    other = replace(cell, settings=(*cell.settings, f"train.start_from={source}", "train.learning_rate=0"), seed=4)
    assert other.prior() == str(source) and not cell.prior()
    cells.run(other, 2)
    states = [checkpoint.load(folder / "checkpoints" / "last.pt") for folder in (Path(other.folder), source)]
    for name, weights in states[1]["sampled"].items():
        torch.testing.assert_close(states[0]["sampled"][name], weights)
    shutil.rmtree(source)
    (Path(other.folder) / "curve.json").unlink()
    cells.run(other, 2)
    assert checkpoint.load(Path(other.folder) / "checkpoints" / "last.pt")["started_from"] == states[0]["started_from"]


GAN = """method: fastgan
data: {resolution: 32}
train: {batch_size: 8}
fastgan: {latent_dim: 8, width: 4, perceptual: pixels}
"""


def test_a_method_of_another_recipe_runs_and_is_searched_for_held_out_images(cell, tmp_path, monkeypatch):
    (tmp_path / "gan.yaml").write_text(GAN)
    for name, value in (("NUM_LATENTS", 8), ("STARTS", 2), ("SCREENING", 2), ("STEPS", 4)):
        monkeypatch.setattr(inversion, name, value)
    _, method = method_of(f"gan={tmp_path / 'gan.yaml'}:train.learning_rate=1e-3")
    gan = replace(cell, recipe=method.recipe, settings=method.settings, method="gan", backtracked=3)
    curve = cells.run(gan, 4)
    assert [point["step"] for point in curve] == [1, 2, 4, 8] and "pit" not in curve[-1]
    assert curve[-1]["backtracking"] > 0 and not any("backtracking" in point for point in curve[:-1])
    train, heldout, _ = cells.load(*gan.which())
    embed = load_embedding(gan.judge)
    with torch.no_grad():
        a, b = (embed(to_float(images)) for images in (heldout[:3], train))
    nearest = torch.stack([torch.stack([(x - y).square().flatten(1).sum(dim=1) for x, y in zip(a, b)]).sum(dim=0) for a in zip_rows(a)])
    assert curve[-1]["backtracking_of_copies"] == pytest.approx(nearest.amin(dim=1).mean().item(), rel=1e-4)


def test_recipes_of_different_resolution_are_scored_at_one_size(cell, monkeypatch):
    small, large = (replace(cell, settings=(*cell.settings, f"data.resolution={side}"), side=48) for side in (32, 64))
    assert small.which() != large.which() and small.judged() == large.judged()
    assert cells.load(*small.judged())[0].shape[-1] == 48 and cells.load(*small.which())[0].shape[-1] == 32
    images = cells.load(*large.judged())[0]
    enlarged = cells.resized(cells.resized(images, 24), 48)
    assert enlarged.shape == images.shape and enlarged.dtype == torch.uint8
    assert cells.sharpness_of(images, small)["fine_power"] == pytest.approx(1)
    assert cells.sharpness_of(enlarged, small)["fine_power"] < 0.3
    assert torch.equal(
        cells.resized(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), 12), torch.full((1, 3, 12, 12), 255, dtype=torch.uint8)
    )


def zip_rows(maps):
    """Return the maps of each image on their own."""
    return [[level[row : row + 1] for level in maps] for row in range(len(maps[0]))]


def test_methods_whose_recipes_make_other_images_are_not_compared(images, tmp_path):
    (tmp_path / "gan.yaml").write_text(GAN.replace("32", "64"))
    words = ["--budget", "9", "--config", SMOKE, "--out", str(tmp_path / "out"), "--sets", f"few={images}"]
    with pytest.raises(UserError, match="^--methods: their recipes make different images of a set"):
        fewshot.main([*words, "--methods", "rs", f"gan={tmp_path / 'gan.yaml'}"])


def without_seconds(point):
    return {key: value for key, value in point.items() if key != "seconds"}


def test_a_run_is_scored_at_parts_of_its_way_and_charged_for_training_alone(cell, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cells, "now", lambda device: clock[0])

    def costing(function, seconds):
        def charged(*words):
            clock[0] += seconds
            return function(*words)

        return charged

    monkeypatch.setattr(Trainer, "advance", costing(Trainer.advance, 1.0))
    monkeypatch.setattr(cells, "score", costing(cells.score, 100.0))
    curve = cells.run(cell, 4)
    assert [point["step"] for point in curve] == [1, 2, 4, 8] and [point["seconds"] for point in curve] == [1, 2, 4, 8]
    assert curve[-1]["rejected_share"] == 0 and curve[-1]["pit"] == pytest.approx(1 / 25)


def test_jobs_that_take_turns_are_told_apart_under_noise(monkeypatch):
    clock, random = [0.0], torch.Generator().manual_seed(0)

    def job(seconds):
        def work():
            disturbed = 1 + 3 * (int(clock[0]) % 20 < 9)  # for long times all take four times as long
            clock[0] += seconds * disturbed * (0.9 + 0.2 * torch.rand((), generator=random).item())

        return work

    monkeypatch.setattr(cells, "now", lambda device: clock[0])
    found = cells.by_turns({"one": job(0.1), "same": job(0.1), "double": job(0.2)}, 81, torch.device("cpu"))
    assert found["same"] == pytest.approx(found["one"], rel=0.03) and found["double"] == pytest.approx(2 * found["one"], rel=0.03)


def test_costs_that_are_known_stay_and_others_are_put_in_proportion(cell, monkeypatch):
    other = replace(cell, method="small pool", settings=("imle.reject=none", "imle.refresh_epochs=1", "imle.pool_batch=6"))
    cell = replace(cell, settings=(*cell.settings, "imle.pool_batch=6"))
    monkeypatch.setattr(cells, "by_turns", lambda jobs, rounds, device: dict.fromkeys(jobs, 2.0))
    both = {"every other": cell, "every": other}
    assert cells.epoch_costs(both, {}) == {"every other": 8.0, "every": 12.0}  # two steps, half of four batches of a pool or all
    assert cells.epoch_costs(both, {"every": 3.0, "gone": 9.0}) == {"every": 3.0, "every other": 2.0, "gone": 9.0}


def test_a_job_of_any_method_is_charged_as_often_as_it_recurs(cell, monkeypatch):
    """What a job does in part is charged as a whole; the CPU's time is the jobs' own."""
    clock = [0.0]
    monkeypatch.setattr(cells, "now", lambda device: clock[0])

    def job(seconds):
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    class Method:
        def work(self):
            return {"critic": Work(job(2.0), 10), "painter": Work(job(3.0), 0.5, part=0.25)}

    made = Trainer(cell.config(), Method(), 12, data={}, device=torch.device("cpu"))
    monkeypatch.setattr(Cell, "trainer", lambda cell: made)
    assert cells.epoch_costs({"a": cell, "b": cell}, {}) == pytest.approx({"a": 26.0, "b": 26.0})


def test_a_method_without_refreshes_has_no_state_of_matching(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "score", "step": 0}\n')
    assert cells.state_of_matching(tmp_path) == {}
    assert fewshot.scores([{"fd_heldout": 1.0}]).count("-") == len(fewshot.COLUMNS) - 1


@pytest.mark.parametrize(
    "name, settings",
    [
        ("rs", ("imle.match=every", "imle.reject=quantile", "imle.refresh_epochs=2")),
        ("adaptive", ("imle.match=adaptive", "imle.reject=none", "imle.staleness=1", "imle.force_resample=2")),
    ],
)
def test_a_run_of_an_earlier_revision_goes_on_and_its_seconds_count(name, settings, images, cell, monkeypatch):
    """Of twelve images, as here; it stopped at step 7 with a checkpoint of format 1, which the laboratory gave its seconds."""
    run = Path(cell.folder)
    shutil.copytree(ROOT / "tests" / "imle" / "old_runs" / name, run)
    path = run / "checkpoints" / "last.pt"
    torch.save(torch.load(path, weights_only=True) | {"cpu_seconds": 1000.0}, path)
    (run / "curve.json").write_text(json.dumps([{"step": 2, "cpu_seconds": 250.0}, {"step": 3, "cpu_seconds": 500.0}]))
    small = (
        "model.channels=[8,8,8,8]",
        "model.style_dim=8",
        "model.latent_dim=8",
        "loss.perceptual=pixels",
        "train.schedule=constant",
        "train.batch_size=6",
    )
    taken = []
    advance = Trainer.advance
    monkeypatch.setattr(Trainer, "advance", lambda trainer: taken.append(trainer.step) or advance(trainer))
    curve = cells.run(replace(cell, method=name, settings=(*small, *settings), seed=0), 8)
    assert taken == [*range(7, 16)]
    assert [point["step"] for point in curve] == [2, 3, 8, 16] and all(1000 < point["seconds"] < 1100 for point in curve[2:])
    assert curve[-1]["pit"] is not None


def test_the_table_gives_means_intervals_and_differences():
    def point(value, copies=None):
        return {**dict.fromkeys(fewshot.COLUMNS, 0.0), "fd_heldout": value, "copy_rate": copies}

    results = {"few": {name: [[*map(point, range(end + 3, end - 1, -1))] for end in ends] for name, ends in (("a", (1, 3)), ("b", (2, 4)))}}
    text = fewshot.tables(results, {"a": Method(), "b": Method(("seed=1",))}, {"few": {"fd_heldout": 7.25, "copy_rate": 0.0625}})
    rows = [[word.strip() for word in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    head, real, one, other, *way = rows
    assert [len(row) for row in rows[:4]] == [len(head)] * 4 and "`b`: seed=1" in text
    assert [len(row) for row in way] == [9] * 3 and way[0][1::4] == ["FD held-out at 0.125", "copies at 0.125"]
    assert way[2] == ["b", "6.0 +- 12.7", "5.0 +- 12.7", "4.0 +- 12.7", "3.0 +- 12.7", "-", "-", "-", "-"]
    assert {name: word for name, word in zip(head, real) if word != "-"} == {
        "method": "real images",
        "FD held-out": "7.2",
        "copies": "0.062",
    }
    assert one[head.index("FD held-out")] == "2.0 +- 12.7" and one[head.index("copies")] == "-"
    assert one[-1] == "-" and other[-1] == "1.0 +- 0.0" and head[-1] == "held-out less a's"


def test_curves_are_drawn_where_a_score_is_missing(tmp_path):
    """Few training images have no share of near copies."""
    point = {**dict.fromkeys(SCORES, 1.5), "seconds": 2.0, "copy_rate": None}
    draw_curves({"few": {"a": [[point] * 4] * 3}}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_real_images_are_scored_as_samples_are(cell, monkeypatch):
    real = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    held = torch.cat([real[:5] + 1e-4, real[5:20] + 50])
    monkeypatch.setattr(cells, "references", lambda *which: (real, held))
    monkeypatch.setattr(cells, "sharpness_of", lambda *images: {})  # tested below
    found = cells.reference_scores(cell)
    assert found["copy_rate"] == 5 / 20  # of the held-out images, not of the training images
    assert found["fd_heldout"] == pytest.approx(cells.frechet.frechet_distance(real, held))


def test_sharpness_is_one_for_the_training_images_and_less_for_blurred_ones(cell):
    images = cells.load(*cell.which())[0]
    own = cells.sharpness_of(images, cell)
    soft = cells.sharpness_of(torch.nn.functional.avg_pool2d(images.float(), 3, 1, 1).round().to(torch.uint8), cell)
    assert own == {"fine_power": pytest.approx(1), "swd": pytest.approx(0, abs=1e-9)}
    assert soft["fine_power"] < 0.5 and soft["swd"] > 0.1


def lab(*words):
    return subprocess.run([sys.executable, "-m", "lab.fewshot", *map(str, words)], cwd=ROOT, capture_output=True, text=True)


def test_the_command_makes_tables_figures_and_runs(images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "costs.json").write_text('{"12": {"small": 0.1}}')  # not to be measured here
    words = ("--budget", 0.8, "--samples", 8, "--config", SMOKE, "--workers", 1, "--out", tmp_path / "out", "--sets", f"few={images}")
    done = lab(*words, "--methods", "small:model.style_dim=16", "--seeds", 1)
    assert done.returncode == 0, done.stderr
    for name in ("results.md", "leaderboard.md", "results.json", "curves.png", "samples-few.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    (curve,) = found["curves"]["few"]["small"]
    assert len(curve) == 4 and all(math.isfinite(point["fd_heldout"]) for point in curve)
    assert (tmp_path / "out" / "few" / "small" / "seed0" / "checkpoints" / "last.pt").exists()
    assert "| small | " in done.stdout
    assert found["real images"]["few"]["fd_heldout"] > 0 and "| real images | " in done.stdout
    for other, told in (
        (("--samples", 9), "samples"),
        (("--methods", "small:model.style_dim=8"), "method small"),
        (("--sets", f"few={images},{images}"), "set few"),
    ):
        with pytest.raises(UserError, match=f"holds runs of another {told}; choose another folder"):
            fewshot.main([str(word) for word in (*words, *other)])
    asked = json.loads((tmp_path / "out" / "asked.json").read_text())
    (tmp_path / "out" / "asked.json").write_text(json.dumps(asked | {"device": "cuda"}))
    with pytest.raises(UserError, match="holds runs of another device; choose another folder"):
        fewshot.main([str(word) for word in (*words, "--methods", "small:model.style_dim=16", "--device", "cpu")])


def test_the_leaderboard_has_the_nearest_method_first_and_its_command():
    def runs(*distances):
        rest = {"seconds": 60.0, "times_real": 2.0, "copy_rate": 0.01}
        return [[{**rest, "fd_heldout": 0.0}, {**rest, "fd_heldout": distance}] for distance in distances]

    real = {"few": {"fd_heldout": 15.0, "copy_rate": 0.02}}
    table = fewshot.leaderboard(
        {"few": {"far": runs(40.0, 42.0), "near": runs(20.0, 22.0)}}, real, "`python -m lab.fewshot x`, revision abc"
    )
    assert table.splitlines()[2:] == [
        "| few | near | 60 +- 0 | 21.0 +- 12.7 | 2.00 +- 0.00 | 0.010 +- 0.000 | - |",
        "| few | far | 60 +- 0 | 41.0 +- 12.7 | 2.00 +- 0.00 | 0.010 +- 0.000 | - |",
        "| few | real images | - | 15.0 | 1 | 0.020 | - |",
        "",
        "`python -m lab.fewshot x`, revision abc",
    ]


def test_methods_with_and_without_a_prior_are_not_ranked_together(images, tmp_path):
    words = ["--config", str(SMOKE), "--out", str(tmp_path / "out"), "--sets", f"few={images}", "--budget", "9"]
    adapted = f"adapted={ROOT / 'configs' / 'adapt-emoji-32.yaml'}"
    with pytest.raises(UserError, match="^--methods: some start from a prior and others .* not ranked together"):
        fewshot.main([*words, "--methods", "small:", adapted])
    with pytest.raises(UserError, match="^--methods: some start from a prior and others .* not ranked together"):
        fewshot.main([*words, "--methods", "small:", f"more:train.start_from={tmp_path}"])
    assert not (tmp_path / "out").exists()


def test_a_budget_that_is_too_small_to_be_parted_is_refused(images, tmp_path):
    (tmp_path / "costs.json").write_text('{"12": {"small": 0.1, "large": 0.25}}')
    words = ["--config", str(SMOKE), "--out", str(tmp_path), "--sets", f"few={images}", "--methods", "small:", "large:"]
    with pytest.raises(UserError, match="--budget 1.9: .* less than an epoch; give 2 seconds or more"):
        fewshot.main([*words, "--budget", "1.9"])


@pytest.mark.parametrize(
    "words, told",
    [
        (("--methods", "gan"), "--methods gan: not one of"),
        (("--sets", "x"), "--sets x: write"),
        (("--budget", "0"), "not positive"),
        (("--config", "none.yaml"), "none.yaml"),
        (("--methods", "a:train.epoch=1"), "train.epoch: no such setting"),
        (("--sets", "a=nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_told_in_a_line(words, told, tmp_path, capsys):
    try:
        fewshot.main(["--budget", "1", "--out", str(tmp_path / "out"), *words])
    except UserError as error:
        assert told in str(error)
    except SystemExit as ended:
        assert ended.code == 2 and told in capsys.readouterr().err
    else:
        pytest.fail("it was taken")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts processes as Linux shows them")
def test_a_stopped_command_leaves_no_runs_behind(images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "costs.json").write_text('{"12": {"imle": 0.1}}')  # not to be measured here
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "lab.fewshot",
            "--budget",
            "600",
            "--seeds",
            "1",
            "--methods",
            "imle",
            "--config",
            SMOKE,
            "--samples",
            "8",
            "--workers",
            "2",
            "--out",
            str(out),
            "--sets",
            f"few={images}",
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    )
    last, patience = out / "few" / "imle" / "seed0" / "metrics.jsonl", time.monotonic() + 100
    while not last.exists() or not last.stat().st_size:
        assert time.monotonic() < patience and process.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    while any(running(child) for child in children):
        assert time.monotonic() < patience
        time.sleep(0.1)


def running(process):
    path = Path(f"/proc/{process}/stat")
    return path.exists() and path.read_text().rsplit(")", 1)[1].split()[0] != "Z"  # which has ended, and nobody has asked how
