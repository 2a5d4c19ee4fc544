"""Whether a checkpoint may go on under the present configuration and images."""

from errors import UserError
from imle.config import Config, to_dict

DEFAULTS = to_dict(Config())  # what a checkpoint that knows nothing of a setting was trained with

# Settings that make another run of it; all others may change between two sessions of one run.
FIXED = {
    "data": ("resolution", "fit", "background", "flips", "holdout"),
    "model": None,
    "loss": ("perceptual", "pixel_weight", "distance", "scale", "stage_weight"),
    "imle": ("objective", "pool_factor", "features", "sketch_dim", "normalise"),
    "train": ("optimizer", "mapping_rate"),
}
# Settings that change nothing but speed, memory or where things are.
SILENT = {"data.path", "imle.pool_batch", "loss.cache_gb", "train.micro_batch", "train.compile"}


def check_same_run(state: dict, config: Config, data: dict) -> list[str]:
    """Return a line for every setting that changed and may; `state` is a checkpoint, `data` describes the images.

    Raises UserError saying what changed when the run cannot go on with it.
    """
    before, now, notices = state["config"], to_dict(config), []
    if before["seed"] != now["seed"]:
        raise _refusal("seed", before["seed"], now["seed"])
    for section in (name for name in now if name != "seed"):
        for key, value in now[section].items():
            old, name = before[section].get(key, DEFAULTS[section][key]), f"{section}.{key}"
            if old == value or name in SILENT:
                continue
            if section in FIXED and (FIXED[section] is None or key in FIXED[section]):
                raise _refusal(name, old, value)
            notices.append(f"{name}: {old} -> {value} from step {state['step']}")
    if state["data"]["fingerprint"] != data["fingerprint"]:
        raise UserError(f"the images have changed since this run began: {_difference(state['data'], data)}; "
                        "restore them, or choose another --run")  # fmt: skip
    return notices


def _refusal(name: str, old: object, new: object) -> UserError:
    return UserError(f"{name}: this run began with {old!r} and cannot go on with {new!r}; change it back or choose another --run")


def _difference(before: dict, now: dict) -> str:
    old, new = (set(d["names"]) | set(d["heldout"]) for d in (before, now))
    changes = [f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
               for what, names in (("removed", old - new), ("added", new - old)) if names]  # fmt: skip
    other = " and ".join(changes) or "the same names, other pixels"
    return other if "reader" in before else f"{other} (this revision converts colours to sRGB and reads more files than the one that began it)"
