"""Images on disk to uint8 tensors in memory, their names and fingerprint, and the training split."""

from data.folder import READER, ImageSet, colour_of, load_images, load_picture
from data.generated import is_generated, read_generated
from data.record import Record
from data.references import References, load_references
from data.split import mirrored, split_holdout

__all__ = [
    "READER",
    "ImageSet",
    "Record",
    "References",
    "colour_of",
    "is_generated",
    "load_images",
    "load_picture",
    "load_references",
    "mirrored",
    "read_generated",
    "split_holdout",
]
