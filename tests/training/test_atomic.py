"""atomic.py: the whole new file or the whole old one, and nothing beside it."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import atomic
from atomic import written

ROOT = Path(__file__).parents[2]


def listing(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("name", ["a.txt", "a", ".a", "*.[b]", "a.123.part", "ü\udcff.png", "x" * 240])
def test_the_new_file_takes_the_place_of_the_old_one_at_the_end(name, durable, tmp_path):
    for text in ("old", "new"):
        before = listing(tmp_path)
        with written(tmp_path / name, durable) as part:
            part.write_text(text)
            assert part.parent == tmp_path and listing(tmp_path) == before | {f"{name}.{os.getpid()}.part": text}
        assert listing(tmp_path) == {name: text}


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("before", [{}, {"a": "old"}])
def test_what_goes_wrong_leaves_the_old_file_alone(before, error, durable, tmp_path):
    for name, text in before.items():
        (tmp_path / name).write_text(text)
    for begun in (False, True):
        with pytest.raises(error), written(tmp_path / "a", durable) as part:
            if begun:
                part.write_text("half")
            raise error
        assert listing(tmp_path) == before


def test_nothing_written_is_an_error_and_no_empty_file(tmp_path):
    for durable in (False, True):
        with pytest.raises(FileNotFoundError), written(tmp_path / "a", durable):
            pass
    assert listing(tmp_path) == {}


@pytest.mark.parametrize("place", [".", "..", "/", "folder", "file/a", "none/a"])
def test_places_that_cannot_be_files_are_errors_of_the_system(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text("")
    before = sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.iterdir())
    with pytest.raises(OSError), written(Path(place)) as part:
        part.write_text("new")
    assert before == (sorted(tmp_path.rglob("*")), sorted(tmp_path.parent.iterdir()))
    assert not Path(f"/.{os.getpid()}.part").exists()


def test_only_what_must_survive_a_power_cut_waits_for_the_disk(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace

    def sync(number):
        found = os.fstat(number)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else f"{found.st_size} bytes")
        fsync(number)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    for durable, expected in ((False, ["replace"]), (True, ["3 bytes", "replace", "folder"])):
        calls.clear()
        with written(tmp_path / "a", durable) as part:
            part.write_text("new")
        assert calls == expected


def test_a_disk_that_fails_when_synced_leaves_the_old_file(tmp_path, monkeypatch):
    def broken(number):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"), written(tmp_path / "a", durable=True) as part:
        part.write_text("new")
    assert listing(tmp_path) == {"a": "old"}


def test_what_a_killed_process_leaves_is_found_by_the_name_of_its_file(tmp_path):
    killed = (
        "import os, signal, pathlib, sys, atomic\nwith atomic.written(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    (tmp_path / "a.pt").write_text("old")
    process = subprocess.Popen([sys.executable, "-c", killed, tmp_path / "a.pt"], cwd=ROOT)
    assert process.wait(60) == -9
    assert listing(tmp_path) == {"a.pt": "old", f"a.pt.{process.pid}.part": "half"}
    for name in ("a.pt.part", "aa.pt.1.part", "a.pt.1.party", "a.part"):
        (tmp_path / name).write_text("")
    assert {path.name for path in tmp_path.glob(f"a.pt{atomic.LEFTOVERS}")} == {f"a.pt.{process.pid}.part", "a.pt.part"}
