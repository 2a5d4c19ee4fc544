"""train.sh and environment.sh: which words reach which script, from where, and how it all ends. Nothing is trained.

Copies of both run in a folder whose .venv holds a stand-in for python that writes down what it is asked to do.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from metrics.measure import QUICK

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="shell scripts")
STAND_IN = """#!/usr/bin/env bash
if [ "$1" = -c ]; then
  case "$2" in *torch*) echo "${DEVICE:-cpu}" ;; *version_info*) exit "${UNSUITABLE:-0}" ;; *methods*) echo "$MORE" ;; esac
  exit 0
fi
if [ "$1" = -m ]; then shift; fi
{ basename "$1"; shift; printf '  %s\\n' "$@"; } >> "$LOG"
last="$(grep -v '^  ' "$LOG" | tail -n 1)"
if [ "$last" = "$FAIL" ]; then exit "$CODE"; fi
"""


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout, with a space in its path, that is set up but for the packages."""
    folder = tmp_path / "my checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    for name in ("train.sh", "environment.sh", "requirements.txt"):
        shutil.copy(ROOT / name, folder)
    for name in ("python", "pip"):
        (folder / ".venv" / "bin" / name).write_text(STAND_IN)
        (folder / ".venv" / "bin" / name).chmod(0o755)
    return folder


