"""The rules of resuming: whether a run may continue under the present configuration and images, and what is reported."""

from pathlib import Path

from data import Record
from errors import UserError
from training.settings import Settings, Train, facts, to_dict


def check_same_run(state: dict, config: Settings, data: Record) -> list[str]:
    """Return a line for every setting that changed and may change.

    `state` is the run's checkpoint, `data` the record of the present images. Raises UserError that names a change with
    which the run cannot continue.
    """
    now, notices = to_dict(config), []
    for key, default, known in facts(type(config)):
        old, new = _value(state["config"], key, default), _value(now, key, default)  # an old checkpoint has fewer settings
        if old == new or known.silent:
            continue
        if known.fixed:
            instead = f" ({known.fixed})" if isinstance(known.fixed, str) else ""
            raise UserError(
                f"{key}: this run began with {old!r} and cannot continue with {new!r}; change it back{instead} or choose another --run"
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


def nothing_to_do(run: Path, state: dict, asked: Train, steps_per_epoch: int) -> str:
    """Return the line that says why a run does not continue: its checkpoint has trained as long as is `asked`, or longer."""
    epoch, before = state["step"] / steps_per_epoch, state["config"]["train"]["epochs"]
    if epoch == asked.epochs >= before:
        more = f"train.minutes above {asked.minutes:g}" if asked.minutes else f"train.epochs above {asked.epochs}"
        return f"{run} is finished, at step {state['step']}; a {more} continues it"
    return f"{run} is at epoch {epoch:.5g} of {before}, and train.epochs={asked.epochs} asks for no more; a larger number continues it"


def _difference(before: Record, now: Record) -> str:
    old, new = ({*record.all_names} for record in (before, now))
    changes = [
        f"{len(names)} {what} ({', '.join(sorted(names)[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in (("removed", old - new), ("added", new - old))
        if names
    ]
    other = " and ".join(changes) or "the names are the same, the pixels differ"
    if before.reader > 1:
        return other
    return f"{other} (this revision converts colours to sRGB and reads more files than the one that began the run)"
