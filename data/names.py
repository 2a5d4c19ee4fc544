"""Names of files: which names are left out of every set, and which spellings mean the same file."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

# Files that file managers, operating systems and network drives create: thumbnails, deleted files, snapshots.
_SYSTEM = frozenset(
    (
        "@eadir",
        "@tmp",
        "#recycle",
        "#snapshot",
        "@recycle",
        "@recently-snapshot",
        "@sharesnapshot",
        "~snapshot",
        "network recycle bin",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "msdownld.tmp",
        "thumbs.db",
        "ehthumbs.db",
        "ehthumbs_vista.db",
        "desktop.ini",
        "__macosx",
        "network trash folder",
        "temporary items",
        "thevolumesettingsfolder",
        "icon\r",
        "desktop db",
        "desktop df",
        "resource.frk",
        "finder.dat",
        "ipod photo cache",
        "lost+found",
        "lost.dir",
        "zbthumbnail.info",
    )
)
_SYSTEM_BEGINNINGS = ("~$", "@gmt-")
_SYSTEM_PATTERN = re.compile(r"found\.\d{3}|.+@syno(eastream|resource)")
# Names of samples, and of the sheets and films that sample.py writes beside them.
_SAMPLE, _SHEET, _FILM, _FRAME = (
    re.compile(name)
    for name in (r"(seed\d+|projected-.+)\.png", r"(grid|nearest|mix|projected)\.png", r"(film|training)\.(gif|webp)", r"frame\d+\.png")
)


def hidden(part: str) -> bool:
    """Return whether a file or folder is hidden by a dot at the start of its name."""
    return part.startswith(".") and part != ".."


def made_by_system(part: str) -> bool:
    """Return whether a file or folder has the name of a system file; case does not matter."""
    name = part.casefold()
    return name in _SYSTEM or name.startswith(_SYSTEM_BEGINNINGS) or bool(_SYSTEM_PATTERN.fullmatch(name))


def sheets(names: Iterable[str]) -> list[str]:
    """Return the names of sheets and films that sample.py wrote beside samples, and of films beside their frames."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folders.setdefault(name[: name.rfind("/") + 1], []).append(name)
    found = []
    for folder, inside in folders.items():
        samples, sheet, film, frames = (
            [name for name in inside if pattern.fullmatch(name, len(folder))] for pattern in (_SAMPLE, _SHEET, _FILM, _FRAME)
        )
        found += sheet * bool(samples) + film * bool(samples or frames) + frames * bool(samples and film)
    return sorted(found)


def printable(name: str) -> str:
    """Escape line breaks, control characters and bytes that are not UTF-8, which would break reports and hashes."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)


def utf8(name: str) -> str:
    """Decode as UTF-8 a name that zipfile decoded as code page 437 because the archive does not mark it as UTF-8."""
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


def spelled(raw: list[str]) -> list[str]:
    """Return names as sets store them: printable and composed (NFC), so a file has the same name on Linux and on a Mac.

    Names that would become equal keep their spelling.
    """
    composed = Counter(_composed(name) for name in set(raw))
    written = Counter(printable(name) for name in set(raw))

    def choose(name: str) -> str:
        if composed[_composed(name)] == 1:
            return _composed(name)
        # One name may contain a line break, and another the backslash and n of its escape.
        return printable(name if written[printable(name)] == 1 else name.replace("\\", r"\\"))

    return [choose(name) for name in raw]


def top_folder(names: Iterable[str]) -> str:
    """Return the top folder, such as `cats/`, that contains all names, or an empty string."""
    tops = {top if slash else "" for top, slash, _ in (name.partition("/") for name in names)}
    return f"{tops.pop()}/" if len(tops) == 1 and tops != {""} else ""


def key(name: str) -> str:
    """Return the same key for all spellings of a name."""
    return _composed(utf8(name))


def matched(names: list[str], own: list[str], duplicates: dict[str, str]) -> list[int] | None:
    """Return the index in `own` of each of `names`, or None if both lists differ in more than spelling.

    Spelling means the normal form and folders that contain a whole list. `duplicates` maps other names to names in `own`.
    """
    top, other_top = _common_folders(own), _common_folders(names)
    known = {key(name).removeprefix(top): index for index, name in enumerate(own)}
    if len(known) < len(own):
        return None
    for name, twin in duplicates.items():
        known.setdefault(key(name).removeprefix(top), own.index(twin))
    found = [known.get(key(name).removeprefix(other_top)) for name in names]
    return found if len(found) == len(own) and {*found} == {*range(len(own))} else None


def _composed(name: str) -> str:
    return printable(unicodedata.normalize("NFC", name))


def _common_folders(names: list[str]) -> str:
    """Return the folders, such as `sets/cats/`, that contain the keys of all names."""
    bare, common = [key(name) for name in names], ""
    while top := top_folder(bare):
        bare, common = [name.removeprefix(top) for name in bare], common + top
    return common
