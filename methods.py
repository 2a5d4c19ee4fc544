"""The methods by name: the only file that names them all. A method is imported when it is used."""

import argparse
import hashlib
import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from errors import UserError
from training import checkpoint
from training.drawing import Drawing, Sampler
from training.start import Source

if TYPE_CHECKING:
    from training.settings import Settings
    from training.trainer import Method


class Parts(NamedTuple):
    """The parts of a method, each as module:name."""

    config: str  # a subclass of training.settings.Settings
    method: str  # (Config, uint8 images (n, C, H, W), device=, pretrained=) -> training.trainer.Method
    drawing: str  # (Config as nested dicts, a checkpoint's `sampled`, device) -> training.drawing.Drawing
    requirements: str = ""  # a file that names further packages


DIFFUSERS = "baselines/requirements.txt"
METHODS = {
    "imle": Parts("imle.settings:Config", "imle.method:Imle", "imle.drawing:open_drawing"),
    "fastgan": Parts("baselines.fastgan:Config", "baselines.fastgan:FastGan", "baselines.drawing:open_fastgan"),
    "score-sde": Parts("baselines.score_sde:Config", "baselines.score_sde:ScoreSde", "baselines.drawing:open_score_sde", DIFFUSERS),
    "crdi": Parts("baselines.crdi:Config", "baselines.crdi:Crdi", "baselines.drawing:open_crdi", DIFFUSERS),
}


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> "Settings":
    """Return the configuration of a YAML file and `section.key=value` words, which override the file.

    Raises UserError that names the key, the value and what is expected.
    """
    from training.settings import read_values

    return from_dict(read_values(path, overrides))


def from_dict(values: dict) -> "Settings":
    """Return the configuration of nested dicts; missing settings keep their defaults. Raises UserError."""
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


def asked_for(words: Sequence[str]) -> str:
    """Return the name of the method that a command line asks for, by method=NAME or in `--config`. Raises UserError."""
    from training.settings import read_values

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config")
    named, rest = parser.parse_known_args(words)
    return read_values(named.config, [word for word in rest if word.startswith("method=")]).get("method", "imle")


def requirements(words: Sequence[str]) -> str:
    """Return the file of the further packages that the method of a command line needs; empty if none, or if there is no such method."""
    try:
        return _parts(asked_for(words)).requirements
    except UserError:  # train.py tells it
        return ""


def config_class(name: str) -> "type[Settings]":
    """Return the Config class of a method. Raises UserError for an unknown method."""
    return _imported(_parts(name).config)


def make(config: "Settings", images: Tensor, *, device: torch.device, pretrained: bool = True) -> "Method":
    """Return the configuration's method, untrained, for uint8 images (n, C, H, W). Raises MissingWeights."""
    return _imported(_parts(config.method).method)(config, images, device=device, pretrained=pretrained)


def load(path: Path) -> dict:
    """Return the content of a checkpoint or an export of this or an earlier revision. Raises UserError."""
    state = checkpoint.load(path)
    if state["format"] == checkpoint.FORMAT:
        return state
    from imle.earlier import upgraded

    try:
        with checkpoint.unpacking(path):
            return upgraded(state)
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None


def source(config: "Settings") -> Source | None:
    """Return what `train.start_from` names, None if nothing.

    Raises UserError if there is no such checkpoint, or if it is of another method.
    """
    if not (name := config.train.start_from):
        return None
    try:
        file = checkpoint.find(Path(os.path.expanduser(name)))
        state = load(file)
        with checkpoint.unpacking(file):
            method = state["config"]["method"]
    except UserError as error:
        raise UserError(f"train.start_from: {error}") from None
    if method != config.method:
        raise UserError(f"train.start_from: {name} is of method={method}, and this run has method={config.method}; both must be of one")
    with file.open("rb") as content:
        return Source(file, state, {"name": name, "sha256": hashlib.file_digest(content, "sha256").hexdigest()})


def open_sampler(path: str | Path, device: str | torch.device = "cpu") -> Sampler:
    """Return a sampler of a run folder, a checkpoint or an export.

    Raises UserError if there is nothing to load, or if its parts do not fit each other.
    """
    file, device = checkpoint.find(Path(path)), torch.device(device)
    state = load(file)
    with checkpoint.unpacking(file):
        return Sampler(file, state, open_drawing(state, device), device)


def open_drawing(state: dict, device: torch.device) -> Drawing:
    """Return what samples from the content of a checkpoint. Raises an error if its parts do not fit each other."""
    drawing = _imported(_parts(state["config"]["method"]).drawing)(state["config"], state["sampled"], device)
    source = state.get("started_from")
    return drawing._replace(prior=f"{source['name']} {source['sha256']}") if source else drawing


def _parts(name: str) -> Parts:
    if name not in METHODS:
        raise UserError(f"method: {name!r} is not one of {', '.join(METHODS)}")
    return METHODS[name]


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
