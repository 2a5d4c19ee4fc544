"""Owns what files are called: which names are left out of every set, and which spellings mean the same file."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

# What file managers, operating systems and network drives make for themselves: thumbnails, deleted files, older states.
_SYSTEM = frozenset((
    "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@sharesnapshot", "~snapshot", "network recycle bin",
    "$recycle.bin", "recycler", "system volume information", "msdownld.tmp", "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini",
    "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder", "icon\r", "desktop db", "desktop df",
    "resource.frk", "finder.dat", "ipod photo cache", "lost+found", "lost.dir", "zbthumbnail.info"))  # fmt: skip
_SYSTEM_BEGINNINGS = ("~$", "@gmt-")
_SYSTEM_PATTERN = re.compile(r"found\.\d{3}|.+@syno(eastream|resource)")


def hidden(part: str) -> bool:
    """Tell whether a file or folder name begins with the dot that hides it."""
    return part.startswith(".") and part != ".."


def made_by_system(part: str) -> bool:
    """Tell whether a file or folder has a name that systems give to what they make, in any case of its letters."""
    name = part.casefold()
    return name in _SYSTEM or name.startswith(_SYSTEM_BEGINNINGS) or bool(_SYSTEM_PATTERN.fullmatch(name))


def printable(name: str) -> str:
    """Write out line breaks, control characters and bytes that are not UTF-8, which would break reports and hashes."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)


def utf8(name: str) -> str:
    """Read a name as UTF-8 that an archive does not mark as such, so that it was taken for code page 437."""
    try:
        return name.encode("cp437").decode()
    except UnicodeError:
        return name


def spelled(raw: list[str]) -> list[str]:
    """Return names as sets hold them: printable and composed (NFC), so that Linux and a Mac call a file the same.

    Files whose names would become equal keep the spelling that they have.
    """
    composed = Counter(_composed(name) for name in set(raw))
    written = Counter(printable(name) for name in set(raw))

    def choose(name: str) -> str:
        if composed[_composed(name)] == 1:
            return _composed(name)
        # A name may hold a line break, and another one the backslash and the n that it is written with.
        return printable(name if written[printable(name)] == 1 else name.replace("\\", r"\\"))

    return [choose(name) for name in raw]


def top_folder(names: Iterable[str]) -> str:
    """Return the folder, such as `cats/`, that all the names lie in, or nothing."""
    tops = {top if slash else "" for top, slash, _ in (name.partition("/") for name in names)}
    return f"{tops.pop()}/" if len(tops) == 1 and tops != {""} else ""


def key(name: str) -> str:
    """Return what spellings of one name have in common."""
    return _composed(utf8(name))


def matched(names: list[str], numbers: dict[str, int]) -> list[int] | None:
    """Return the number of each of `names`, if these and the names that have numbers differ in nothing but spelling.

    Spelling is the normal form, and folders that all lie in. Files with the same pixels have the same number; every
    number must be found once, otherwise None is returned.
    """
    known = dict(zip(_bare(numbers), numbers.values()))
    found = [known.get(name) for name in _bare(names)]
    return found if len(known) == len(numbers) and {*found} == {*numbers.values()} and len(found) == len({*found}) else None


def _composed(name: str) -> str:
    return printable(unicodedata.normalize("NFC", name))


def _bare(names: Iterable[str]) -> list[str]:
    """Return the keys of names without the folders that all of them lie in."""
    bare = [key(name) for name in names]
    while top := top_folder(bare):
        bare = [name.removeprefix(top) for name in bare]
    return bare
