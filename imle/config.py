"""Every setting of a run: frozen dataclasses < one YAML file < `section.key=value` words.

The resolved configuration is written to the run and is itself a valid `--config`. Of YAML only the structure is used:
every value arrives as its text and is converted to the type of its field, so that `no` stays a text where a text is
asked for, `1e-3` becomes a number and 010 means ten.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from errors import UserError
from imle.old_names import translated_settings


def setting(default: Any, meaning: str) -> Any:
    """Declare a field with its default and its one line of documentation."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"meaning": meaning})
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Data:
    """The images."""

    path: str = setting("data/fluent_faces", "folder or zip of training images")
    resolution: int | list[int] = setting(64, "side in pixels, or [height, width]")
    fit: str = setting("crop", "how an image of another shape becomes this one: crop, pad or stretch")
    background: str = setting("white", "colour under transparent pixels and around padded images")
    flips: bool = setting(False, "train on left-right mirror images too (doubles n)")
    holdout: float | list[str] = setting(0.0, "share of the images, or list of names, kept out of training for scoring")


@dataclass(frozen=True)
class Model:
    """The generator."""

    latent_dim: int = setting(32, "length of a latent z")
    style_dim: int = setting(256, "width of the mapping network and length of a style w")
    mapping_layers: int = setting(4, "layers of the mapping network")
    channels: list[int] = setting([128, 128, 96, 64, 32], "width at each resolution, from the learned constant upwards")
    blocks: list[int] = setting([2, 2, 2, 2, 1], "blocks at each resolution")


@dataclass(frozen=True)
class Loss:
    """The distance that training makes smaller."""

    perceptual: str = setting("effnet-lite0", "lpips-vgg, effnet-lite0 or pixels")
    pixel_weight: float = setting(0.3, "weight of the mean squared error of pixels beside it")
    distance: str = setting("squared", "squared, or robust: charbonnier or geman-mcclure, where what is far off counts for less")
    scale: float = setting(1.0, "difference at a position, c, from which on it does (charbonnier, geman-mcclure); features have length 1")
    stage_weight: float = setting(0.0, "weight of the mean squared error at the resolutions below the final one; 0 has no heads there")
    cache_gb: float = setting(4.0, "keep all targets' maps in memory up to this size, otherwise embed them at each step")


@dataclass(frozen=True)
class Imle:
    """The method: pool, rejection and matching."""

    match: str = setting("every", "when images are matched anew: every (all of them, every refresh_epochs) or adaptive (each when it asks)")
    reject: str = setting("share", "candidates that are not offered: none, fixed, share, quantile, rank or median_rank")
    pool_factor: float = setting(5.0, "candidates per image in a pool: m = pool_factor * n")
    pool_batch: int = setting(64, "candidates generated at once; memory and speed only")
    refresh_epochs: int = setting(10, "epochs between two refreshes (every)")
    features: str = setting("loss", "what is compared: loss (the training embedding), pixels, effnet-lite0 or lpips-vgg")
    sketch_dim: int = setting(0, "length of the random sketch of the features; 0 compares them whole")
    normalise: bool = setting(False, "scale features to length 1")
    search: str = setting("exact", "exact, dci or dciknn_cuda")
    epsilon: float = setting(0.0, "radius in feature units (fixed)")
    rejected_fraction: float = setting(0.1, "share of the pool to reject, nearest to any image first (share)")
    perturbation: float = setting(0.0, "standard deviation of the noise added to a matched latent at every step")
    adaptive_decay: float = setting(0.98, "delta: an image is matched anew below delta times its first distance (adaptive)")
    staleness: int = setting(5, "epochs that a match is kept at least (adaptive)")
    force_resample: int = setting(30, "epochs that a match is kept at most (adaptive)")


@dataclass(frozen=True)
class Train:
    """The steps."""

    epochs: int = setting(350, "passes over the images")
    batch_size: int = setting(10, "images in a step")
    micro_batch: int = setting(0, "images of a step that a process takes at once, to save memory; 0 takes all")
    optimizer: str = setting("adamw", "adamw, or muon (for the convolutions, with adamw for the rest)")
    learning_rate: float = setting(2e-3, "of the optimiser")
    mapping_rate: float = setting(1.0, "the mapping network's learning rate, as a share of the others'")
    betas: list[float] = setting([0.9, 0.99], "of AdamW")
    weight_decay: float = setting(0.01, "of the optimiser")
    clip: float = setting(0.0, "clip each weight's gradient at so many times its usual norm; 0 does not")
    warmup_steps: int = setting(10, "steps over which the learning rate rises from 0")
    schedule: str = setting("cosine", "after the warm-up: constant, cosine (to 0) or step")
    decay_epochs: int = setting(4000, "epochs between two decays (step)")
    decay_factor: float = setting(0.25, "factor of one decay (step)")
    ema_decay: float = setting(0.998, "of the averaged generator, which is what is sampled; shorter at the start")
    precision: str = setting("fp32", "fp32, or bf16 (autocast of the generator and the perceptual networks, in steps and for the pool)")
    compile: bool = setting(False, "torch.compile what a step runs: some minutes at the start for faster steps")


