"""Streams that are closed, full, gone or of another alphabet, and the signals of a terminal: none of it decides over results."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import copied_images
from PIL import Image
from test_train import TINY, one_line, rows

from training import checkpoint

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes, terminals and signals of Unix")
needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")

# A command without torch, quick to start, that prints in every way that ours do and writes a file of data meanwhile.
SPEAKER = f"""
import logging, os, subprocess, sys, warnings
sys.path.insert(0, {str(ROOT)!r})
from contextlib import suppress
from tqdm import tqdm
from errors import UserError, run_as_command

def main(words):
    with open(words[0], "w") as data:
        data.write(f"{{data.fileno() > 2}} ")
        data.flush()
        for number in tqdm(range(3), mininterval=0):
            print("line", number, "\\U0001f431 \\udcff \\xe9 end", flush=True)
        print("x" * 10**6)
        warnings.warn("warned \\U0001f431")
        logging.error("logged \\U0001f431")
        for descriptor in (1, 2):
            with suppress(OSError):
                os.write(descriptor, b"raw\\n")
        code = subprocess.run([sys.executable, "-c", "print('child')"]).returncode
        data.write(f"whole {{code}}")
    if words[1] == "user":
        raise UserError("told \\U0001f431")
    if words[1] == "file":
        open(os.path.dirname(words[0]) + "/" + "x" * 300)
    if words[1] == "bug":
        1 / 0
run_as_command(main)
"""
ENDS = {"well": 0, "user": 2, "file": 2, "bug": 1}


@pytest.fixture
def speak(tmp_path):
    """Return a function that runs the speaker, redirected as bash words say, and gives its result and what it wrote."""

    def speak(redirection="", end="well", flags=(), stdout=None, **variables):
        (tmp_path / "speaker.py").write_text(SPEAKER)
        command = ["bash", "-c", f'"$@" {redirection}', "bash", sys.executable, *flags, tmp_path / "speaker.py", tmp_path / "data", end]
        streams = {"capture_output": True} if stdout is None else {"stdout": stdout, "stderr": stdout, "stdin": stdout}
        result = subprocess.run([str(word) for word in command], env={**os.environ, **variables}, timeout=60, **streams)
        return result, (tmp_path / "data").read_text()

    return speak


def closed_pipe():
    """Return the end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def gone_terminal():
    """Return the inner end of a terminal whose window is closed."""
    outer, inner = os.openpty()
    os.close(outer)
    return inner


@pytest.mark.parametrize(
    "redirection",
    [
        ">&-",
        "2>&-",
        "<&-",
        "<&- >&- 2>&-",
        ">&- 2>&-",
        "1</dev/null",
        ">&1 2</dev/null",
        *(pytest.param(full, marks=needs_full) for full in (">/dev/full", "2>/dev/full", ">/dev/full 2>&1")),
    ],
)
@pytest.mark.parametrize("flags", [(), ("-u",)], ids=str)
def test_streams_that_are_closed_or_full_change_nothing(redirection, flags, speak):
    result, data = speak(redirection, flags=flags)
    assert (result.returncode, data) == (0, "True whole 0"), result
    assert b"Exception ignored" not in result.stderr and b"Traceback" not in result.stderr


@pytest.mark.parametrize("stream", [closed_pipe, gone_terminal])
@pytest.mark.parametrize("end", ENDS)
def test_a_pipe_without_reader_and_a_closed_terminal_leave_the_exit_code(end, stream, speak):
    descriptor = stream()
    try:
        result, data = speak(end=end, stdout=descriptor)
    finally:
        os.close(descriptor)
    assert (result.returncode, data) == (ENDS[end], "True whole 0")


