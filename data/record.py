"""What a run records of its images: the training images and the held-out ones."""

from typing import NamedTuple

from data.folder import ImageSet


class Record(NamedTuple):
    """The images of a run; its checkpoints contain this record as a dict."""

    fingerprint: str  # of the ImageSet
    names: list[str]  # of the training images
    heldout: list[str]  # names of the held-out images
    reader: int = 1  # see data.folder.READER; old runs without an entry used 1

    @classmethod
    def of(cls, images: ImageSet, train: list[int], heldout: list[int]) -> "Record":
        """Return the record of a set that is split into the images numbered `train` and `heldout`."""
        return cls(images.fingerprint, [images.names[i] for i in train], [images.names[i] for i in heldout], images.reader)

    @property
    def all_names(self) -> list[str]:
        """Return the names of the training images, then of the held-out images."""
        return [*self.names, *self.heldout]
