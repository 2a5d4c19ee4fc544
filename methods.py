"""The methods, by name: the only file that knows them all. Each is imported when it is asked for."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from errors import UserError
from training import checkpoint
from training.sampling import Sampler

if TYPE_CHECKING:
    from training.settings import Settings
    from training.trainer import Method


class Parts(NamedTuple):
    """Where a method's parts are, each as module:name."""

    config: str  # a training.settings.Settings
    method: str  # a training.trainer.Method, made of a Config and uint8 images (n, 3, H, W), device= and pretrained=
    drawing: str  # a function of a Config as dicts, what a checkpoint has as `sampled`, and a device: a training.sampling.Drawing


METHODS = {"imle": Parts("imle.settings:Config", "imle.method:Imle", "imle.drawing:open_drawing")}


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> "Settings":
    """Return the configuration of a YAML file changed by `section.key=value` words.

    Raises UserError naming the key, the value and what is expected.
    """
    from training.settings import read_values

    return from_dict(read_values(path, overrides))


def from_dict(values: dict) -> "Settings":
    """Return the configuration that nested dicts describe; what is not named keeps its default. Raises UserError."""
    from training import settings

    name = values.get("method", "imle")
    own = config_class(name).__dataclass_fields__
    for section in set(values) - set(own):
        for other in METHODS:
            if section in config_class(other).__dataclass_fields__:
                raise UserError(
                    f"{section}: belongs to method={other}, and this run has method={name}; leave it out, or set method={other}"
                )
    return settings.from_dict(config_class(name), values)


def asked_for(words: Sequence[str]) -> "type[Settings]":
    """Return the settings of the method that a command line names, in its `--config` or by method=NAME. Raises UserError."""
    from training.settings import read_values

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    named, rest = parser.parse_known_args(words)
    return config_class(read_values(named.config, [word for word in rest if word.startswith("method=")]).get("method", "imle"))


def config_class(name: str) -> "type[Settings]":
    """Return the settings of a method. Raises UserError for an unknown one."""
    return _imported(_parts(name).config)


def make(config: "Settings", images: Tensor, *, device: torch.device, pretrained: bool = True) -> "Method":
    """Return the method that a configuration asks for, untrained, to learn uint8 images (n, 3, H, W). Raises MissingWeights."""
    return _imported(_parts(config.method).method)(config, images, device=device, pretrained=pretrained)


def load(path: Path) -> dict:
    """Return a checkpoint or an export of this or an earlier revision. Raises UserError as `checkpoint.load` does."""
    state = checkpoint.load(path)
    if state["format"] == checkpoint.FORMAT:
        return state
    from imle.earlier import upgraded

    try:
        with checkpoint.unpacking(path):
            return upgraded(state)
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None


def open_sampler(path: str | Path, device: str | torch.device = "cpu") -> Sampler:
    """Return a sampler of a run folder, a checkpoint or an export.

    Raises UserError when there is nothing to load or it does not fit together.
    """
    file, device = checkpoint.find(Path(path)), torch.device(device)
    state = load(file)
    with checkpoint.unpacking(file):
        drawing = _imported(_parts(state["config"]["method"]).drawing)(state["config"], state["sampled"], device)
        return Sampler(file, state, drawing, device)


def _parts(name: str) -> Parts:
    if name not in METHODS:
        raise UserError(f"method: {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
