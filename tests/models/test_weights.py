"""models/weights.py: the order of places, every way a file can be wrong, and downloads from a server on this machine."""

import hashlib
import http.server
import os
import threading
import time

import pytest

from errors import MissingWeights, UserError
from models import weights
from models.weights import WEIGHTS, Weights, require

CONTENT = bytes(range(256)) * 20_000  # 5 MB: several chunks


def entry(name, content=CONTENT, url="http://127.0.0.1:9/nobody-listens"):
    return Weights(f"{name}.pth", url, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def places(tmp_path, monkeypatch):
    """An empty given folder and an empty torch hub cache, with two small files in the place of the real ones."""
    given, cache = tmp_path / "given", tmp_path / "torch" / "hub" / "checkpoints"
    given.mkdir()
    cache.mkdir(parents=True)
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(given))
    monkeypatch.setattr("torch.hub._hub_dir", str(cache.parent))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "WEIGHTS", WEIGHTS | {"inception": entry("inception"), "vgg16": entry("vgg16")})
    return given, cache


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve /whole, and the ways in which a download goes wrong."""

    def do_GET(self):
        if self.path == "/absent":
            return self.send_error(404)
        if self.path == "/silent":
            time.sleep(1.5)
        body = {"/wrong": CONTENT[::-1], "/long": CONTENT * 2, "/truncated": CONTENT[:-1000]}.get(self.path, CONTENT)
        self.send_response(200)
        if self.path != "/long":  # its length is not announced, so only counting can tell
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass  # the other side has heard enough

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_wheel_weights_are_found_and_are_the_published_ones():
    found = require("effnet-lite0", "lpips-vgg")
    assert {key: path.stat().st_size for key, path in found.items()} == {"effnet-lite0": 18_826_032, "lpips-vgg": 7_289}


def test_a_given_folder_comes_before_the_cache(places):
    given, cache = places
    (cache / "inception.pth").write_bytes(CONTENT)
    assert require("inception") == {"inception": cache / "inception.pth"}
    (given / "inception.pth").write_bytes(CONTENT)
    assert require("inception") == {"inception": given / "inception.pth"}


def test_everything_missing_is_told_at_once_and_quickly(places):
    start = time.monotonic()
    with pytest.raises(MissingWeights) as caught:
        require("inception", "vgg16", "effnet-lite0")
    assert time.monotonic() - start < 5
    assert caught.value.exit_code == 3
    message = str(caught.value)
    for key in ("inception", "vgg16"):
        wanted = weights.WEIGHTS[key]
        for part in (wanted.file, wanted.url, f"{wanted.bytes:,} bytes", wanted.sha256):
            assert part in message
    assert str(places[1]) in message and weights.FOLDER_VARIABLE in message
    assert "effnet-lite0" not in message
    assert list(places[1].iterdir()) == []


def test_a_wheel_that_is_not_installed_is_told_with_how_to_get_it(places, monkeypatch):
    absent = WEIGHTS["lpips-vgg"]._replace(package="no_such_package_anywhere")
    monkeypatch.setattr(weights, "WEIGHTS", {"lpips-vgg": absent})
    with pytest.raises(MissingWeights, match="is not installed(.|\n)*pip install -r requirements.txt"):
        require("lpips-vgg")


@pytest.mark.parametrize("content", [CONTENT[:1000], CONTENT[::-1], b""], ids=["half", "same size", "empty"])
@pytest.mark.parametrize("place", [0, 1], ids=["given", "cache"])
def test_a_damaged_file_is_refused_and_kept(places, content, place, server, monkeypatch):
    """It also keeps the other file from being downloaded: the command ends anyway."""
    monkeypatch.setitem(weights.WEIGHTS, "vgg16", entry("vgg16", url=f"{server}/whole"))
    path = places[place] / "inception.pth"
    path.write_bytes(content)
    with pytest.raises(MissingWeights) as caught:
        require("inception", "vgg16")
    assert str(path) in str(caught.value) and "move or delete that file" in str(caught.value)
    assert "vgg16.pth is not on this machine" in str(caught.value)
    assert path.read_bytes() == content
    assert not (places[1] / "vgg16.pth").exists()


def test_a_given_folder_that_is_none_is_an_error(places, monkeypatch):
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(places[0] / "typo"))
    with pytest.raises(UserError, match="typo is not a folder"):
        require("inception")


def test_download_ends_in_the_cache_whole(places, server, monkeypatch, capsys):
    monkeypatch.setitem(weights.WEIGHTS, "inception", entry("inception", url=f"{server}/whole"))
    path = require("inception")["inception"]
    assert path == places[1] / "inception.pth" and path.read_bytes() == CONTENT
    assert [file.name for file in places[1].iterdir()] == ["inception.pth"]
    ordinary = places[1] / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode
    shown = capsys.readouterr()
    assert shown.out == "" and "inception.pth" in shown.err
    monkeypatch.setitem(weights.WEIGHTS, "inception", entry("inception"))  # the server is not asked again
    assert require("inception")["inception"] == path


@pytest.mark.parametrize(
    "fate, told",
    [
        ("wrong", "is not the published file"),
        ("long", "is not the published file"),
        ("truncated", "is not the published file|IncompleteRead"),
        ("absent", "404"),
        ("silent", "timed out"),
    ],
)
def test_a_failed_download_leaves_nothing(places, server, monkeypatch, fate, told):
    monkeypatch.setattr(weights, "TIMEOUT", 0.3)
    monkeypatch.setitem(weights.WEIGHTS, "inception", entry("inception", url=f"{server}/{fate}"))
    monkeypatch.setitem(weights.WEIGHTS, "vgg16", entry("vgg16", url=f"{server}/whole"))
    with pytest.raises(MissingWeights, match=told) as caught:
        require("inception", "vgg16")
    assert "vgg16" not in str(caught.value)
    assert [file.name for file in places[1].iterdir()] == ["vgg16.pth"]  # what did arrive need not be fetched again


def test_a_cache_that_cannot_be_written_is_told(places, server, monkeypatch):
    monkeypatch.setitem(weights.WEIGHTS, "inception", entry("inception", url=f"{server}/whole"))
    os.rmdir(places[1])
    places[1].write_text("a file where the folder should be")
    with pytest.raises(MissingWeights, match="could not be downloaded"):
        require("inception")
