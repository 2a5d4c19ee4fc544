"""Writing in the background: the training thread waits for no disk, and nothing that was handed over is lost."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from test_trainer import trainer

from errors import UserError
from training import checkpoint, processes, runlog
from training.runlog import RunLog
from training.writer import Writer

ROOT = Path(__file__).resolve().parents[2]


class Gate:
    """Hold up whoever passes until it is opened, for a minute at most."""

    def __init__(self):
        self.open, self.passed = threading.Event(), 0

    def __call__(self, *_):
        assert self.open.wait(60)
        self.passed += 1


def broken(number=errno.ENOSPC):
    raise OSError(number, os.strerror(number))


# --- the writer


def test_jobs_are_done_in_order_in_another_thread():
    done, writer = [], Writer()
    with writer:
        for number in range(20):
            writer.add(str(number % 3), lambda number=number: done.append((number, threading.current_thread())))
    assert [number for number, _ in done] == list(range(20))
    assert len({thread for _, thread in done}) == 1 and done[0][1] is not threading.current_thread()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
@pytest.mark.parametrize("before", ["", "torch.get_num_threads();"])
def test_jobs_compute_in_one_thread_and_training_in_as_many_as_before(before):
    """A second team of OpenMP threads slows down the first."""
    code = f"""if True:
        import torch
        from training.writer import Writer
        {before}
        writer, seen = Writer(), []
        writer.add("job", lambda: seen.append(torch.get_num_threads()))
        writer.wait()
        print(*seen, torch.get_num_threads())"""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1 2\n"


def test_adding_waits_for_no_job_of_another_kind_and_for_one_of_its_own():
    gate, writer = Gate(), Writer()
    with writer:
        for kind in ("a", "b", "a", "b", "c"):
            writer.add(kind, gate)
        assert gate.passed == 0  # nobody waited, or the gate had run out of patience
        gate.open.set()
    assert gate.passed == 5


def test_at_most_two_of_a_kind_hold_memory():
    held, most, writer = [], [], Writer()

    def job():
        time.sleep(0.005)
        held.pop()

    with writer:
        for number in range(20):
            writer.make_room("checkpoint")
            held.append(number)
            most.append(len(held))
            writer.add("checkpoint", job)
    assert max(most) <= 2 and not held


def test_a_failure_is_raised_by_the_next_call_and_the_other_jobs_are_done():
    done, gate, writer = [], Gate(), Writer()
    with pytest.raises(OSError, match="No space"), writer:
        writer.add("a", lambda: (gate(), broken()))
        writer.add("b", lambda: done.append("b"))
        gate.open.set()
        writer.wait()
        for call in (writer.check, lambda: writer.add("a", print), lambda: writer.make_room("b")):
            with pytest.raises(OSError, match="No space"):
                call()
    assert done == ["b"]


def test_the_last_failure_is_raised_at_the_end():
    with pytest.raises(OSError, match="No space"), Writer() as writer:
        writer.add("a", broken)


def test_an_error_that_ends_the_work_goes_on_and_the_failure_is_a_warning(capsys):
    done, gate = [], Gate()
    with pytest.raises(UserError, match="^diverged$"), Writer() as writer:
        writer.add("a", lambda: (gate(), broken()))
        writer.add("b", lambda: done.append("b"))
        gate.open.set()
        raise UserError("diverged")
    assert done == ["b"] and capsys.readouterr().err == "warning: [Errno 28] No space left on device\n"
    with pytest.raises(OSError), Writer() as writer:
        writer.add("a", broken)
        writer.wait()
        writer.check()
    assert capsys.readouterr().err == ""  # it has been told


@pytest.mark.parametrize("while_waiting", [False, True])
def test_ctrl_c_waits_for_nothing_and_drops_what_has_not_begun(while_waiting, monkeypatch):
    gate, begun, done, writer = Gate(), threading.Event(), [], Writer()

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writer:
        writer.add("a", lambda: (begun.set(), gate(), done.append("a")))
        writer.add("b", lambda: done.append("b"))
        assert begun.wait(60)
        if while_waiting:
            monkeypatch.setattr(writer, "_take", interrupted)
        else:
            interrupted()
    assert done == []
    gate.open.set()
    writer.thread.shutdown()
    assert done == ["a"]


# --- a run


@pytest.fixture
def run(tmp_path):
    """Return a function that makes a trainer with a log; two steps to an epoch."""

    def made(**sections):
        made = trainer(
            **{"log": {"num_scored": 4, "checkpoint_minutes": 0, "sheet_epochs": 2}, "train": {"epochs": 5, "batch_size": 4}} | sections
        )
        return made, RunLog(tmp_path)

    return made


def last(tmp_path):
    return checkpoint.load(tmp_path / "checkpoints" / "last.pt")


def test_the_training_thread_neither_syncs_nor_encodes(run, tmp_path, monkeypatch):
    made, log = run()
    called = {}

    def note(owner, name):
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *what: (called.setdefault(name, set()).add(threading.current_thread()), real(*what))[1])

    for owner, name in ((os, "fsync"), (torch, "save"), (runlog, "save_png"), (runlog, "grid"), (log.view.writer, "add_image")):
        note(owner, name)
    made.run(log)
    assert sorted(called) == ["add_image", "fsync", "grid", "save", "save_png"]
    assert all(threading.main_thread() not in threads for threads in called.values())
    assert last(tmp_path)["step"] == 10 and (tmp_path / "samples" / "step-0000010.png").exists()


def test_a_checkpoint_is_of_its_step_though_training_goes_on_while_it_is_written(run, tmp_path, monkeypatch):
    gate, (made, log) = Gate(), run()
    made.write_to(log)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (gate(), fsync(number)))
    made.advance(), made.save("last")
    before = {name: value.clone() for name, value in made.method.learner.network.state_dict().items()}
    moments = [value.clone() for state in made.method.learner.optimizer.state.values() for value in state.values()]
    made.advance(), made.advance()
    assert made.saved_step is None and not (tmp_path / "checkpoints" / "last.pt").exists() and gate.passed == 0
    gate.open.set()
    made.writer.wait()
    saved = last(tmp_path)
    assert saved["step"] == made.saved_step == 1
    assert all(torch.equal(value, before[name]) for name, value in saved["method"]["learner"]["network"].items())
    assert not torch.equal(before["to_rgb.weight"], made.method.generator.to_rgb.weight)
    states = saved["method"]["learner"]["optimizer"]["state"].values()
    assert all(map(torch.equal, moments, [value for state in states for value in state.values()]))


def test_a_snapshot_shares_no_memory_and_has_the_layout():
    level = torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {"a": [level, {"b": (torch.zeros(3, requires_grad=True), 5, "x", None)}]}
    copy = checkpoint.snapshot(state)
    level.fill_(7), state["a"][1].update(c=1)
    assert copy["a"][0].eq(1).all() and copy["a"][0].stride() == level.stride()
    ((zeros, *rest),) = copy["a"][1].values()
    assert rest == [5, "x", None] and zeros.eq(0).all() and not zeros.requires_grad


def test_the_log_is_on_the_disk_before_a_checkpoint_that_needs_it(run, tmp_path, monkeypatch):
    made, log = run()
    fsync, replace, calls = os.fsync, os.replace, []
    monkeypatch.setattr(os, "fsync", lambda number: (calls.append(os.fstat(number).st_ino), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append(names[1].name), replace(*names)))
    made.run(log)
    ends = [number for number, call in enumerate(calls) if call in ("last.pt", "best.pt")]
    assert len(ends) >= 5
    log_file = (tmp_path / "metrics.jsonl").stat().st_ino
    assert all(log_file in calls[before + 1 : end] for before, end in zip([-1, *ends], ends))
    assert last(tmp_path)["log_position"] == (tmp_path / "metrics.jsonl").stat().st_size


@pytest.mark.parametrize("minutes, steps", [(0, [2, 4, 6, 8, 10]), (2, [4, 8, 10]), (2.5, [6, 10]), (1e9, [10])])
def test_checkpoints_come_by_minutes_at_the_ends_of_epochs(minutes, steps, run, monkeypatch):
    made, log = run(log={"num_scored": 4, "checkpoint_minutes": minutes, "sheet_epochs": 100})
    monkeypatch.setattr("training.trainer.time.monotonic", lambda: 1000.0 + 30 * made.step)  # an epoch takes a minute
    saved, write = [], made.write
    monkeypatch.setattr(made, "write", lambda name, state: (saved.append(state["step"]) if name == "last" else None, write(name, state)))
    made.run(log)
    assert saved == steps == [*steps[:-1], made.saved_step]


def test_all_processes_save_when_one_finds_it_time(run, monkeypatch):
    made, log = run(log={"num_scored": 4, "checkpoint_minutes": 1e9, "sheet_epochs": 100})
    asked = []
    monkeypatch.setattr(processes, "any_of", lambda flag: asked.append(flag) or (flag or len(asked) == 6))
    saved = []
    monkeypatch.setattr(made, "save", lambda name, chosen_by=None: saved.append((name, made.step)))
    made.run(log)
    assert saved == [("best", 10), ("last", 4), ("last", 10)] or saved == [("last", 4), ("best", 10), ("last", 10)]
    assert not any(asked)


def test_a_disk_that_fills_up_stops_the_run_with_todays_line(run, tmp_path, monkeypatch):
    made, log = run(train={"epochs": 50, "batch_size": 4}, log={"num_scored": 4, "checkpoint_minutes": 0, "sheet_epochs": 100})
    real = checkpoint.written

    def full(path, durable=False):
        if made.saved_step:
            broken()
        return real(path, durable)

    monkeypatch.setattr(checkpoint, "written", full)
    with pytest.raises(UserError, match=r"last\.pt: cannot be written \(No space left on device\), the file there before is intact"):
        made.run(log)
    assert made.step < 100 and last(tmp_path)["step"] == made.saved_step == 2


def test_a_divergence_names_the_checkpoint_that_is_on_the_disk(run, tmp_path, monkeypatch, capsys):
    made, log = run(log={"num_scored": 4, "checkpoint_minutes": 0, "sheet_epochs": 100})
    write, embedding = made.write, made.method.embedding
    monkeypatch.setattr(made, "write", lambda name, state: broken() if state["step"] == 4 else (time.sleep(0.05), write(name, state)))
    made.method.embedding = lambda images: [level * (float("nan") if made.step == 5 else 1) for level in embedding(images)]
    made.writer.check = lambda: None  # the failure comes to light after the step that is not finite
    with pytest.raises(UserError, match=r"not finite at step 5, .*; checkpoints/last\.pt, of step 2, is good"):
        made.run(log)
    assert last(tmp_path)["step"] == 2 and "warning: [Errno 28] No space left on device" in capsys.readouterr().err


def test_other_processes_claim_nothing_about_the_disk(run, monkeypatch):
    made, _ = run()
    monkeypatch.setattr(processes, "is_main", lambda: False)
    made.save("last")
    assert made.saved_step is None and "process 0 tells what is saved" in str(made.stopped(ValueError("x")))


def test_what_was_handed_over_is_written_when_an_error_stops_the_run(run, tmp_path, monkeypatch):
    made, log = run(train={"epochs": 50, "batch_size": 4})
    advance = made.advance
    monkeypatch.setattr(made, "advance", lambda: 1 / 0 if made.step == 5 else advance())
    write = made.write
    monkeypatch.setattr(made, "write", lambda name, state: (time.sleep(0.05), write(name, state)))
    with pytest.raises(ZeroDivisionError):
        made.run(log)
    assert last(tmp_path)["step"] == 4 and (tmp_path / "samples" / "step-0000004.png").exists()


def test_a_sheet_that_cannot_be_written_stops_the_run(run, tmp_path):
    made, log = run()
    (tmp_path / "matches").write_text("in the way")
    with pytest.raises(OSError, match="matches"):
        made.run(log)


def test_a_view_that_ends_in_two_threads_at_once_is_told_once(tmp_path, capsys):
    view, both = RunLog(tmp_path).view, threading.Barrier(2, timeout=60)
    view.writer.add_scalar = view.writer.add_image = lambda *_: (both.wait(), broken())
    threads = [threading.Thread(target=partial(view.add, kind, "x", 0.0, 0)) for kind in ("scalar", "image")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    view.close()
    assert capsys.readouterr().err.count("warning:") == 1


def test_rows_are_whole_while_another_thread_syncs(tmp_path):
    log = RunLog(tmp_path)
    with Writer() as writer:
        for number in range(50):
            log.row("train", number, {"loss": 1.0}, 0.0)
            writer.add("sync", log.sync)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == list(range(50))
