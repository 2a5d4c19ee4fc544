"""One run in several processes: what they agree on is what one process would find, and none outlives the others.

Most jobs here are forked with torchrun's environment, which is quick; two are started and ended by torchrun itself.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import copied_images
from test_refresh import LATENT_DIM, RADII, N, embed, refresher
from test_refresh import images as drawn
from test_train import TINY, one_line, rows

from errors import UserError, run_as_command
from imle.search import PoolMatcher
from training import checkpoint, processes
from training.device import choose_device

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and gloo")


# --- processes played by threads


class Players:
    """Stand in for torch.distributed: threads that wait for each other's values."""

    def __init__(self, num: int, monkeypatch):
        self.num, self.values, self.local = num, [None] * num, threading.local()
        self.barrier = threading.Barrier(num, timeout=60)
        for name, stand_in in (("rank", lambda: self.local.rank), ("count", lambda: num), ("all_gather", self.gathered)):
            monkeypatch.setattr(processes, name, stand_in)

    def gathered(self, values):
        self.values[self.local.rank] = values
        self.barrier.wait()
        together = torch.stack(self.values)
        self.barrier.wait()  # none may bring its next values before all have read these
        return together

    def play(self, job):
        """Return what `job` gives in each process."""

        def run(rank):
            self.local.rank = rank
            try:
                return job()
            except BaseException:
                self.barrier.abort()
                raise

        leaves = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
        before = [leaf.fp32_precision for leaf in leaves]
        try:
            with ThreadPoolExecutor(self.num) as pool:
                return list(pool.map(run, range(self.num)))
        finally:
            for leaf, precision in zip(leaves, before):  # threads share them, and may leave one as another had set it for a moment
                leaf.fp32_precision = precision


def coarse(latents):
    """Map latents to features of which many are equal, to the last bit."""
    return embed((latents / 2).round())


@pytest.mark.parametrize("num", [2, 3, 5])
@pytest.mark.parametrize("features", [embed, coarse])
@pytest.mark.parametrize(
    "settings",
    [
        {"reject": "none"},
        {"reject": "rank"},
        {"reject": "median_rank"},
        *RADII.values(),
        {"reject": "fixed", "epsilon": 1e6},
        {"pool_batch": 1, "pool_factor": 0.25},
        {"pool_batch": 7, "rejected_fraction": 0.5},
        {"pool_factor": 2, "reject": "fixed", "epsilon": 11.0},
    ],
)
def test_a_refresh_chooses_what_one_process_would(settings, features, num, monkeypatch):
    settings = {"pool_batch": 16, **settings}

    def job():
        chosen = refresher(**settings)
        return [chosen.refresh(features, number) for number in range(2)]

    alone = job()
    for found in Players(num, monkeypatch).play(job):
        for one, other in zip(alone, found):
            assert torch.equal(one.latents, other.latents) and torch.equal(one.distance, other.distance)
            assert one.diagnostics == other.diagnostics


def test_a_pool_larger_than_its_pilot_is_shared_out_too(monkeypatch):
    monkeypatch.setattr("imle.refresh.PILOT", 100)
    monkeypatch.setattr("imle.refresh.TOP_UP", 1)
    monkeypatch.setattr("imle.search.matcher.SAMPLE_SIZE", 64)

    def job():
        return refresher(pool_factor=200, pool_batch=64, rejected_fraction=0.3).refresh(embed, 0)

    alone = job()
    for found in Players(3, monkeypatch).play(job):
        assert torch.equal(alone.latents, found.latents) and torch.equal(alone.distance, found.distance)
        pits = alone.diagnostics.pop("pit", pit := found.diagnostics.pop("pit")), pit  # estimates, from other samples
        assert pits[0] == pytest.approx(pits[1], rel=0.5) and alone.diagnostics == found.diagnostics


