"""Which loaded images a run trains on: the held-out split and the mirror images."""

import difflib
import hashlib

import torch
from torch import Tensor

from data.names import key, top_folder
from errors import UserError


def split_holdout(names: list[str], holdout: float | list[str], seed: int) -> tuple[list[int], list[int]]:
    """Split image indices into (train, heldout), each in ascending order.

    `holdout` is a share in [0, 1) or a list of names. The names may have another normal form, or all one more folder, as in a
    .zip of the folder. A share holds out the names with the smallest hash of (seed, name), at least one unless the share is 0.
    The choice does not depend on the order of `names`, and adding or removing a few images changes it little.

    Raises UserError for a share outside [0, 1), an unknown name, or a split that leaves nothing to train on.
    """
    chosen = set(_named(names, holdout)) if isinstance(holdout, list) else _share(names, holdout, seed)
    heldout = [index for index, name in enumerate(names) if name in chosen]
    train = [index for index, name in enumerate(names) if name not in chosen]
    if not train:
        raise UserError(f"data.holdout: holds out all {len(names)} images and leaves none to train on; hold out fewer")
    return train, heldout


def mirrored(images: Tensor) -> Tensor:
    """Return the images (N, C, H, W), then their left-right mirror images: (2N, C, H, W)."""
    return torch.cat([images, images.flip(-1)])


def _share(names: list[str], share: float, seed: int) -> set[str]:
    """Choose `share` of the names by their hash."""
    if not 0 <= share < 1:
        raise UserError(f"data.holdout: {share} is not a share of the images; give a number from 0 to below 1")
    num_heldout = max(1, round(share * len(names))) if share > 0 else 0
    return set(sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())[:num_heldout])


def _named(names: list[str], holdout: list[str]) -> list[str]:
    """Return the known names for the spellings in `holdout`. Raises UserError for an unknown name."""
    known = {key(name): name for name in names} | {name: name for name in names}
    spellings = [{name: known.get(name, known.get(key(name.removeprefix(top)))) for name in holdout} for top in ("", top_folder(holdout))]
    found = next((spelling for spelling in spellings if None not in spelling.values()), spellings[0])
    for name in holdout:
        if found[name] is None:
            inside = [candidate for candidate in names if candidate.endswith(f"/{name}")]  # the folder is missing in the name
            close = inside or difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "names are paths inside data.path"
            raise UserError(f"data.holdout: no image is named {name!r}; {hint}")
    return list(found.values())
