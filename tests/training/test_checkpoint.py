"""Checkpoints: whole or not at all, and nothing in a file that a stranger sends is ever run."""

import errno
import os
import pickle
import stat
import zipfile

import pytest
import torch

from errors import UserError
from methods import open_sampler
from training import checkpoint

STATE = {
    "config": {"seed": 0},
    "data": {"names": ["a", "\udcff.png"]},
    "step": 3,
    "best": float("inf"),
    "none": None,
    "tensor": torch.arange(5.0),
    "nested": [{"x": torch.ones(2, 2, dtype=torch.bfloat16)}],
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(STATE, path)
    return path


def test_what_is_saved_is_loaded(saved):
    state = checkpoint.load(saved)
    assert state.pop("format") == checkpoint.FORMAT and state.keys() == STATE.keys()
    assert state["data"] == STATE["data"] and state["best"] == float("inf") and state["none"] is None
    assert torch.equal(state["nested"][0]["x"], STATE["nested"][0]["x"])
    assert [path.name for path in saved.parent.iterdir()] == ["last.pt"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_mode_is_that_of_an_ordinary_file(tmp_path):
    before = os.umask(0o022)
    try:
        checkpoint.save(STATE, tmp_path / "last.pt")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "last.pt").stat().st_mode) == 0o644


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(call, saved, monkeypatch):
    before = saved.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(UserError, match=r"last\.pt: cannot be written \(No space left on device\), the file there before is intact"):
        checkpoint.save({**STATE, "step": 4}, saved)
    assert saved.read_bytes() == before and [path.name for path in saved.parent.iterdir()] == ["last.pt"]


def test_a_file_system_that_cannot_sync_folders_will_do(tmp_path, monkeypatch):
    fsync = os.fsync

    def files_only(number):
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(number)

    monkeypatch.setattr(os, "fsync", files_only)
    checkpoint.save(STATE, tmp_path / "last.pt")
    assert checkpoint.load(tmp_path / "last.pt")["step"] == 3


def test_the_data_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append("sync"), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    checkpoint.save(STATE, tmp_path / "last.pt")
    assert calls[:2] == ["sync", "replace"]


def test_places_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / f"part.pt.{os.getpid()}.part").mkdir()
    for path in (tmp_path / "file" / "x.pt", tmp_path / "none" / "x.pt", tmp_path / "folder.pt", tmp_path / "part.pt"):
        with pytest.raises(UserError, match="cannot be written"):
            checkpoint.save(STATE, path)


# --- loading


def test_cut_or_scribbled_anywhere_it_is_one_error(saved):
    whole = saved.read_bytes()
    for i in range(0, len(whole), 37):
        spoilt = [whole[:i], whole[:i] + b"\xff\x00\x80" + whole[i + 3 :]]
        for content in spoilt:
            saved.write_bytes(content)
            try:
                checkpoint.load(saved)  # a flipped bit inside a tensor is not seen by torch
            except UserError as error:
                assert str(saved) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"\x80\x05.", b"PK\x03\x04", b"\x00" * 1000, pickle.dumps([1, 2]), b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f."],
)
def test_a_file_of_another_kind_is_told(content, tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.pt: not a checkpoint of this project, or damaged; nothing in it was run"):
        checkpoint.load(path)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_payload_is_not_run(tmp_path):
    touched = tmp_path / "touched"
    plain, packed, zipped = tmp_path / "plain.pt", tmp_path / "packed.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps({"format": checkpoint.FORMAT, "step": Payload(touched)}))
    torch.save({"format": checkpoint.FORMAT, "step": Payload(touched)}, packed)
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", plain.read_bytes())
        archive.writestr("archive/version", "3\n")
    for path in (plain, packed, zipped):
        for load in (checkpoint.load, open_sampler):
            with pytest.raises(UserError, match="nothing in it was run"):
                load(path)
        assert not touched.exists()
    pickle.loads(plain.read_bytes())["step"].close()
    assert touched.exists()  # the payload was live


@pytest.mark.parametrize(
    "content, told",
    [
        ({"weight": torch.ones(1)}, "a checkpoint of another program"),
        ([1], "a checkpoint of another program"),
        ({"format": "rs-imle/9"}, "has format rs-imle/9, this version reads rs-imle/2"),
        ({"format": 3}, "another program"),
        ({"format": torch.ones(2)}, "another program"),
    ],
)
def test_a_torch_file_of_another_program_is_told(content, told, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match=told):
        checkpoint.load(tmp_path / "x.pt")


def test_missing_files_and_folders_are_told(tmp_path):
    with pytest.raises(UserError, match="cannot be read .No such file or directory"):
        checkpoint.load(tmp_path / "x.pt")
    with pytest.raises(UserError, match="cannot be read"):
        checkpoint.load(tmp_path)
    with pytest.raises(UserError, match="no such run or checkpoint"):
        checkpoint.find(tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"no checkpoints/last\.pt in it"):
        checkpoint.find(tmp_path)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("sampled"),
        lambda state: state.pop("config"),
        lambda state: state["config"].pop("model"),
        lambda state: state["config"].update(model=3),
        lambda state: state["config"]["model"].update(latent_dim=10**15),
        lambda state: state["config"]["model"].update(channels=[]),
        lambda state: state["config"]["model"].update(blocks=[0, 0, 0, 0]),
        lambda state: state["config"]["model"].update(surprise=1),
        lambda state: state["config"]["data"].update(resolution="big"),
        lambda state: state["sampled"].pop("constant"),
        lambda state: state["sampled"].update(constant=3),
        lambda state: state["sampled"].update(constant=torch.ones(3)),
        lambda state: state.update(sampled=[1]),
        lambda state: state.pop("data"),
        lambda state: state.update(data=3),
        lambda state: state["data"].pop("names"),
    ],
)
def test_parts_that_do_not_fit_are_one_line(spoil, smoke_run, tmp_path):
    state = checkpoint.load(smoke_run / "checkpoints" / "last.pt")
    spoil(state)
    checkpoint.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: lacks a needed part, or its parts do not fit each other") as caught:
        open_sampler(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)
