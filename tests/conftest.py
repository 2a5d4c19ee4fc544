"""What the tests share: one thread, so that they run side by side and bit for bit; a tiny run; real processes."""

import contextlib
import hashlib
import io
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ["--config", str(ROOT / "configs" / "smoke-32.yaml"), f"data.path={ROOT / 'data' / 'fluent_faces'}"]
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# Importing torch takes seconds, so one server imports everything once and is forked for every command.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["torch.utils.tensorboard", "torch._dynamo", "training.trainer", "imle.method", "training.dryrun", "data", "conftest"]
)


class LiveBytes(TorchDispatchMode):
    """Count the bytes of the tensors that torch makes while this is entered; `peak` is the most that lived at one time."""

    def __init__(self):
        super().__init__()
        self.given, self.made, self.peak = set(), {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.given |= {place for place, _ in _storages((args, kwargs))} - self.made.keys()
        result = function(*args, **(kwargs or {}))
        self.made |= {place: size for place, size in _storages(result) if place not in self.given}
        self.made = {place: size for place, size in self.made.items() if not place.expired()}
        self.peak = max(self.peak, sum(self.made.values()))
        return result


def _storages(values: object) -> list[tuple[StorageWeakRef, int]]:
    storages = [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
    return [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]


class Command:
    """One of the scripts, running as the main program of a process of its own."""

    def __init__(self, folder: Path, script: str, words: list[str], cwd: Path, env: dict[str, str], file_limit: int | None):
        self.words, self.folder = [script, *words], folder
        self.process = FORKS.Process(target=_main, args=(folder, script, words, cwd, env, file_limit))
        self.process.start()

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def result(self) -> subprocess.CompletedProcess:
        """Wait for its end; the return code is the negative signal number where a signal ended it."""
        self.process.join(120)
        assert self.process.exitcode is not None, f"still running: {self.words}"
        return subprocess.CompletedProcess(self.words, self.process.exitcode, self.output("stdout"), self.output("stderr"))

    def output(self, stream: str) -> str:
        path = self.folder / stream
        return path.read_text(encoding="utf-8", errors="backslashreplace") if path.exists() else ""


def _main(folder: Path, script: str, words: list[str], cwd: Path, env: dict[str, str], file_limit: int | None) -> None:
    for number, stream in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.update(env)
    sys.argv = [script, *words]
    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / script), run_name="__main__")


def copied_images(folder: Path, count: int) -> Path:
    """Copy the first of the shipped images into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "data" / "fluent_faces").glob("*.png"))[:count]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def float64():
    """Compute in float64, where one value computed in two ways differs by 1e-12 of it on any processor, and a fault by more."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """Return a function that starts one of the scripts; no file that it writes grows beyond `file_limit` bytes."""

    def started(script: str, *words: object, cwd: Path = ROOT, env: dict | None = None, file_limit: int | None = None) -> Command:
        folder = tmp_path_factory.mktemp("command")
        return Command(folder, script, [str(word) for word in words], cwd, env or {}, file_limit)

    return started


@pytest.fixture(scope="session")
def command(start):
    """Return a function that runs one of the scripts as a user does and gives its result."""
    return lambda *words, **options: start(*words, **options).result()


@pytest.fixture
def job(start):
    """Return a function that starts train.py in so many processes; `apart` are words of the last one alone."""

    def started(num, *words, apart=()):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(num)}
        return [
            start("train.py", *words, *(apart if rank == num - 1 else ()), env={**address, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(num)
        ]

    return started


@pytest.fixture(scope="session")
def smoke() -> list[str]:
    """Return the words that make train.py train the smallest recipe."""
    return SMOKE


@pytest.fixture(scope="session")
def smoke_run(command, tmp_path_factory) -> Path:
    """Return the folder of a finished smoke run, trained once for all tests that only read it."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    result = command("train.py", *SMOKE, "--run", folder, "--device", "cpu", "data.holdout=0.1")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def inception_weights(tmp_path_factory):
    """Put random weights of Inception where our resolver finds them, and return their file."""
    from pytorch_fid import inception as library

    from models import weights

    torch.manual_seed(0)
    network = library._inception_v3(num_classes=1008, aux_logits=False, weights=None)  # without slow initialisation
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # the default shrinks the features to nothing
    hub = tmp_path_factory.mktemp("hub")
    path = hub / "checkpoints" / weights.WEIGHTS["inception"].file
    path.parent.mkdir()
    torch.save(network.state_dict(), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = weights.WEIGHTS["inception"]._replace(bytes=path.stat().st_size, sha256=digest, url="http://127.0.0.1:9/")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(weights.WEIGHTS, "inception", entry)
        patch.setattr("torch.hub._hub_dir", str(hub))
        yield path


@pytest.fixture(scope="module")
def lpips_and_ours():
    """Return LPIPS of the package and ours, on one random trunk."""
    import lpips

    from models.perceptual import Embedding, LpipsVgg, lpips_channel_weights, vgg16_trunk

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()):
        package = lpips.LPIPS(net="vgg", version="0.1", pnet_rand=True).eval()
    trunk = vgg16_trunk()
    state = {name.split(".", 1)[1]: value for name, value in package.net.state_dict().items()}
    trunk.load_state_dict(state, strict=False)
    return package, Embedding(LpipsVgg(trunk, lpips_channel_weights()), pixel_weight=0.0).eval()