@pytest.fixture
def run(checkout, tmp_path):
    """Return a function that runs train.sh and gives its result and the calls it made, [[script, word, ...], ...]."""

    def run(*words, cwd=checkout, **variables):
        log = tmp_path / "log"
        log.write_text("")
        environment = {**os.environ, "LOG": str(log), "FAIL": "", "CODE": "0", "MORE": "", **variables}
        result = subprocess.run(
            [checkout / "train.sh", *map(str, words)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60
        )
        calls = []
        for line in log.read_text().splitlines():
            calls[-1].append(line[2:]) if line.startswith("  ") else calls.append([line])
        return result, [call for call in calls if call[0] != "pip"]

    return run


def test_without_words_it_trains_draws_and_scores_the_shipped_set(run, checkout):
    result, calls = run()
    assert result.returncode == 0, result.stderr
    assert calls == [
        [
            "train.py",
            "--config",
            f"{checkout}/configs/fluent-faces-128.yaml",
            "--run",
            "runs/fluent-faces-128",
            "--device",
            "cpu",
            f"data.path={checkout}/data/fluent_faces",
        ],
        ["sample.py", "runs/fluent-faces-128", "--out", "runs/fluent-faces-128/drawn", "--num", "64", "--grid", "--device", "cpu"],
        [
            "evaluate.py",
            "runs/fluent-faces-128",
            "--device",
            "cpu",
            "--features",
            "effnet-lite2",
            "--metrics",
            QUICK,
            "--heldout",
            f"{checkout}/data/fluent_faces_heldout",
        ],
    ]
    assert "  python sample.py runs/fluent-faces-128 --out film" in result.stdout
    assert "Report    runs/fluent-faces-128/evaluation/effnet-lite2/report.html" in result.stdout


def test_images_with_spaces_from_another_folder(run, checkout, tmp_path):
    images = tmp_path / "elsewhere" / "my cats"
    images.mkdir(parents=True)
    result, calls = run("my cats", "train.epochs=3", "--run", "out dir", "data.background=light blue", cwd=tmp_path / "elsewhere")
    assert result.returncode == 0, result.stderr
    assert calls[0] == [
        "train.py",
        "--config",
        f"{checkout}/configs/photos-128.yaml",
        "--run",
        "out dir",
        "--device",
        "cpu",
        "data.path=my cats",
        "train.epochs=3",
        "data.background=light blue",
    ]
    assert calls[1][:4] == ["sample.py", "out dir", "--out", "out dir/drawn"] and "--heldout" not in calls[2]
    line = next(line for line in result.stdout.splitlines() if "--nearest" in line)
    assert subprocess.run(["bash", "-c", f"printf '%s\\n' {line}"], capture_output=True, text=True).stdout.splitlines() == [
        "python",
        f"{checkout}/sample.py",
        "out dir",
        "--out",
        "more",
        "--num",
        "256",
        "--nearest",
        "my cats",
    ]


def test_a_gpu_takes_the_larger_recipe_and_the_whole_score(run, checkout, tmp_path):
    (tmp_path / "cats.zip").write_text("")
    _, calls = run(tmp_path / "cats.zip", DEVICE="cuda")
    assert calls[0][1:7] == ["--config", f"{checkout}/configs/fewshot-256.yaml", "--run", "runs/cats-fewshot-256", "--device", "cuda"]
    assert calls[2] == ["evaluate.py", "runs/cats-fewshot-256", "--device", "cuda"]
    assert run(tmp_path / "cats.zip", "--device", "cpu", DEVICE="cuda")[1][0][2].endswith("photos-128.yaml")


def test_a_recipe_and_a_path_that_are_given_are_taken(run, tmp_path):
    _, calls = run("--config", "my own.yaml", "imle.pool_factor=3")
    assert calls[0] == ["train.py", "--config", "my own.yaml", "--run", "runs/my own", "--device", "cpu", "imle.pool_factor=3"]
    _, calls = run(f"data.path={tmp_path}")
    assert f"data.path={tmp_path}" in calls[0] and calls[0][4] == f"runs/{tmp_path.name}-photos-128"
    assert "--heldout" not in calls[2]


@pytest.mark.parametrize(
    "minutes, recipe",
    [(1, "fluent-faces-64"), (4, "fluent-faces-64"), (5, "photos-128"), (59, "photos-128"), (60, "photos-256"), (999999, "photos-256")],
)
def test_minutes_choose_a_recipe_that_is_there_and_leave_time_for_scores(minutes, recipe, run, checkout, tmp_path):
    result, calls = run(tmp_path, "--minutes", minutes, "seed=1")
    assert result.returncode == 0 and f"No GPU: about {minutes} min with {recipe}.yaml, scores included" in result.stdout
    assert (ROOT / "configs" / f"{recipe}.yaml").exists()
    assert calls[0][1:5] == ["--config", f"{checkout}/configs/{recipe}.yaml", "--run", f"runs/{tmp_path.name}-{recipe}"]
    assert calls[0][7:] == [f"data.path={tmp_path}", "--scored", f"train.minutes={minutes}", "seed=1"]


def test_minutes_are_kept_with_the_shipped_images_another_recipe_and_a_gpu(run, checkout, tmp_path):
    _, calls = run("--minutes", 30)
    assert calls[0][2] == f"{checkout}/configs/fluent-faces-128.yaml" and "train.minutes=30" in calls[0] and "--heldout" in calls[2]
    _, calls = run("--minutes", 30, "--config", "own.yaml")
    assert calls[0] == ["train.py", "--config", "own.yaml", "--run", "runs/own", "--device", "cpu", "--scored", "train.minutes=30"]
    _, calls = run(tmp_path, "--minutes", 30, DEVICE="cuda")
    assert calls[0][2] == f"{checkout}/configs/fewshot-256.yaml" and calls[0][-2:] == ["--scored", "train.minutes=30"]
    _, calls = run(tmp_path)
    assert calls[0][-2:] == ["--scored", "train.minutes=10"]
    _, calls = run(tmp_path, "train.minutes=7")
    assert calls[0][-1] == "train.minutes=7" and "--scored" not in calls[0]
    _, calls = run(tmp_path, DEVICE="cuda")
    assert not [word for word in calls[0] if word.startswith("train.minutes")]


def test_several_processes_are_started_by_torchrun(run, checkout):
    _, alone = run("--processes", "1")
    _, calls = run("--processes", "4", "train.epochs=3")
    assert calls[0] == [
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "4",
        "--",
        f"{checkout}/train.py",
        *alone[0][1:],
        "train.epochs=3",
    ]
    assert alone[0][0] == "train.py" and calls[1:] == alone[1:]


@pytest.mark.parametrize(
    "script, code, calls", [("train.py", 2, 1), ("train.py", 3, 1), ("train.py", 130, 1), ("sample.py", 2, 2), ("evaluate.py", 2, 3)]
)
def test_exit_codes_are_passed_on(script, code, calls, run):
    result, made = run(FAIL=script, CODE=str(code))
    assert result.returncode == code and len(made) == calls


def test_missing_weights_for_the_score_are_no_failure(run):
    result, _ = run(FAIL="evaluate.py", CODE="3")
    assert result.returncode == 0 and "this needs none: python evaluate.py runs/fluent-faces-128 --features effnet-lite2" in result.stdout


@pytest.mark.parametrize(
    "words, told",
    [
        (["--run"], "--run needs a value"),
        (["--run", ""], "--run needs a value"),
        (["--nonsense"], "--nonsense: no such option"),
        (["--processes", "0"], "--processes 0: not a number"),
        (["--processes", "all"], "--processes all: not a number"),
        (["nowhere"], "nowhere: no such folder or zip of images"),
        ([".", ".."], "two folders given, . and .."),
        (["--dry-run"], "--dry-run: no such option"),
        (["--minutes", "0"], "--minutes 0: not a number"),
        (["--minutes", "soon"], "--minutes soon: not a number"),
    ],
)
def test_mistakes_are_one_line(words, told, run):
    result, calls = run(*words)
    assert result.returncode == 2 and result.stderr.startswith(f"error: {told}") and result.stderr.count("\n") == 1 and not calls


def test_help_says_how(run):
    result, calls = run("--help")
    assert result.returncode == 0 and "./train.sh [IMAGES]" in result.stdout and not calls


def test_a_folder_with_an_equals_sign_is_a_folder(run, checkout):
    (checkout / "a=b").mkdir()
    (checkout / "c=d.zip").write_text("")
    for word in ("a=b", f"{checkout}/a=b", "c=d.zip"):
        result, calls = run(word, "train.epochs=3")
        assert result.returncode == 0 and calls[0][-2:] == [f"data.path={word}", "train.epochs=3"], result
        assert calls[0][4] == f"runs/{Path(word).stem}-photos-128"
    result, calls = run("a=b", "c=d.zip")
    assert result.returncode == 2 and result.stderr == "error: two folders given, a=b and c=d.zip\n" and not calls
    assert run("e=f")[1][0][-1] == "e=f"  # which train.py refuses


@pytest.mark.parametrize(
    "redirection", [">&-", "2>&-", "<&- >&- 2>&-", "> >(:)", "2>&1 > >(:)", *[">/dev/full 2>&1"] * Path("/dev/full").exists()]
)
@pytest.mark.parametrize("code", ["0", "3"])
def test_what_it_prints_decides_over_nothing(code, redirection, run, checkout, tmp_path):
    (tmp_path / "cats").mkdir()
    script = (checkout / "train.sh").rename(checkout / "real.sh")  # the wait is for a reader that ends without reading
    (checkout / "train.sh").write_text(f'#!/usr/bin/env bash\n{{ sleep 0.2; exec "{script}" "$@"; }} {redirection}\n')
    (checkout / "train.sh").chmod(0o755)
    result, calls = run(tmp_path / "cats", FAIL="evaluate.py", CODE=code)
    assert result.returncode == 0 and [call[0] for call in calls] == ["train.py", "sample.py", "evaluate.py"]
    result, calls = run("nowhere")
    assert result.returncode == 2 and not calls


# --- environment.sh


def test_packages_are_installed_once_and_again_when_they_change(run, checkout, tmp_path):
    def installed():
        run()
        return "pip" in (tmp_path / "log").read_text().split()

    assert [installed(), installed()] == [True, False]
    with open(checkout / "requirements.txt", "a") as file:
        file.write("more\n")
    assert [installed(), installed()] == [True, False]


def test_the_packages_of_a_recipe_s_method_are_installed(run, checkout, tmp_path):
    (checkout / "baselines").mkdir()
    (checkout / "baselines" / "requirements.txt").write_text("more\n")
    run()

    def installed(*words, **variables):
        run(*words, **variables)
        return f"  {checkout}/baselines/requirements.txt" in (tmp_path / "log").read_text().splitlines()

    assert not installed(MORE="baselines/requirements.txt")  # the default recipe needs none
    assert not installed("--config", "other.yaml")
    assert installed("--config", "other.yaml", MORE="baselines/requirements.txt")
    assert not installed("--config", "other.yaml", MORE="baselines/requirements.txt")  # a second time


def test_a_failed_installation_is_tried_again(run):
    for _ in range(2):
        result, calls = run(FAIL="pip", CODE="1")
        assert result.returncode == 1 and not calls
    assert run()[0].returncode == 0


def test_without_a_suitable_python_it_says_so(run, checkout, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "basename", "cksum", "tr", "touch", "env", "sed"):
        (tools / name).symlink_to(shutil.which(name))
    result, calls = run(PATH=str(tools), UNSUITABLE="1")
    assert result.returncode == 2 and result.stderr == "error: Python 3.11 or 3.12 is needed, and none is on the PATH\n" and not calls
