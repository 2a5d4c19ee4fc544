"""Settings: declare, read, check, explain and write them, for all methods; and the sections that all methods share.

A method's Config adds its sections to those of `Settings`. Values come from the fields' defaults, then one YAML file, then
`section.key=value` words. The run writes the resolved configuration, which is itself a valid `--config`. YAML gives only
the structure: every value is read as text and converted to its field's type, so `no` stays text in a text field, `1e-3` is
a number, and 010 means ten.
"""

import dataclasses
import difflib
import math
import re
import reprlib
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from errors import UserError
from models.pixels import CHANNELS
from models.precision import PRECISIONS
from training.transform import sides

RATE = "; from now on the learning rate is that of a run with this value from the start"


class Facts(NamedTuple):
    """The facts of a setting, besides its default and type."""

    meaning: str
    least: float | None = None  # inclusive bounds of a number, or of each number in a list
    most: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool | str = False  # a resumed run may not change it; a text says what to do instead
    silent: bool = False  # changes only speed, memory, paths or when to save; a resumed run does not report the change
    effect: str = ""  # what a change does to a resumed run, if that needs saying
    under: str | None = None  # `effect` holds under this train.schedule only; None: under any


def setting(default: Any, meaning: str, **facts: Any) -> Any:
    """Declare a field with its default and its `Facts`."""
    metadata = {"facts": Facts(meaning, **facts)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Data:
    """The images."""

    path: str = setting("data/fluent_faces", "folder or zip of training images", silent=True)
    resolution: int | list[int] = setting(64, "side in pixels, or [height, width]", least=8, most=2048, fixed=True)
    fit: str = setting("crop", "how an image of another shape is made to fit", choices=("crop", "pad", "stretch"), fixed=True)
    channels: str = setting(
        "rgb", "of images and samples; rgba: with their transparency; grey: without colours", choices=tuple(CHANNELS), fixed=True
    )
    background: str = setting(
        "white", "colour under transparent pixels (rgba: where images are compared and scored) and around padded images", fixed=True
    )
    flips: bool = setting(False, "train on left-right mirror images too (doubles n)", fixed=True)
    holdout: float | list[str] = setting(
        0.0, "share of the images, or list of names, kept out of training for scoring", least=0.0, most=0.9, fixed=True
    )


@dataclass(frozen=True)
class Train:
    """The optimisation."""

    start_from: str = setting(
        "", "run, checkpoint or export of the same method whose weights to start from, where they fit; empty: none", fixed=True
    )
    epochs: int = setting(350, "passes over the images", least=1, effect=RATE, under="cosine")
    minutes: float = setting(
        0.0, "minutes that a run may take; its epochs follow from what they cost on this machine; 0: train.epochs decides", least=0.0
    )
    batch_size: int = setting(10, "images in a step", least=1, fixed="train.micro_batch saves memory and gives the same result")
    micro_batch: int = setting(0, "images that a process takes at once in a step, to save memory; 0: all", least=0, silent=True)
    optimizer: str = setting(
        "adamw", "optimiser; muon: Muon for the convolutions, AdamW for the rest", choices=("adamw", "muon"), fixed=True
    )
    learning_rate: float = setting(2e-3, "peak learning rate", least=0.0)
    mapping_rate: float = setting(1.0, "factor on the mapping network's learning rate", least=0.0, fixed=True)
    betas: list[float] = setting([0.9, 0.99], "AdamW's betas", least=0.0, most=0.9999999, fixed=True)
    weight_decay: float = setting(0.01, "decoupled weight decay", least=0.0)
    clip: float = setting(0.0, "clip each weight's gradient at this many times its usual norm; 0: do not clip", least=0.0)
    warmup_steps: int = setting(10, "steps over which the learning rate rises from 0", least=0, effect=RATE)
    schedule: str = setting(
        "cosine", "how the learning rate falls after the warm-up; cosine ends at 0", choices=("constant", "cosine", "step"), effect=RATE
    )
    decay_epochs: int = setting(4000, "epochs between two decays (step)", least=1, effect=RATE, under="step")
    decay_factor: float = setting(0.25, "factor of one decay (step)", least=0.0, most=1.0, effect=RATE, under="step")
    ema_decay: float = setting(0.998, "decay of the EMA, which is what is sampled; smaller in the first steps", least=0.0, most=1.0)
    precision: str = setting(
        "tf32",
        "of steps and pools. tf32: float32 with TF32 products on a GPU; fp32: true float32, always used for samples and scores; "
        "bf16, fp16: 16-bit maps",
        choices=PRECISIONS,
    )
    compile: bool = setting(False, "torch.compile the networks of a step; costs minutes at the start", silent=True)
    cuda_graph: bool = setting(
        True,
        "on a GPU, replay forward and backward pass as one CUDA graph; several processes and train.compile=true use none",
        silent=True,
    )

    def steps_per_epoch(self, n: int) -> int:
        """Return the number of steps in an epoch of `n` images."""
        return math.ceil(n / self.batch_size)

    def check(self) -> None:
        """Raise UserError for settings that do not make sense."""
        if len(self.betas) != 2:
            raise UserError(f"train.betas: expected two numbers, found {self.betas}")
        if 0 < self.clip <= 1:
            raise UserError(
                f"train.clip: at {self.clip} times the usual norm gradients shrink at every step; use more than 1, or 0 to clip none"
            )


@dataclass(frozen=True)
class Log:
    """Sheets, scores and checkpoints."""

    sheet_epochs: int = setting(25, "epochs between two sample sheets and scores", least=1)
    checkpoint_minutes: float = setting(
        5.0, "minutes between two checkpoints, which are saved at the end of an epoch; 0: of every epoch", least=0.0, silent=True
    )
    num_scored: int = setting(100, "EMA samples in the score that chooses best.pt", least=2)


@dataclass(frozen=True)
class Settings:
    """The settings that all methods share; a method's Config adds its own sections."""

    method: str = setting("", "method to train", fixed=True)
    seed: int = setting(0, "seed of every random choice", fixed=True)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    log: Log = field(default_factory=Log)

    def check(self) -> None:
        """Raise UserError for settings that contradict each other."""
        if isinstance(self.data.resolution, list) and len(self.data.resolution) != 2:
            raise UserError(f"data.resolution: expected one number or [height, width], found {self.data.resolution}")
        self.train.check()

    def only_rgb(self) -> None:
        """Raise UserError for other channels than rgb: for the check of a method that draws no others."""
        if self.data.channels != "rgb":
            raise UserError(f"data.channels: method={self.method} draws rgb only; use that, or method=imle for {self.data.channels}")

    @staticmethod
    def translated(values: dict) -> dict:
        """Return the `values` of a file or a checkpoint, with an earlier revision's names replaced by the present ones.

        Raises UserError for log.checkpoint_epochs, except beside all other settings of its section: those come from a run.
        """
        log = values.get("log")
        if not isinstance(log, dict) or "checkpoint_epochs" not in log:
            return values
        if not {"sheet_epochs", "num_scored"} <= log.keys():
            raise UserError(
                "log.checkpoint_epochs: now called log.checkpoint_minutes, and counted in minutes; "
                "write log.checkpoint_minutes=5, or 0 to save every epoch"
            )
        return values | {"log": {name: value for name, value in log.items() if name != "checkpoint_epochs"}}


C = TypeVar("C", bound=Settings)


def resolution(config: Settings) -> tuple[int, int]:
    """Return (height, width) of the images."""
    return sides(config.data.resolution)


def read_values(path: str | Path | None, overrides: Sequence[str] = ()) -> dict:
    """Return the values of a YAML file and of `section.key=value` words as nested dicts of texts. Raises UserError."""
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
    return values


def from_dict(cls: type[C], values: dict) -> C:
    """Return the configuration of nested dicts; missing settings keep their defaults.

    Raises UserError that names the key, the value and what is expected.
    """
    config = _build(cls, cls.translated(values), "")
    config.check()
    return config


def to_dict(config: Settings) -> dict:
    """Return the configuration as nested dicts of numbers, strings and lists."""
    return dataclasses.asdict(config)


def to_yaml(config: Settings) -> str:
    """Return the configuration as YAML, which reads back to the same configuration."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def facts(cls: type) -> Iterator[tuple[str, Any, Facts]]:
    """Yield the key, the default and the facts of every setting of a Config class."""
    for section in dataclasses.fields(cls):
        if dataclasses.is_dataclass(section.type):
            for f in dataclasses.fields(section.type):
                yield f"{section.name}.{f.name}", _default(f), f.metadata["facts"]
        else:
            yield section.name, _default(section), section.metadata["facts"]


def describe(cls: type) -> str:
    """Return one line per setting of a Config class: its key, default, meaning and choices."""
    lines = []
    for key, default, known in facts(cls):
        choices = f" ({' or '.join(filter(None, (', '.join(known.choices[:-1]), known.choices[-1])))})" if known.choices else ""
        lines.append(f"  {f'{key}={default}':<44} {known.meaning}{choices}")
    return "\n".join(lines)


def _default(f: dataclasses.Field) -> Any:
    return f.default_factory() if callable(f.default_factory) else f.default


class _Loader(yaml.BaseLoader):
    """Read every value as text; a key that is given twice is an error, whereas plain YAML drops the first."""

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
        raise UserError(f"--config {path}: {error.strerror}; the project's recipes are in configs/") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--config {path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not values:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: expected sections of settings, found {_shown(values)}")
    return values


def _build(config: type, values: dict, prefix: str, section: Any = None) -> Any:
    """Return the Config, or its section `section`, that `values` describe; `prefix` is the path to it in the keys."""
    cls = section or config
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.')}: expected a section of settings, found {_shown(values)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            raise UserError(_unknown_key(f"{prefix}{name}", config))
        kind: Any = fields[name].type
        if dataclasses.is_dataclass(kind):
            built[name] = _build(config, {} if value == "" else value, f"{prefix}{name}.", kind)
        else:
            built[name] = _check(f"{prefix}{name}", value, kind, fields[name].metadata["facts"])
    return cls(**built)


def _unknown_key(key: str, config: type) -> str:
    known = [known for known, _, _ in facts(config)]
    sections = [] if "." in key else [section.name for section in dataclasses.fields(config)]
    near = [k for k in known if k.endswith("." + key)] or difflib.get_close_matches(key, sections + known, n=1)
    return f"{key}: no such setting; " + (f"did you mean {near[0]}?" if near else "`python train.py --help` lists them")


def _check(key: str, value: Any, hint: Any, known: Facts) -> Any:
    """Return `value` converted to the type `hint`. Raises UserError if it does not fit the type or the facts `known`."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for option in options:
        converted = _convert(value, option)
        if converted is not None:
            break
    else:
        names = " or ".join(_type_name(option) for option in options)
        raise UserError(f"{key}: expected {names}, found {_shown(value)}")
    if known.choices and converted not in known.choices:
        near = difflib.get_close_matches(converted, known.choices, n=1)
        hint_text = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}: {_shown(converted)} is not one of {', '.join(known.choices)}{hint_text}")
    for number in converted if isinstance(converted, list) else [converted]:
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            _check_range(key, number, known.least, known.most)
    return converted


