"""Whether held-out images are new: a held-out image that is a changed training image would make copies look new."""

import torch
from torch import Tensor

from metrics.alterations import blur, jpeg, noise
from metrics.copying import MOST_THUMBNAILS, compared_thumbnails, thumbnail_distances
from metrics.features import Thumbnail

SHOWN = 3  # names in a warning


def warnings_of(real: Tensor, heldout: Tensor, names: list[str]) -> list[str]:
    """Return one warning that names the held-out images that may be training images, or none."""
    near = [names[index] for index in near_copies(real, heldout)]
    if not near:
        return []
    shown = ", ".join(near[:SHOWN]) + (", ..." if len(near) > SHOWN else "")
    return [
        f"{len(near)} of {len(names)} held-out images differ from a training image by no more than JPEG, noise or blur "
        f"({shown}): if they are the same pictures, remove them, because they are not new images"
    ]


def near_copies(real: Tensor, heldout: Tensor) -> list[int]:
    """Return the numbers of held-out images, uint8 (h, 3, H, W), as near to a training image (n, 3, H, W) as its changed copy.

    Distances are between thumbnails; the copies are changed by JPEG, noise and blur. Above 1000 training images return none.
    """
    if not len(heldout) or len(real) > MOST_THUMBNAILS:
        return []
    thumbnail = Thumbnail()
    small = thumbnail(real)
    changes = torch.stack([compared_thumbnails(thumbnail(change(real))) - compared_thumbnails(small) for change in (jpeg, noise, blur)])
    reach = changes.square().mean(dim=2).sqrt().amax(dim=0)  # (n,)
    return (thumbnail_distances(thumbnail(heldout), small) <= reach).any(dim=1).nonzero()[:, 0].tolist()
