"""Files of earlier revisions: settings that were renamed or removed, and checkpoints of format 1.

Checkpoints and the config.yaml of old runs are translated. For an old name on a command line, an error gives the new one.
"""

import math

from errors import UserError

# Removed settings, and the value that every run has now.
GONE = {
    "model.bottleneck": 0.25,
    "model.mapping": "mlp",
    "loss.distance": "squared",
    "imle.epsilon_ema": 0,
    "imle.reject_after": 0,
    "imle.reject_below": 0,
    "imle.top_up": 4,
    "imle.pool_precision": "train.precision",
}
# Settings that only another value of a removed one read.
UNREAD = {"model": {"tokens", "token_dim", "token_cycles", "token_steps"}, "loss": {"scale"}}
RENAMED = {"objective", "epsilon_mode"}  # settings of imle, now match and reject
FIRST = RENAMED | {"epsilon_ema", "reject_after", "reject_below", "top_up"}  # settings of imle in every old run's config.yaml


def upgraded(state: dict) -> dict:
    """Return a checkpoint or export of format 1, which is always one of IMLE, in format 2.

    Raises UserError if the run used a removed setting, KeyError if parts are missing.
    """
    state = _translated(state)
    parts = {"config": {"method": "imle", **state["config"]}, "sampled": state["ema"]}
    if "generator" in state:  # not in exports
        network = state["generator"]
        if "heads" in state:
            network = {f"{name}.{key}": value for name in ("generator", "heads") for key, value in state[name].items()}
        learner = {"network": network} | {key: state[key] for key in ("optimizer", "usual_norms") if key in state}
        parts["method"] = {"learner": learner} | {key: state[key] for key in ("latents", "losses", "refreshes", "objective")}
    kept = ("data", "step", "best", "log_position", "selected_by", "cpu_seconds")  # lab/ adds cpu_seconds
    return {key: state[key] for key in kept if key in state} | parts


def _translated(state: dict) -> dict:
    config = state["config"]
    if RENAMED & set(_section(config, "imle")):
        config = _renamed(config)
        if len(_section(state, "data").get("heldout") or ()) > 1:
            state = state | {"best": math.inf}  # it was measured on held-out images; best.pt is now chosen on the training images
    return state | {"config": _without_gone(config)}


def translated_settings(config: dict) -> dict:
    """Return a user's settings, nested dicts of values or texts, without removed settings that have no effect.

    The config.yaml of an old run is translated. Raises UserError for other old settings.
    """
    names = set(_section(config, "imle"))
    if names >= FIRST:
        return _renamed(_without_gone(config))
    if names & RENAMED:
        today = _renamed(config)["imle"]
        raise UserError(
            f"imle.{' and imle.'.join(sorted(names & RENAMED))}: now called imle.match and imle.reject; "
            f"write imle.match={today['match']} imle.reject={today['reject']}"
        )
    return _without_gone(config)


def _renamed(config: dict) -> dict:
    imle = dict(config["imle"])
    objective, mode = imle.pop("objective", "rs"), imle.pop("epsilon_mode", "rejected_fraction")
    today = {"match": "adaptive" if objective == "adaptive" else "every", "reject": "none"}
    if objective == "rs":
        today["reject"] = "share" if mode == "rejected_fraction" else mode
    if imle.get("search") == "faiss":
        imle["search"] = "exact"  # faiss gave the same matches up to rounding
    train = dict(_section(config, "train"))
    if train.get("precision") == "fp32":
        train["precision"] = "tf32"  # what it was on a GPU; on a CPU both are the same
    return config | {"imle": today | imle} | ({"train": train} if train else {})


def _without_gone(config: dict) -> dict:
    for key, always in GONE.items():
        section, name = key.split(".")
        settings = dict(_section(config, section))
        if name not in settings:
            continue
        value = settings.pop(name)
        config = config | {section: settings}
        if name == "pool_precision":
            harmless = value in ("fp32", _section(config, "train").get("precision"))
        else:
            harmless = always in (value, _number(value))
        if not harmless:
            raise UserError(
                f"{key}={value}: this setting was removed, and every run now has {always}; leave it out, or use the revision that had it"
            )
    for section, names in UNREAD.items():
        if names & set(_section(config, section)):
            config = config | {section: {name: value for name, value in config[section].items() if name not in names}}
    return config


def _section(config: dict, name: str) -> dict:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _number(value: object) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
