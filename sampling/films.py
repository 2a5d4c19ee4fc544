"""Films: pictures in a row as GIF, WebP or MP4."""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, features

from atomic import written
from errors import UserError

KINDS = ("gif", "webp", "mp4")
RATE = 20  # ticks a second


def writable(kind: str) -> None:
    """Raise UserError if films of a kind of `KINDS` cannot be written on this machine."""
    if kind == "mp4" and not shutil.which("ffmpeg"):
        raise UserError("--format mp4: needs the program ffmpeg, which is not installed here; install it, or use --format gif")
    if kind == "webp" and not features.check("webp"):
        raise UserError("--format webp: this machine's Pillow was built without WebP; use --format gif")


def write_film(pictures: Sequence[Image.Image], ticks: Sequence[int], path: Path) -> None:
    """Write pictures of one size, each for its number of ticks, as a film of the kind that the suffix of `path` names; loop it.

    Raises UserError if ffmpeg fails.
    """
    kind = path.suffix.removeprefix(".")
    with written(path) as part:
        if kind == "mp4":
            _write_mp4(pictures, ticks, part)
            return
        first, *others = pictures
        quality = {"quality": 90} if kind == "webp" else {}
        durations = [1000 // RATE * each for each in ticks]  # milliseconds
        first.save(part, format=kind, save_all=True, append_images=others, duration=durations, loop=0, **quality)


def _write_mp4(pictures: Sequence[Image.Image], ticks: Sequence[int], path: Path) -> None:
    """Write with ffmpeg: H.264 in the colours that every player shows, which need an even width and height."""
    width, height = pictures[0].size
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(RATE), "-i", "-"]
    made = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2:color=white", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4"]
    words = [str(shutil.which("ffmpeg")), "-loglevel", "error", "-y", *given, *made, f"file:{path}"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        assert process.stdin
        try:
            for picture, count in zip(pictures, ticks):
                for _ in range(count):
                    process.stdin.write(picture.tobytes())
            process.stdin.close()
        except BrokenPipeError:
            pass  # it ended early, and says why
        if process.wait() != 0:
            said.seek(0)
            reason = " ".join(said.read().decode(errors="replace").split()) or f"exit code {process.returncode}"
            raise UserError(f"--format mp4: ffmpeg failed ({reason[:200]}); use --format gif")
