"""Whether a checkpoint may go on under the present configuration and images, and what there is to tell of it."""

from pathlib import Path

from data import Record
from errors import UserError
from training.settings import Settings, facts, to_dict


def check_same_run(state: dict, config: Settings, data: Record) -> list[str]:
    """Return a line for every setting that changed and may; `state` is a checkpoint, `data` the images there are now.

    Raises UserError saying what changed when the run cannot go on with it.
    """
    now, notices = to_dict(config), []
    for key, default, known in facts(type(config)):
        old, new = _value(state["config"], key, default), _value(now, key, default)  # an old checkpoint knows fewer settings
        if old == new or known.silent:
            continue
        if known.fixed:
            instead = f" ({known.fixed})" if isinstance(known.fixed, str) else ""
            raise UserError(
                f"{key}: this run began with {old!r} and cannot go on with {new!r}; change it back{instead} or choose another --run"
            )
        effect = known.effect if known.under in (None, config.train.schedule) else ""
        notices.append(f"{key}: {old} -> {new} from step {state['step']}{effect}")
    before = Record(**state["data"])
    if before.fingerprint != data.fingerprint:
        raise UserError(f"the images have changed since this run began: {_difference(before, data)}; restore them, or choose another --run")
    return notices


def _value(values: dict, key: str, default: object) -> object:
    *sections, name = key.split(".")
    for section in sections:
        values = values[section]
    return values.get(name, default)


def nothing_to_do(run: Path, state: dict, *, epochs: int, steps_per_epoch: int) -> str:
    """Say why a checkpoint that has taken the steps of so many `epochs`, or more, does not go on."""
    epoch, before = state["step"] / steps_per_epoch, state["config"]["train"]["epochs"]
    if epoch == epochs >= before:
        return f"{run} is finished, at step {state['step']}; more than train.epochs={epochs} would go on"
    return f"{run} stays as it is, at epoch {epoch:.5g} of {before}: train.epochs={epochs} asks for no more; a larger number goes on"


def _difference(before: Record, now: Record) -> str:
    old, new = ({*record.all_names} for record in (before, now))
    changes = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("removed", old - new), ("added", new - old))
        if names
    ]
    other = " and ".join(changes) or "the same names, other pixels"
    if before.reader > 1:
        return other
    return f"{other} (this revision converts colours to sRGB and reads more files than the one that began it)"
