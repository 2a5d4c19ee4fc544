"""The dry run: the size, memory and time of a run, measured on a few real steps on this machine."""

import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from errors import MissingWeights
from training.runlog import RunLog
from training.settings import Settings, resolution
from training.trainer import Method, Trainer


def dry_run(config: Settings, make: Callable[..., Method], device: torch.device, num_images: int = 100) -> str:
    """Return a report; it times the method's jobs, a sheet and a save on `num_images` images of noise. `make` is `methods.make`.

    The report names missing pretrained weights and times random ones instead, which cost the same.
    """
    images = torch.randint(256, (num_images, 3, *resolution(config)), dtype=torch.uint8)
    method, missing = _made(config, make, images, device)
    lines = {"images": f"{num_images} (assumed)", **method.facts()}
    costs = {
        name: (_seconds(job, device, warm_up=True) / part, config.train.epochs * per_epoch)
        for name, (job, per_epoch, part) in method.work().items()
    }
    sheet, save = _sheet_and_save(Trainer(config, method, num_images, data={}, device=device))
    sheets = 1 + math.ceil(config.train.epochs / config.log.sheet_epochs)  # the first is of step 0
    costs["a sheet and its score"] = sheet, sheets
    training = sum(seconds * times for seconds, times in costs.values())
    costs["a save"] = save, _saves(config, training) + sheets - 1  # a sheet but the first may be the best so far
    for name, (seconds, times) in costs.items():
        lines[name] = f"{seconds:.3f} s, {times:,.0f} times"
    lines["the run"] = f"about {sum(seconds * times for seconds, times in costs.values()) / 3600:.1f} hours on this {device.type}"
    lines["peak memory"] = f"{_peak_memory(device)} on {device.type}"
    width = max(map(len, lines)) + 2
    return "".join(f"{name:<{width}}{value}\n" for name, value in lines.items()) + missing


def _made(config: Settings, make: Callable[..., Method], images: Tensor, device: torch.device) -> tuple[Method, str]:
    try:
        return make(config, images, device=device), ""
    except MissingWeights as error:
        missing = f"\nweights are missing; the times above are with random weights, which cost the same:\n{error}\n"
        return make(config, images, device=device, pretrained=False), missing


def _sheet_and_save(trainer: Trainer) -> tuple[float, float]:
    """Return the seconds that training stands still for a sheet and its score, and for a save; the files are not kept."""
    trainer.step = 1  # step 0 has fewer sheets
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder))
        trainer.write_to(log)
        with trainer.writer:
            sheet = _seconds(trainer.draw_and_score, trainer.device)
            trainer.writer.wait()
            save = _seconds(lambda: trainer.save("last"), trainer.device)
        log.close()
    return sheet, save


def _saves(config: Settings, seconds: float) -> int:
    """Return how often a run of so many seconds writes last.pt."""
    minutes = config.log.checkpoint_minutes
    return min(config.train.epochs, 1 + int(seconds / 60 / minutes)) if minutes else config.train.epochs


def _seconds(job: Callable[[], object], device: torch.device, warm_up: bool = False) -> float:
    """Return the seconds of one call of `job`, after a first call to `warm_up`."""
    for _ in range(1 + warm_up):
        started = time.perf_counter()
        job()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _peak_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_reserved(device) / 1e9:.2f} GB reserved by torch"
    if sys.platform == "win32":
        return "not measured"
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB"
