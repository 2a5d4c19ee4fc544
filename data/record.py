"""Owns what a run knows of its images: which ones it trains on and which it holds out."""

from typing import NamedTuple

from data.folder import ImageSet


class Record(NamedTuple):
    """The images of a run; its checkpoints hold this as a dict."""

    fingerprint: str  # of the ImageSet
    names: list[str]  # of the images that the run trains on
    heldout: list[str]  # names of those held out
    reader: int = 1  # see data.folder.READER; the runs that do not say began with 1

    @classmethod
    def of(cls, images: ImageSet, train: list[int], heldout: list[int]) -> "Record":
        """Return the record of a set that is split into the images numbered `train` and `heldout`."""
        return cls(images.fingerprint, [images.names[i] for i in train], [images.names[i] for i in heldout], images.reader)

    @property
    def all_names(self) -> list[str]:
        """Return the names of the images that it trains on, then of those held out."""
        return [*self.names, *self.heldout]
