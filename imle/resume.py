"""Whether a checkpoint may go on under the present configuration and images, and what there is to tell of it."""

from pathlib import Path

from errors import UserError
from imle.config import Config, to_dict

DEFAULTS = to_dict(Config())  # what a checkpoint that knows nothing of a setting was trained with

# Settings that make another run of it; all others may change between two sessions of one run.
FIXED = {
    "data": ("resolution", "fit", "background", "flips", "holdout"),
    "model": None,
    "loss": ("perceptual", "pixel_weight", "distance", "scale", "stage_weight"),
    "imle": ("match", "pool_factor", "features", "sketch_dim", "normalise"),
    "train": ("batch_size", "optimizer", "mapping_rate", "betas"),
}
INSTEAD = {"train.batch_size": " (train.micro_batch saves memory and gives the same result)"}  # of changing what is fixed
# Settings that change nothing but speed, memory or where things are.
SILENT = {"data.path", "imle.pool_batch", "loss.cache_gb", "train.micro_batch", "train.compile"}
# Settings that define the learning rate of every step since step 0, and the schedule under which they do.
FROM_THE_START = {"train.warmup_steps": None, "train.schedule": None, "train.epochs": "cosine", "train.decay_epochs": "step",
                  "train.decay_factor": "step"}  # fmt: skip
# What else a change does, where that is not plain from the setting.
EFFECTS = {"imle.adaptive_decay": "for each image from its next match on"}


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
            notices.append(f"{name}: {old} -> {value} from step {state['step']}{_effect(name, now['train']['schedule'])}")
    if state["data"]["fingerprint"] != data["fingerprint"]:
        raise UserError(f"the images have changed since this run began: {_difference(state['data'], data)}; "
                        "restore them, or choose another --run")  # fmt: skip
    return notices


def nothing_to_do(run: Path, state: dict, *, epochs: int, steps_per_epoch: int) -> str:
    """Say why a checkpoint that has taken the steps of so many `epochs`, or more, does not go on."""
    epoch, before = state["step"] / steps_per_epoch, state["config"]["train"]["epochs"]
    if epoch == epochs >= before:
        return f"{run} is finished, at step {state['step']}; more than train.epochs={epochs} would go on"
    return f"{run} stays as it is, at epoch {epoch:.5g} of {before}: train.epochs={epochs} asks for no more; a larger number goes on"


def _effect(name: str, schedule: str) -> str:
    if FROM_THE_START.get(name, "") in (None, schedule):
        return "; the learning rate is from now on what it would be, had it been so from the start"
    return f", {EFFECTS[name]}" if name in EFFECTS else ""


def _refusal(name: str, old: object, new: object) -> UserError:
    return UserError(f"{name}: this run began with {old!r} and cannot go on with {new!r}; "
                     f"change it back{INSTEAD.get(name, '')} or choose another --run")  # fmt: skip


def _difference(before: dict, now: dict) -> str:
    old, new = (set(d["names"]) | set(d["heldout"]) for d in (before, now))
    changes = [f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
               for what, names in (("removed", old - new), ("added", new - old)) if names]  # fmt: skip
    other = " and ".join(changes) or "the same names, other pixels"
    if before.get("reader", 1) > 1:
        return other
    return f"{other} (this revision converts colours to sRGB and reads more files than the one that began it)"