def test_other_searches_give_the_nearest_of_what_each_process_finds(monkeypatch):
    settings = {"search": "dci", "pool_batch": 16, "rejected_fraction": 0.3}
    exact = refresher(**{**settings, "search": "exact"}).refresh(embed, 0)
    found = Players(3, monkeypatch).play(lambda: refresher(**settings).refresh(embed, 0))
    assert all(torch.equal(found[0].latents, other.latents) for other in found)
    assert (found[0].distance >= exact.distance).all() and (found[0].distance == exact.distance).double().mean() > 0.8
    assert found[0].diagnostics["rejected_share"] == exact.diagnostics["rejected_share"]


@pytest.mark.parametrize("search", ["exact", "dci"])
@pytest.mark.parametrize("epsilon", [0.0, 2.5, 1e9])
def test_matchers_agree_however_a_pool_is_dealt_out(epsilon, search, monkeypatch):
    pool = coarse(torch.randn(300, LATENT_DIM, generator=torch.Generator().manual_seed(5)))
    whole = PoolMatcher(drawn(), epsilon, search)
    rejected = whole.offer(pool)

    def job():
        matcher = PoolMatcher(drawn(), epsilon, search)
        for first in range(20 * processes.rank(), 300, 60):  # in turn
            assert torch.equal(matcher.offer(pool[first : first + 20], first), rejected[first : first + 20])
        return matcher.result(processes.all_gather)

    expected = whole.result()
    for match in Players(3, monkeypatch).play(job):
        assert (match.seen, match.rejected) == (expected.seen, expected.rejected) == (300, int(rejected.sum()))
        assert torch.equal(match.taken, expected.taken) and torch.equal(match.taken_distance, expected.taken_distance)
        if search == "exact":
            assert torch.equal(match.index, expected.index) and torch.equal(match.distance, expected.distance)
            assert torch.equal(match.nearer, expected.nearer)