@dataclass(frozen=True)
class Log:
    """What a run shows and saves, and when."""

    sheet_epochs: int = setting(25, "epochs between two sample sheets, match sheets and scores")
    checkpoint_epochs: int = setting(10, "epochs between two checkpoints")
    num_scored: int = setting(100, "EMA samples drawn for the score that chooses best.pt")


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    seed: int = setting(0, "of every random choice")
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    imle: Imle = field(default_factory=Imle)
    train: Train = field(default_factory=Train)
    log: Log = field(default_factory=Log)


CHOICES = {
    "data.fit": ("crop", "pad", "stretch"),
    "loss.perceptual": ("lpips-vgg", "effnet-lite0", "pixels"),
    "loss.distance": ("squared", "charbonnier", "geman-mcclure"),
    "imle.match": ("every", "adaptive"),
    "imle.reject": ("none", "fixed", "share", "quantile", "rank", "median_rank"),
    "imle.features": ("loss", "pixels", "effnet-lite0", "lpips-vgg"),
    "imle.search": ("exact", "dci", "dciknn_cuda"),
    "train.optimizer": ("adamw", "muon"),
    "train.schedule": ("constant", "cosine", "step"),
    "train.precision": ("fp32", "bf16"),
}
# Inclusive bounds; None is open.
RANGES = {
    "data.resolution": (8, 2048), "data.holdout": (0.0, 0.9),
    "model.latent_dim": (1, None), "model.style_dim": (1, None), "model.mapping_layers": (0, 64),
    "model.channels": (1, None), "model.blocks": (1, None),
    "loss.pixel_weight": (0.0, None), "loss.scale": (0.001, 1000.0), "loss.stage_weight": (0.0, None), "loss.cache_gb": (0.0, None),
    "imle.pool_factor": (0.01, None), "imle.pool_batch": (1, None), "imle.refresh_epochs": (1, None),
    "imle.sketch_dim": (0, None), "imle.epsilon": (0.0, None), "imle.rejected_fraction": (0.0, 0.99),
    "imle.perturbation": (0.0, None), "imle.adaptive_decay": (0.0, 1.0),
    "imle.staleness": (0, None), "imle.force_resample": (1, None),
    "train.epochs": (1, None), "train.batch_size": (1, None), "train.micro_batch": (0, None),
    "train.learning_rate": (0.0, None), "train.mapping_rate": (0.0, None), "train.clip": (0.0, None),
    "train.betas": (0.0, 0.9999999), "train.weight_decay": (0.0, None), "train.warmup_steps": (0, None),
    "train.decay_epochs": (1, None), "train.decay_factor": (0.0, 1.0), "train.ema_decay": (0.0, 1.0),
    "log.sheet_epochs": (1, None), "log.checkpoint_epochs": (1, None), "log.num_scored": (2, None),
}  # fmt: skip


def load_config(path: str | Path | None, overrides: list[str] = ()) -> Config:
    """Return the configuration of a YAML file changed by `section.key=value` words.

    Raises UserError naming the key, the value and what is expected.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    for word in overrides:
        key, sign, text = word.partition("=")
        if not sign or not key:
            raise UserError(f"{word!r} is not a setting; write section.key=value, for example train.epochs=200")
        section, dot, name = key.partition(".")
        target = values
        if dot:
            values[section] = target = values.get(section) or {}
            if not isinstance(target, dict):
                raise UserError(f"{section}: expected a section of settings, found {_shown(target)}")
        target[name if dot else key] = text
    return from_dict(values)


def from_dict(values: dict) -> Config:
    """Return the configuration that nested dicts describe; what is not named keeps its default."""
    config = _build(Config, translated_settings(values), "")
    _check_consistency(config)
    return config


def to_dict(config: Config) -> dict:
    """Return the configuration as nested dicts of numbers, strings and lists."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML that `load_config` reads back to the same."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def describe_settings() -> str:
    """Return one line per setting: its key, default and meaning."""
    lines = []
    for section in dataclasses.fields(Config):
        fields = dataclasses.fields(section.type) if dataclasses.is_dataclass(section.type) else [section]
        prefix = "" if fields == [section] else section.name + "."
        for f in fields:
            default = f.default if f.default is not dataclasses.MISSING else f.default_factory()
            lines.append(f"  {prefix + f.name + '=' + str(default):<44} {f.metadata['meaning']}")
    return "\n".join(lines)


def resolution(config: Config) -> tuple[int, int]:
    """Return (height, width) of the images."""
    side = config.data.resolution
    return (side, side) if isinstance(side, int) else tuple(side)


