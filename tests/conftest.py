"""What the tests share: one thread, so that they run side by side and bit for bit; a tiny run; real subprocesses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def command():
    """Return a function that runs one of the scripts as a user does and gives its result."""

    def run(script: str, *words: object, cwd: Path = ROOT, env: dict | None = None, python_options=()) -> subprocess.CompletedProcess:
        line = [sys.executable, *python_options, str(ROOT / script), *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}
        return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    return run


SMOKE = ["--config", str(ROOT / "configs" / "smoke-32.yaml"), f"data.path={ROOT / 'data' / 'fluent_faces'}"]


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