def _check_range(key: str, number: float, least: float | None, most: float | None) -> None:
    if not math.isfinite(number) or (least is not None and number < least) or (most is not None and number > most):
        bounds = "finite" if least is None else f"at least {least}" if most is None else f"between {least} and {most}"
        raise UserError(f"{key}: {number} is out of range; it must be {bounds}")


NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)


def _convert(value: Any, option: Any) -> Any:
    """Return `value`, or the value of its text, as the type `option`; None if it is of another type."""
    if typing.get_origin(option) is list:
        (item,) = typing.get_args(option)
        converted = [_convert(v, item) for v in _as_list(value)]
        return None if None in converted else converted
    if typing.get_origin(option) is typing.Literal:
        return value if value in typing.get_args(option) else None
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
    return int(text) if re.fullmatch(r"[-+]?\d+", text) else int(number)  # 1e5 is a whole number too


def _as_list(value: Any) -> list:
    """Return `value` as a list; a text is parsed as YAML. Return [None] if it is not a list."""
    try:
        value = yaml.load(value, _Loader) if isinstance(value, str) else value
    except (yaml.YAMLError, RecursionError):
        value = None
    return value if isinstance(value, list) else [None]


def _type_name(option: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if typing.get_origin(option) is list:
        return {int: "a list of whole numbers", float: "a list of numbers", str: "a list of texts"}[typing.get_args(option)[0]]
    if typing.get_origin(option) is typing.Literal:
        return " or ".join(typing.get_args(option))
    return names[option]


def _shown(value: Any) -> str:
    """Return `value` for an error message, shortened to 80 characters."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
