"""The dry run: the size, memory and time of a run, measured on a few real steps on this machine."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from errors import MissingWeights
from models.pixels import CHANNELS
from training.costs import measure
from training.settings import Settings, resolution
from training.start import Source
from training.trainer import Method, Trainer


def dry_run(
    config: Settings, make: Callable[..., Method], device: torch.device, *, num_images: int = 100, source: Source | None = None
) -> str:
    """Return a report; it times the method's jobs, a sheet and a save on `num_images` images of noise. `make` is `methods.make`.

    The report says what the run takes from `source`, if it starts from one. It names missing pretrained weights and times random ones
    instead, which cost the same.
    """
    images = torch.randint(256, (num_images, CHANNELS[config.data.channels], *resolution(config)), dtype=torch.uint8)
    method, missing = _made(config, make, images, device)
    lines = {"images": f"{num_images} (assumed)", **method.facts()}
    trainer = Trainer(config, method, num_images, data={}, device=device)
    start = "".join(f"{line}\n" for line in trainer.start(source))
    costs = measure(trainer)
    epochs = config.train.epochs
    if config.train.minutes:
        epochs = max(1, costs.epochs_in(config, 60 * config.train.minutes))
        lines["epochs"] = f"{epochs:,} in {config.train.minutes:g} minutes"
    for name, (seconds, times) in costs.of(config, epochs).items():
        lines[name] = f"{seconds:.3f} s, {times:,.0f} times"
    lines["the run"] = f"about {costs.seconds(config, epochs) / 3600:.1f} hours on this {device.type}"
    lines["peak memory"] = f"{_peak_memory(device)} on {device.type}"
    width = max(map(len, lines)) + 2
    return "".join(f"{name:<{width}}{value}\n" for name, value in lines.items()) + start + missing


def _made(config: Settings, make: Callable[..., Method], images: Tensor, device: torch.device) -> tuple[Method, str]:
    try:
        return make(config, images, device=device), ""
    except MissingWeights as error:
        missing = f"\nweights are missing; the times above are with random weights, which cost the same:\n{error}\n"
        return make(config, images, device=device, pretrained=False), missing


def _peak_memory(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_reserved(device) / 1e9:.2f} GB reserved by torch"
    if sys.platform == "win32":
        return "not measured"
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.2f} GB"
