"""Images on disk -> uint8 tensors in memory, their names and fingerprint, and which of them a run trains on."""

from data.folder import ImageSet, load_images
from data.references import References, load_references
from data.split import mirrored, split_holdout

__all__ = ["ImageSet", "References", "load_images", "load_references", "mirrored", "split_holdout"]
