"""The real images for scoring: the training images of a run, or others, and the held-out images."""

import os
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from data.folder import READER, ImageSet, load_images, load_originals
from data.record import Record
from errors import UserError


class References(NamedTuple):
    """Real images at the generator's resolution and, if requested, at their original size."""

    real: Tensor  # uint8 (n, C, H, W)
    heldout: Tensor  # uint8 (h, C, H, W); h may be 0
    real_originals: list[Tensor] | None
    heldout_originals: list[Tensor] | None
    heldout_names: list[str]
    fingerprint: str
    report: list[str]
    warnings: list[str]


def load_references(
    path: str | os.PathLike,
    transform: dict,
    *,
    trained: Record | None = None,
    may_differ: bool = False,
    heldout: Path | None = None,
    originals: bool = False,
) -> References:
    """Read the real images of a folder or .zip; `transform` holds keywords of `load_images`.

    `trained` is the record of a run: if the images are the same, in any spelling of their names, they are split as in the run.
    `heldout` is another folder, for the held-out images. Raises UserError if the images are not those of the run (with
    `may_differ` a warning), and if an image of `heldout` is a training image.
    """
    reader = trained.reader if trained else READER
    whole = load_images(path, **transform, reader=reader)
    if trained:
        whole = whole.respelled(trained.all_names)
    names, held_names, warnings = whole.names, [], []
    if trained and whole.fingerprint == trained.fingerprint:
        names, held_names = trained.names, trained.heldout
    elif trained and may_differ:
        warnings.append("the real images are those of --data, not the training images of the run")
    elif trained:
        before, now = {*trained.all_names}, set(whole.names)
        raise UserError(
            f"data.path: {path} is not what the run was trained on: {len(before - now)} images are gone and "
            f"{len(now - before)} new {sorted(before ^ now)[:3]}, or pixels have changed"
            + (" (this revision converts colours to sRGB)" if reader == 1 else "")
            + "; restore them, or use --data"
        )
    held_path, held = path, whole
    if heldout:
        held_path, held = heldout, load_images(heldout, **transform, reader=reader)
        held_names = held.names
        _refuse_trained(heldout, held, path, whole.images[_numbers(whole, names)], names)
    chosen, held_chosen = _numbers(whole, names), _numbers(held, held_names)
    background = transform["background"]
    return References(
        whole.images[chosen],
        held.images[held_chosen],
        load_originals(path, [whole.files[i] for i in chosen], background=background) if originals else None,
        load_originals(held_path, [held.files[i] for i in held_chosen], background=background) if originals else None,
        held_names,
        whole.fingerprint,
        whole.report,
        warnings,
    )


def _refuse_trained(heldout: Path, held: ImageSet, path: str | os.PathLike, real: Tensor, names: list[str]) -> None:
    """Raise UserError if held-out images equal training images, plain or mirrored: they would count as new images."""
    known = {image.tobytes(): name for images in (real.flip(3), real) for image, name in zip(images.numpy(), names)}
    same = [f"{name} is {known[image.tobytes()]}" for name, image in zip(held.names, held.images.numpy()) if image.tobytes() in known]
    if same:
        shown = "; ".join(same[:3]) + ("; ..." if len(same) > 3 else "")
        raise UserError(
            f"--heldout {heldout}: {len(same)} of its {len(held.names)} images are images of {path} ({shown}); "
            "training must not have seen held-out images, so remove these"
        )


def _numbers(whole: ImageSet, names: list[str]) -> list[int]:
    at = {name: index for index, name in enumerate(whole.names)}
    return [at[name] for name in names]