@pytest.mark.parametrize("start, stop, size", [(0, 240, 64), (100, 101, 64), (7, 7, 3), (5, 500, 1), (0, 1000, 7)])
def test_shares_are_whole_chunks_and_leave_nothing_out(start, stop, size, monkeypatch):
    for num in (1, 2, 3, 8):
        shares = Players(num, monkeypatch).play(lambda: processes.share(start, stop, size))
        assert [number for share in shares for number in range(*share)] == list(range(start, stop))
        assert all((first - start) % size == 0 or first == stop for first, _ in shares)
        chunks = [-(-(last - first) // size) for first, last in shares]
        assert max(chunks) - min(chunks) <= 1


def test_disagreement_is_named(monkeypatch):
    def job():
        with pytest.raises(UserError) as told:
            processes.check_agreement(
                {"the settings": "a", "the images": str(processes.rank() // 2), "the step": "odd" * (processes.rank() == 1)}
            )
        return str(told.value)

    for message in Players(3, monkeypatch).play(job):
        assert message.startswith("process 1, 2 of 3 differs from process 0 in the images and the step: all must")
    Players(2, monkeypatch).play(lambda: processes.check_agreement({"the settings": "\udcff"}))


# --- one process


def test_a_process_by_itself_is_all_there_is():
    values = torch.arange(6.0).view(3, 2)
    assert processes.is_main() and processes.count() == 1 and processes.share(3, 50, 4) == (3, 50)
    assert torch.equal(processes.all_sum(values), values) and torch.equal(processes.all_cat(values), values)
    assert processes.any_of(True) and not processes.any_of(False)
    network = torch.nn.Linear(1, 1)
    assert processes.parallel(network) is network
    with processes.process_group(torch.device("cpu"), str), processes.no_sync(network, True):
        processes.check_agreement({"anything": "at all"})


def test_every_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [processes.own_device(name) for name in (None, "cpu", "cuda:1")] == [None, "cpu", "cuda:1"]
    for local in range(3):
        for name, value in (("RANK", "7"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", str(local))):
            monkeypatch.setenv(name, value)
        assert processes.own_device("cpu") == "cpu"
        if local < 2:
            assert processes.own_device(None) == processes.own_device("cuda") == f"cuda:{local}"
    with pytest.raises(UserError, match=r"^--device cuda: more processes than GPUs here \(2\)"):
        processes.own_device(None)
    with pytest.raises(UserError, match="^--device cuda:1: several processes take a GPU each"):
        processes.own_device("cuda:1")


@pytest.mark.parametrize("name, current", [(None, 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_chosen_gpu_is_made_current_before_anything_is_put_on_it(name, current, monkeypatch):
    """torch opens a context on the current GPU, which is GPU 0 unless it is told another."""
    done, zeros = [], torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: done.append("init"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: done.append(number))
    monkeypatch.setattr(torch, "zeros", lambda size, device: done.append(device) or zeros(size))
    device = torch.device(name or "cuda")
    assert choose_device(name) == device and done == ["init", current, device]
    assert choose_device("cpu") == torch.device("cpu") and done == ["init", current, device]


@pytest.mark.parametrize("name", ["mps", "xpu", "xpu:1", "meta", "hpu"])
def test_devices_that_are_neither_cpu_nor_cuda_are_refused(name):
    with pytest.raises(
        UserError, match=rf"^--device {name}: only cpu and cuda are supported, because the search needs float64; use cpu, cuda or cuda:N$"
    ):
        choose_device(name)


@pytest.mark.parametrize("rank, line", [("0", "error: wrong\n"), ("3", "error: process 3: wrong\n")])
def test_errors_say_which_process_they_are_of(rank, line, monkeypatch, capsys):
    def wrong(words):
        raise UserError("wrong")

    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit):
        run_as_command(wrong)
    assert capsys.readouterr().err == line


# --- real ones


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Return a folder with a dozen of the shipped images."""
    return copied_images(tmp_path_factory.mktemp("images"), N)


@pytest.fixture
def words(faces):
    def words(run, *settings):
        return ["--config", ROOT / "configs" / "smoke-32.yaml", "--run", run, "--device", "cpu", f"data.path={faces}", *TINY, *settings]

    return words


def finished(commands):
    results = [command.result() for command in commands]
    assert [result.returncode for result in results] == [0] * len(results), results
    assert not any(result.stdout for result in results[1:])
    return results[0]


def until(ready, patience=60):
    deadline = time.monotonic() + patience
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONG = ["train.epochs=100000", "log.sheet_epochs=100000", "log.checkpoint_minutes=0"]


@pytest.mark.parametrize("switches, jobs", [([], ((2, 0), (2, 1), (3, 0))), (["loss.stage_weight=0.5"], ((3, 1),))])
def test_any_number_of_processes_trains_alike(switches, jobs, words, command, job, tmp_path):
    settings = [
        "train.epochs=17",
        "train.batch_size=5",
        "train.learning_rate=1e-5",
        "imle.refresh_epochs=100",
        "log.sheet_epochs=100",
        *switches,
    ]
    assert command("train.py", *words(tmp_path / "1", *settings)).returncode == 0
    alone = checkpoint.load(tmp_path / "1" / "checkpoints" / "last.pt")
    for num, micro_batch in jobs:  # batches of 5, 5 and 2: unequal shares, and none for the third
        run = tmp_path / f"{num}-{micro_batch}"
        finished(job(num, *words(run, *settings, f"train.micro_batch={micro_batch}")))
        state = checkpoint.load(run / "checkpoints" / "last.pt")
        assert state["step"] == alone["step"] == 51 and torch.equal(state["method"]["latents"], alone["method"]["latents"])
        torch.testing.assert_close(state["method"]["losses"], alone["method"]["losses"], rtol=1e-5, atol=0)
        for ours, theirs in ((state["sampled"], alone["sampled"]), (network(state), network(alone))):
            assert ours.keys() == theirs.keys() and any("heads" in name for name in network(state)) == bool(switches)
            for name, weights in theirs.items():
                torch.testing.assert_close(ours[name], weights, rtol=1e-3, atol=1e-4)
        assert [row for row in rows(run) if row["kind"] == "refresh"] == [row for row in rows(tmp_path / "1") if row["kind"] == "refresh"]


def test_all_processes_start_from_the_same_weights(words, command, job, smoke_run, tmp_path):
    settings = ["train.epochs=2", "train.learning_rate=1e-5", f"train.start_from={smoke_run}"]
    assert command("train.py", *words(tmp_path / "1", *settings)).returncode == 0
    assert "train.start_from: " in finished(job(2, *words(tmp_path / "2", *settings))).stdout
    one, two = (checkpoint.load(tmp_path / name / "checkpoints" / "last.pt") for name in "12")
    torch.testing.assert_close(two["method"]["losses"], one["method"]["losses"], rtol=1e-4, atol=0)
    for name, weights in checkpoint.load(smoke_run / "checkpoints" / "last.pt")["sampled"].items():
        torch.testing.assert_close(two["sampled"][name], weights, rtol=1e-2, atol=1e-3)


def network(state: dict) -> dict:
    return state["method"]["learner"]["network"]


def test_all_stop_with_the_one_that_is_told_to(words, job, tmp_path):
    run = tmp_path / "run"
    commands = job(2, *words(run, *LONG))
    until(lambda: any(row["kind"] == "train" for row in rows(run)))
    commands[1].send(signal.SIGINT), commands[1].send(signal.SIGINT)  # the terminal's, and torchrun's
    results = [one.result() for one in commands]
    assert [result.returncode for result in results] == [143, 130]
    step = checkpoint.load(run / "checkpoints" / "last.pt")["step"]
    assert f"stopped and saved at step {step} of 300000; the same command goes on" in results[0].stdout


def test_processes_that_differ_are_told(words, job, tmp_path):
    first, second = (one.result() for one in job(2, *words(tmp_path / "run"), apart=["train.batch_size=3"]))
    told = "process 1 of 2 differs from process 0 in the settings: all must be given the same command"
    assert one_line(first).startswith(f"error: {told}") and one_line(second).startswith(f"error: process 1: {told}")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def torchrun(words, tmp_path):
    """Return a function that starts two processes by torchrun and returns it, its workers' ids, and what it says."""

    def started(run, *settings):
        said = tmp_path / "said"
        environment = {name: value for name, value in os.environ.items() if name not in processes.TORCHRUN}
        with open(said, "w") as file:
            agent = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "torch.distributed.run",
                    "--standalone",
                    "--nproc-per-node",
                    "2",
                    "--",
                    ROOT / "train.py",
                    *words(run, *settings),
                ],
                stdout=file,
                stderr=file,
                env=environment,
            )
        before = len(rows(run))
        until(lambda: agent.poll() is not None or sum(row["kind"] == "train" for row in rows(run)[before:]) > 5)
        assert agent.poll() is None, said.read_text()
        return agent, said

    return started


def workers(agent):
    return [int(pid) for pid in Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux to find torchrun's workers")
def test_stopped_killed_and_continued_on_other_numbers_of_processes(words, torchrun, command, job, tmp_path):
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.pt"
    agent, said = torchrun(run, *LONG)
    agent.send_signal(signal.SIGTERM)
    agent.wait(60)
    stopped = checkpoint.load(last)["step"]
    assert f"stopped and saved at step {stopped} of 300000" in said.read_text()

    agent, said = torchrun(run, *LONG)
    os.kill(workers(agent)[-1], signal.SIGKILL)
    assert agent.wait(60) != 0
    killed = checkpoint.load(last)["step"]
    assert killed > stopped and f"going on from step {stopped} of 300000" in said.read_text()
    assert f"another process of this job ended or cannot be reached; {last}, of step {killed}, is good" in said.read_text()

    done = killed // 3
    for processes_, epochs in ((1, done + 2), (2, done + 4)):
        result = finished(job(processes_, *words(run, *LONG, f"train.epochs={epochs}")))
        assert f"done: {last}" in result.stdout and checkpoint.load(last)["step"] == 3 * epochs
