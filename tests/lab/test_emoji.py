"""The emoji sets from a package as the registry gives it. Nothing is downloaded."""

import hashlib
import io
import tarfile
import urllib.request

import pytest

from errors import UserError
from lab import emoji

FILES = {
    "package/package.json": b"{}",
    "package/assets/1f600.webp": b"smiles",
    "package/assets/1f9db-1f3fb-200d-2640-fe0f.webp": b"a vampire",
    "package/assets/1f3f4-e0067_e0062_e0073_e0063_e0074.webp": b"a flag",
    "package/assets/1f468-1f3fc.webp": b"a man, of the faces that do not come with the project",
    "package/assets/1f466-1f3fd.webp": b"a boy, of those that do",
    "package/assets/1f469-200d-1f680.webp": b"an astronaut, whose head is one of the faces",
    "package/assets/1f42b.webp": b"a camel",
    "package/assets/1f426-200d-2b1b.webp": b"a black bird",
    "package/assets/1f63a.webp": b"in neither set",
    "package/assets/../../1f600.webp": b"elsewhere",
    "package/assets/readme.md": b"no picture",
}


@pytest.fixture
def package():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_heads_and_animals_are_not_in_the_source(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(package))
    monkeypatch.setattr(emoji, "SHA256", hashlib.sha256(package).hexdigest())
    emoji.main([str(tmp_path / "sets")])
    found = {path.relative_to(tmp_path / "sets").as_posix(): path.read_bytes() for path in (tmp_path / "sets").rglob("*.webp")}
    names = {name.rpartition("/")[2]: content for name, content in FILES.items()}
    assert found == {
        f"{folder}/{name}": names[name]
        for folder, own in (
            ("emoji", ("1f600.webp", "1f9db-1f3fb-200d-2640-fe0f.webp", "1f3f4-e0067_e0062_e0073_e0063_e0074.webp")),
            ("fluent_faces", ("1f466-1f3fd.webp",)),
            ("fluent_animals", ("1f42b.webp", "1f426-200d-2b1b.webp")),
        )
        for name in own
    } | {"emoji/1f600.webp": b"smiles"}
    assert "emoji: 3 pictures" in capsys.readouterr().out


@pytest.mark.parametrize("failure", [lambda *_, **__: io.BytesIO(b"another"), OSError("no route")])
def test_a_download_that_fails_or_is_another_writes_nothing(failure, tmp_path, monkeypatch):
    def opened(url, timeout):
        if isinstance(failure, OSError):
            raise failure
        return failure()

    monkeypatch.setattr(urllib.request, "urlopen", opened)
    with pytest.raises(UserError, match=r"fluent-emoji-3d-1.1.0.tgz: (is not the published package|could not be downloaded \(no route\))"):
        emoji.main([str(tmp_path / "sets")])
    assert not (tmp_path / "sets").exists()