@pytest.mark.parametrize("end", ENDS)
def test_of_two_streams_the_good_one_goes_on(end, speak):
    result, data = speak(">&-", end=end)
    assert (result.returncode, data) == (ENDS[end], "True whole 0")
    said = result.stderr.decode()
    assert "warned" in said and "logged" in said and "raw" in said and "100%" in said
    assert {"well": "", "user": "error: told", "file": "xxx: cannot be used (File name too long)", "bug": "ZeroDivisionError"}[end] in said


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "ascii:strict", "utf-8"])
def test_characters_that_an_encoding_lacks_are_escaped(encoding, speak):
    result, data = speak(end="user", PYTHONIOENCODING=encoding)
    assert (result.returncode, data) == (2, "True whole 0")
    cat, e = ("\U0001f431", "\xe9") if encoding == "utf-8" else (r"\U0001f431", r"\xe9" if "ascii" in encoding else "\xe9")
    said = [stream.decode(encoding.split(":")[0]) for stream in (result.stdout, result.stderr)]
    assert f"line 2 {cat} \\udcff {e} end\n" in said[0] and f"error: told {cat}\n" in said[1]


def test_a_pipe_that_does_not_wait_is_waited_for(speak, tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    late = f"import time, sys; time.sleep(1); open({str(tmp_path / 'copy')!r}, 'wb').write(sys.stdin.buffer.read())"
    copy = subprocess.Popen([sys.executable, "-c", late], stdin=reading)
    os.close(reading)
    result, data = speak(stdout=writing)
    os.close(writing)
    copy.wait(60)
    assert (result.returncode, data) == (0, "True whole 0") and b"x" * 10**6 in (tmp_path / "copy").read_bytes()


def test_every_command_ends_this_way():
    commands = [path for folder in (".", "lab", "benchmarks") for path in (ROOT / folder).glob("*.py") if "__main__" in path.read_text()]
    assert len(commands) >= 10
    for path in commands:
        assert path.read_text().endswith('\n\nif __name__ == "__main__":\n    run_as_command(main)\n'), path


# --- train.py, sample.py and evaluate.py as real processes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder with a dozen of the shipped images."""
    return copied_images(tmp_path_factory.mktemp("images"), 12)


@pytest.fixture
def score(images):
    """Return the words that score the images against themselves."""
    return [images, "--data", images, "--features", "effnet-lite0", "--metrics", "fid", "--device", "cpu"]


SMOKE = ROOT / "configs" / "smoke-32.yaml"
LONG = ["train.epochs=100000", "log.sheet_epochs=100000", "log.checkpoint_minutes=100000"]


def real(script, *words):
    """Return the words that run one of our scripts by itself."""
    return [str(word) for word in (sys.executable, ROOT / script, *words)]


def train(images, run, *settings):
    return real("train.py", "--config", SMOKE, "--run", run, "--device", "cpu", f"data.path={images}", *TINY, *settings)


def until_it_trains(run, process, more=1):
    """Wait until that many epochs have been logged from now on."""

    def epochs():
        return sum(row["kind"] == "train" for row in rows(run))

    deadline, wanted = time.monotonic() + 100, epochs() + more
    while epochs() < wanted:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def saved_step(run):
    return checkpoint.load(run / "checkpoints" / "last.pt")["step"]


def test_training_goes_on_to_its_end_when_nobody_reads_and_in_another_alphabet(images, tmp_path):
    descriptor, run, images = closed_pipe(), tmp_path / "run", shutil.copytree(images, tmp_path / "images")
    (images / "broken\U0001f431.png").write_text("x")
    with open(tmp_path / "said", "wb") as said:
        result = subprocess.run(
            train(images, run, "train.epochs=2"),
            stdout=said,
            stderr=descriptor,
            timeout=120,
            env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        )
    os.close(descriptor)
    assert result.returncode == 0 and saved_step(run) == 6
    told = (tmp_path / "said").read_text("cp1252")
    assert told.startswith("13 files -> 12 images") and r"broken\U0001f431.png" in told and f"done: {run}" in told


def test_ctrl_c_to_a_pipe_into_tee_saves(images, tmp_path):
    run, code = tmp_path / "run", tmp_path / "code"
    pipeline = f'"$@" 2>&1 | tee {tmp_path}/log; echo ${{PIPESTATUS[0]}} > {code}'
    process = subprocess.Popen(
        ["bash", "-c", pipeline, "bash", *train(images, run, *LONG)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    until_it_trains(run, process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    assert code.read_text() == "130\n" and saved_step(run) >= 3


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_saves_unless_nohup_said_otherwise(ignored, images, tmp_path):
    run = tmp_path / "run"
    outer, inner = os.openpty()

    def lead():
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    with open(tmp_path / "screen", "wb") as screen:
        process = subprocess.Popen(train(images, run, *LONG), stdin=inner, stdout=inner, stderr=inner, preexec_fn=lead)
        copy = subprocess.Popen(["cat"], stdin=outer, stdout=screen, stderr=subprocess.DEVNULL)  # a terminal that is read
        os.close(inner), os.close(outer)
        until_it_trains(run, process)
        copy.kill(), copy.wait()
    if ignored:
        until_it_trains(run, process, more=20)
        process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + (signal.SIGTERM if ignored else signal.SIGHUP)
    assert saved_step(run) >= 3 and b"error" not in (tmp_path / "screen").read_bytes()


def test_samples_and_scores_are_written_without_any_stream(smoke_run, score, tmp_path):
    drawn, out = tmp_path / "drawn", tmp_path / "out"
    nowhere = ["bash", "-c", '"$@" <&- >&- 2>&-', "bash"]
    words = real("sample.py", smoke_run, "--out", drawn, "--num", "5", "--grid", "--device", "cpu")
    assert subprocess.run([*nowhere, *words], timeout=120).returncode == 0
    assert len(list(drawn.glob("seed*.png"))) == 5 and all(Image.open(path).load() for path in drawn.glob("*.png"))
    descriptor = closed_pipe()
    assert subprocess.run(real("evaluate.py", *score, "--out", out), stdout=descriptor, stderr=descriptor, timeout=120).returncode == 0
    os.close(descriptor)
    assert json.loads((out / "metrics.json").read_text())["metrics"] and (out / "report.html").stat().st_size > 10000


# --- disks that are full, and places that cannot be


def test_a_score_is_printed_though_nothing_can_be_written(command, score, tmp_path):
    result = command("evaluate.py", *score, "--out", tmp_path, file_limit=9000)
    assert re.search(r"^fd_effnetlite0_12 +\d+\.\d\d ", result.stdout, re.MULTILINE)
    assert result.stdout.count("cannot be written (File too large)") == 1
    assert f"warning: {tmp_path}/features cannot be written" in result.stdout
    assert f"error: --out {tmp_path}: the report cannot be written (File too large)" in one_line(result)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".part"]


def test_a_cache_that_cannot_be_written_is_one_warning(command, score, tmp_path):
    (tmp_path / "features").write_text("in the way")
    result = command("evaluate.py", *score, "--out", tmp_path)
    assert result.returncode == 0 and result.stdout.count("cannot be written") == 1, result
    assert (tmp_path / "report.html").exists()
    assert "cannot be written" in "".join(json.loads((tmp_path / "metrics.json").read_text())["warnings"])


def test_what_tensorboard_cannot_write_is_a_warning(command, images, tmp_path):
    words = ["--config", SMOKE, "--run", tmp_path, "--device", "cpu", f"data.path={images}", *TINY]
    result = command("train.py", *words, "train.epochs=6", "log.sheet_epochs=1", file_limit=340000)
    assert result.returncode == 0 and saved_step(tmp_path) == 18, result
    assert result.stderr.count("warning:") == 1 and f"warning: {tmp_path}/tensorboard cannot be written (File too large)" in result.stderr
    assert "Traceback" not in result.stderr and sum(row["kind"] == "train" for row in rows(tmp_path)) == 6


LONGEST = "x" * 300


@pytest.mark.parametrize("place", [f"{LONGEST}/below", "file/below", "loop"])
def test_places_that_cannot_be_are_one_line(place, command, images, smoke_run, score, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    before, place = sorted(tmp_path.rglob("*")), tmp_path / place
    for words in (
        ["train.py", "--config", SMOKE, "--run", place, "--device", "cpu", f"data.path={images}", *TINY],
        ["sample.py", smoke_run, "--out", place, "--num", 1, "--device", "cpu"],
        ["sample.py", place, "--out", tmp_path / "out"],
        ["sample.py", smoke_run, "--export", place / "export.pt"],
        ["evaluate.py", *score, "--out", place],
        ["evaluate.py", place / "run", *score[1:]],
    ):
        assert str(place) in one_line(command(*words)), words
    assert sorted(tmp_path.rglob("*")) == before
