"""Images on disk -> uint8 tensors in memory, their names and fingerprint, and which of them a run trains on."""

from data.folder import ImageSet, load_images
from data.split import mirrored, split_holdout

__all__ = ["ImageSet", "load_images", "mirrored", "split_holdout"]
