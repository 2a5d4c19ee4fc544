"""Films: what players read from them, and an ffmpeg that is missing or fails."""

import os
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from errors import UserError
from sampling.films import writable, write_film

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
PICTURES = [Image.new("RGB", (33, 21), colour) for colour in COLOURS]


@pytest.fixture
def ffmpeg(tmp_path, monkeypatch):
    """Return a function that installs a program ffmpeg with this body, alone on the search path."""

    def installed(body):
        program = tmp_path / "bin" / "ffmpeg"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent))

    return installed


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_film_shows_its_pictures_in_order_each_for_its_time_again_and_again(kind, tmp_path):
    write_film(PICTURES, [1, 5, 40], tmp_path / f"film.{kind}")
    with Image.open(tmp_path / f"film.{kind}") as film:
        assert (film.format.lower(), film.size, film.info["loop"]) == (kind, (33, 21), 0)
        shown = []
        for frame in ImageSequence.Iterator(film):
            frame.load()
            shown.append((frame.info["duration"], np.array(frame.convert("RGB")).mean(axis=(0, 1))))
    assert [duration for duration, _ in shown] == [50, 250, 2000]
    assert all(np.abs(mean - colour).max() < 12 for (_, mean), colour in zip(shown, COLOURS))
    assert [path.name for path in tmp_path.iterdir()] == [f"film.{kind}"]


def test_ffmpeg_is_given_every_picture_as_often_as_its_time_says(ffmpeg, tmp_path):
    ffmpeg(
        "pathlib.Path(sys.argv[-1].removeprefix('file:')).write_bytes(' '.join(sys.argv[1:-1]).encode() + b'|' + sys.stdin.buffer.read())"
    )
    writable("mp4")
    write_film(PICTURES, [1, 2, 3], tmp_path / "-i; x.mp4")
    words, _, pixels = (tmp_path / "-i; x.mp4").read_bytes().partition(b"|")
    assert b"-s 33x21 -r 20 -i - " in words and words.endswith(b"-f mp4")
    assert pixels == b"".join(picture.tobytes() * count for picture, count in zip(PICTURES, (1, 2, 3)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["-i; x.mp4", "bin"]


@pytest.mark.parametrize("read", ["", "sys.stdin.buffer.read()\n"], ids=["at once", "at the end"])
def test_an_ffmpeg_that_fails_is_one_line_and_leaves_the_film_that_was_there(read, ffmpeg, tmp_path):
    ffmpeg(f"{read}print('no', 'encoder', sep='\\n', file=sys.stderr)\nraise SystemExit(3)")
    (tmp_path / "film.mp4").write_text("before")
    large = [Image.new("RGB", (500, 500)) for _ in range(3)]  # more than a pipe holds
    with pytest.raises(UserError, match=r"^--format mp4: ffmpeg failed \(no encoder\); use --format gif$"):
        write_film(large, [1, 1, 1], tmp_path / "film.mp4")
    assert (tmp_path / "film.mp4").read_text() == "before" and len(os.listdir(tmp_path)) == 2


def test_what_this_machine_cannot_write_is_told_before_anything_is_computed(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="^--format mp4: needs the program ffmpeg, which is not installed here; install it, or use"):
        writable("mp4")
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    with pytest.raises(UserError, match="^--format webp: this machine's Pillow was built without WebP; use --format gif$"):
        writable("webp")
    writable("gif")
