"""What earlier revisions wrote: settings that have other names now or are gone, and checkpoints of format 1.

Checkpoints and the config.yaml of old runs are translated. A user who writes an old name is told the new one.
"""

import math

from errors import UserError

# Settings that are gone, and what every run now has in their place.
GONE = {
    "model.bottleneck": 0.25,
    "model.mapping": "mlp",
    "imle.epsilon_ema": 0,
    "imle.reject_after": 0,
    "imle.reject_below": 0,
    "imle.top_up": 4,
    "imle.pool_precision": "train.precision",
}
UNREAD = {"tokens", "token_dim", "token_cycles", "token_steps"}  # of model; only mapping=tokens read them
RENAMED = {"objective", "epsilon_mode"}  # of imle, to match and reject
FIRST = RENAMED | {"epsilon_ema", "reject_after", "reject_below", "top_up"}  # settings of imle that every old run wrote down


def upgraded(state: dict) -> dict:
    """Return a checkpoint or export of format 1, which knew no method but this, as one of format 2.

    Raises UserError if the run had something that is gone, KeyError where parts are missing.
    """
    state = _translated(state)
    parts = {"config": {"method": "imle", **state["config"]}, "sampled": state["ema"]}
    if "generator" in state:  # which exports have not
        network = state["generator"]
        if "heads" in state:
            network = {f"{name}.{key}": value for name in ("generator", "heads") for key, value in state[name].items()}
        learner = {"network": network} | {key: state[key] for key in ("optimizer", "usual_norms") if key in state}
        parts["method"] = {"learner": learner} | {key: state[key] for key in ("latents", "losses", "refreshes", "objective")}
    kept = ("data", "step", "best", "log_position", "selected_by", "cpu_seconds")  # the last is the laboratory's
    return {key: state[key] for key in kept if key in state} | parts


def _translated(state: dict) -> dict:
    config = state["config"]
    if RENAMED & set(_section(config, "imle")):
        config = _renamed(config)
        if len(_section(state, "data").get("heldout") or ()) > 1:
            state = state | {"best": math.inf}  # it was measured on these; best.pt is now chosen on the training images
    return state | {"config": _without_gone(config)}


def translated_settings(config: dict) -> dict:
    """Return what a user gave, sections of settings as values or texts, without the old settings that do no harm.

    A config.yaml of an old run is translated. Raises UserError for other old settings.
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
        imle["search"] = "exact"  # which faiss was, up to rounding
    return config | {"imle": today | imle}


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
                f"{key}={value}: this setting is gone, and every run has {always} in its place; "
                "leave it out, or use the revision that had it"
            )
    if UNREAD & set(_section(config, "model")):
        config = config | {"model": {name: value for name, value in config["model"].items() if name not in UNREAD}}
    return config


def _section(config: dict, name: str) -> dict:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def _number(value: object) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
