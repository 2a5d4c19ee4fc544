"""Settings of earlier revisions, of which checkpoints and users' files still speak."""

from errors import UserError

# Settings that are gone, and what every run now has in their place.
GONE = {"model.bottleneck": "0.25", "imle.epsilon_ema": "0", "imle.reject_after": "0", "imle.reject_below": "0", "imle.top_up": "4",
        "imle.pool_precision": "train.precision"}  # fmt: skip


def translated(state: dict) -> dict:
    """Return a checkpoint with the settings that this revision knows. Raises UserError as `without_gone` does."""
    if not isinstance(state.get("config"), dict):
        return state  # and is refused by whoever needs them
    config = without_gone(state["config"])
    if isinstance(config.get("imle"), dict) and config["imle"].get("search") == "faiss":
        config["imle"]["search"] = "exact"  # which faiss was, up to rounding
    return state | {"config": config}


def without_gone(config: dict) -> dict:
    """Return sections of settings, as values or texts, without those that are gone.

    Raises UserError for one with another value than every run now has.
    """
    config = {name: dict(section) if isinstance(section, dict) else section for name, section in config.items()}
    for key, always in GONE.items():
        section, name = key.split(".")
        if isinstance(config.get(section), dict) and name in config[section]:
            value = config[section].pop(name)
            if not _same(value, always) and not (name == "pool_precision" and value in ("fp32", _precision(config))):
                raise UserError(f"{key}={value}: this setting is gone, and every run has {always} in its place; "
                                "leave it out, or use the revision that had it")  # fmt: skip
    return config


def _precision(config: dict) -> object:
    train = config.get("train")
    return train.get("precision") if isinstance(train, dict) else None


def _same(value: object, always: str) -> bool:
    try:
        return float(value) == float(always)
    except (TypeError, ValueError):
        return False