class _Loader(yaml.BaseLoader):
    """Read every value as its text; a key that is given twice is an error, where YAML forgets the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict:
    try:
        values = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)
    except OSError as error:
        raise UserError(f"--config {path}: {error.strerror}; the recipes that come with the project are in configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--config {path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not values:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected sections of settings, found {_shown(values)}")
    return values


def _build(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.')}: expected a section of settings, found {_shown(values)}")
    hints = typing.get_type_hints(cls)
    built = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(_unknown_key(f"{prefix}{name}"))
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            built[name] = _build(hint, {} if value == "" else value, f"{prefix}{name}.")
        else:
            built[name] = _check(f"{prefix}{name}", value, hint)
    return cls(**built)


def _unknown_key(key: str) -> str:
    known = [line.split("=")[0].strip() for line in describe_settings().splitlines()]
    sections = [] if "." in key else [section.name for section in dataclasses.fields(Config)]
    near = [k for k in known if k.endswith("." + key)] or difflib.get_close_matches(key, sections + known, n=1)
    return f"{key}: no such setting; " + (f"did you mean {near[0]}?" if near else "`python train.py --help` lists them")


def _check(key: str, value: Any, hint: Any) -> Any:
    """Return `value` as the type that `hint` asks for, or raise UserError."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        converted = _convert(value, option)
        if converted is not None:
            break
    else:
        names = " or ".join(_type_name(option) for option in options)
        raise UserError(f"{key}: expected {names}, found {_shown(value)}")
    if key in CHOICES and converted not in CHOICES[key]:
        near = difflib.get_close_matches(converted, CHOICES[key], n=1)
        hint_text = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}: {_shown(converted)} is not one of {', '.join(CHOICES[key])}{hint_text}")
    low, high = RANGES.get(key, (None, None))
    for number in converted if isinstance(converted, list) else [converted]:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
                bounds = f"at least {low}" if high is None else f"between {low} and {high}"
                raise UserError(f"{key}: {number} is out of range; it must be {bounds if low is not None else 'finite'}")
    return converted


NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def _convert(value: Any, option: Any) -> Any:
    """Return `value`, which may be its text, as `option`, or None where it is something else."""
    if typing.get_origin(option) is list:
        (item,) = typing.get_args(option)
        converted = [_convert(v, item) for v in _as_list(value)]
        return None if None in converted else converted
    if option is str:
        return value if isinstance(value, str) else None
    text = str(value) if isinstance(value, (str, bool, int, float)) else ""
    if option is bool:
        return {"true": True, "false": False}.get(text.lower())
    if not NUMBER.fullmatch(text):
        return None
    number = float(text)
    if option is float:
        return number
    if not number.is_integer() or abs(number) >= 2**63:
        return None
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else int(number)  # 1e5 is whole too


def _as_list(value: Any) -> list:
    """Return a list, read from its text when it comes from the command line; [None] where it is none."""
    try:
        value = yaml.load(value, _Loader) if isinstance(value, str) else value
    except (yaml.YAMLError, RecursionError):
        value = None
    return value if isinstance(value, list) else [None]


def _type_name(option: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if typing.get_origin(option) is list:
        return {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}[typing.get_args(option)[0]]
    return names[option]


def _shown(value: Any) -> str:
    """Return a value as an error message quotes it, however long it is."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_consistency(config: Config) -> None:
    model, levels = config.model, len(config.model.channels)
    if levels == 0 or len(model.blocks) != levels:
        raise UserError(f"model.blocks: has {len(model.blocks)} entries and model.channels {levels}; give one each per resolution")
    if isinstance(config.data.resolution, list) and len(config.data.resolution) != 2:
        raise UserError(f"data.resolution: expected one number or [height, width], found {config.data.resolution}")
    scale = 2 ** (levels - 1)
    for side in resolution(config):
        if side % scale or side // scale < 2:
            raise UserError(
                f"data.resolution: {side} does not fit {levels} entries in model.channels, which double a start of "
                f"2 or more pixels {levels - 1} times; use a multiple of {scale} from {2 * scale}, or change model.channels"
            )
    if config.loss.stage_weight and levels == 1:
        raise UserError("loss.stage_weight: needs a resolution below the final one, and model.channels has a single entry; set it to 0")
    if len(config.train.betas) != 2:
        raise UserError(f"train.betas: expected two numbers, found {config.train.betas}")
    if 0 < config.train.clip <= 1:
        raise UserError(f"train.clip: at {config.train.clip} times the usual norm gradients die out; use more than 1, or 0 for none")
    reject, search = config.imle.reject, config.imle.search
    if reject in ("rank", "median_rank") and search != "exact":
        raise UserError(f"imle.reject: {reject} counts every candidate, which imle.search={search} does not; use exact")
    if config.imle.staleness > config.imle.force_resample:
        raise UserError("imle.staleness: must not be larger than imle.force_resample")
