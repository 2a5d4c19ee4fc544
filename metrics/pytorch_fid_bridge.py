"""The published FID program's own network and distance: the only module that imports pytorch_fid (Seitzer 2020)."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class LibraryFailed(Exception):
    """pytorch-fid's matrix root failed; the message says why."""


def inception(weights: Path) -> nn.Module:
    """Return pytorch-fid's InceptionV3 with the weights of a verified file; it takes floats (B, 3, H, W) in [0, 1]."""
    from pytorch_fid import inception as library

    # The constructor takes no weights file: it downloads one, unverified and without a timeout. We replace its download
    # function by one that loads our file; the network and the resize stay the library's.
    download = library.load_state_dict_from_url
    library.load_state_dict_from_url = lambda *_, **__: torch.load(weights, map_location="cpu", weights_only=True)
    try:
        return library.InceptionV3()
    finally:
        library.load_state_dict_from_url = download


def library_distance(real: Tensor, fake: Tensor) -> float:
    """Return pytorch-fid's Frechet distance of features (N, D), (M, D), bit for bit as it does for folders.

    Raises LibraryFailed if its matrix root is not finite or not real; the library would then change the covariance, or stop.
    """
    from pytorch_fid.fid_score import calculate_frechet_distance

    statistics = []
    for features in (real, fake):
        activations = features.numpy().astype(np.float64)
        statistics += [np.mean(activations, axis=0), np.cov(activations, rowvar=False)]
    printed = io.StringIO()  # the library reports a changed covariance on stdout; our table goes there
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sqrtm's `disp` is deprecated; requirements.txt pins scipy
            value = float(calculate_frechet_distance(*statistics))
    except ValueError as error:
        raise LibraryFailed(f"pytorch-fid stopped: {error}") from error
    if printed.getvalue() or not np.isfinite(value):
        raise LibraryFailed("pytorch-fid's matrix root is not finite for these images")
    return value
