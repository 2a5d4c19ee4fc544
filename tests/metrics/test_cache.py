"""What is kept on disk, and the sweep over images that fills it."""

import os
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from metrics.cache import ROOT, Cache, _code, source_hash
from metrics.images import MICRO_BATCH, Images, Request, sweep
from metrics.progress import Progress

KEY = {"pass": "toy", "numbers": [1, 2]}


def tensors():
    generator = torch.Generator().manual_seed(0)
    floats = torch.randn(3, 5, generator=generator)
    return {
        "float32": torch.cat([floats, torch.tensor([[torch.nan, torch.inf, -torch.inf, -0.0, 1e-45]])]),
        "float64": floats.double() / 3,
        "int64": torch.tensor([-(2**62), 7]),
        "uint8": torch.arange(256).to(torch.uint8).view(4, 4, 16),
        "bool": torch.tensor([True, False]),
        "number": torch.tensor(0.1),
        "empty": torch.zeros(0, 3),
        "turned": floats.T,
    }


def same(a, b):
    """Say whether two dicts of tensors are equal in every bit."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].numpy().tobytes() == b[name].numpy().tobytes()
        for name in a
    )


def stored(folder):
    """Store something and return its file."""
    Cache(folder).store(KEY, tensors())
    (path,) = folder.iterdir()
    return path


# files


def test_what_was_stored_is_loaded_bit_for_bit(tmp_path):
    folder = tmp_path / "a" / "new folder"
    Cache(folder).store(KEY, tensors())
    assert same(Cache(folder).load(KEY), tensors())
    assert same(Cache(folder).load(dict(reversed(KEY.items()))), tensors())


@pytest.mark.parametrize("key", [{}, {"pass": "toy"}, KEY | {"numbers": [2, 1]}, KEY | {"more": None}], ids=str)
def test_another_key_has_nothing(tmp_path, key):
    stored(tmp_path)
    assert Cache(tmp_path).load(key) is None
    Cache(tmp_path).store(key, {"other": torch.zeros(1)})
    assert same(Cache(tmp_path).load(KEY), tensors())


def test_a_folder_that_is_not_there_has_nothing(tmp_path):
    cache = Cache(tmp_path / "nowhere")
    assert cache.load(KEY) is None
    cache.prune()
    assert not (tmp_path / "nowhere").exists()


def flipped(good):
    """Turn one bit of a tensor's data over."""
    place = good.index(tensors()["float64"].numpy().tobytes())
    return good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]


DAMAGES = {
    "empty": lambda good: b"",
    "one byte": lambda good: good[:1],
    "a third": lambda good: good[: len(good) // 3],
    "its last byte": lambda good: good[:-1],
    "text": lambda good: b"not an archive\n" * 99,
    "zeros": lambda good: bytes(len(good)),
    "noise": lambda good: np.random.default_rng(0).bytes(len(good)),
    "a pickle": lambda good: b"\x80\x04K\x01.",
    "headless": lambda good: good[100:],
    "a bit": flipped,
    "an empty archive": lambda good: b"PK\x05\x06" + bytes(18),
    "an array of its own": lambda good: (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }".ljust(128, b" ") + bytes(4)
    ),
    "an unknown compression": lambda good: good.replace(b"PK\x01\x02", b"PK\x01\x02" + b"\x2d\x03\x2d\x00\x00\x00\x63\x00", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_counts_as_none_and_is_replaced(tmp_path, damage):
    path = stored(tmp_path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    cache = Cache(tmp_path)
    assert cache.load(KEY) is None
    cache.store(KEY, tensors())
    assert same(Cache(tmp_path).load(KEY), tensors())


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    path, trap = stored(tmp_path), tmp_path / "sprung"
    objects = np.array([Trap(trap)], dtype=object)
    np.savez(path, objects=objects, __names__=np.array(["objects"]))
    assert Cache(tmp_path).load(KEY) is None and not trap.exists()
    np.load(path, allow_pickle=True)["objects"]
    assert trap.exists()  # had it been read with pickles


def test_prune_deletes_what_was_not_used_and_nothing_else(tmp_path):
    old = Cache(tmp_path)
    for name in ("loaded", "unused", "replaced"):
        old.store({"name": name}, tensors())
    (tmp_path / "notes.txt").write_text("x")
    old.prune()
    cache = Cache(tmp_path)
    assert cache.load({"name": "loaded"}) and not cache.load({"name": "nothing"})
    for name in ("stored", "replaced"):
        cache.store({"name": name}, {"new": torch.zeros(1)})
    cache.prune()
    assert len(list(tmp_path.glob("*.npz"))) == 3 and (tmp_path / "notes.txt").exists()
    left = {name: Cache(tmp_path).load({"name": name}) for name in ("loaded", "unused", "replaced", "stored")}
    assert left["unused"] is None and same(left["loaded"], tensors())
    assert same(left["replaced"], left["stored"])


def test_prune_leaves_what_cannot_be_deleted(tmp_path, monkeypatch):
    def refused(path, missing_ok):
        raise PermissionError(13, "Permission denied")

    path = stored(tmp_path)
    monkeypatch.setattr(type(path), "unlink", refused)
    Cache(tmp_path).prune()
    assert path.exists()


def test_prune_deletes_damaged_files(tmp_path):
    stored(tmp_path).write_bytes(b"x")
    cache = Cache(tmp_path)
    assert cache.load(KEY) is None
    cache.prune()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk full", "interrupted"])
@pytest.mark.parametrize("replacing", [False, True])
def test_an_interrupted_store_leaves_no_half_file(tmp_path, monkeypatch, failure, replacing):
    if replacing:
        stored(tmp_path)

    def half(file, **arrays):
        file.write(b"PK half")
        raise failure

    monkeypatch.setattr(np, "savez", half)
    cache, before = Cache(tmp_path), list(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt) if isinstance(failure, KeyboardInterrupt) else nullcontext():
        for _ in range(3):
            cache.store(KEY, {"new": torch.zeros(1)})
        (warning,) = cache.warnings
        assert warning.startswith(f"{tmp_path} cannot be written (No space left on device)")
    assert list(tmp_path.iterdir()) == before
    if replacing:
        assert same(cache.load(KEY), tensors())
    else:
        assert cache.load(KEY) is None


# the sweep


class Recorder:
    """A pass that keeps the shapes of its batches, and a number per image."""

    def __init__(self):
        self.shapes, self.sums = [], []

    def add(self, images):
        self.shapes.append(list(images.shape))
        self.sums.append(images.double().sum(dim=(1, 2, 3)))

    def result(self):
        return {"shapes": torch.tensor(self.shapes), "sums": torch.cat(self.sums)}


class Toys:
    """Requests for recorders, which tell how many were built."""

    def __init__(self):
        self.built = []

    def __call__(self, *names):
        return {name: Request({"toy": name}, lambda name=name: self.built.append(name) or Recorder()) for name in names}


class Counted:
    """Images that arrive in blocks of given sizes and count how often they are gone through."""

    def __init__(self, pixels, sizes):
        self.times, self.pixels, self.sizes = 0, pixels, sizes
        whole = Images.of_tensor("toy", pixels)
        self.images = Images("toy", whole.count, whole.identity, self.blocks, whole.pick)

    def blocks(self):
        self.times += 1
        return self.pixels.split(self.sizes)


def noise(n, size=(4, 6), seed=0):
    return torch.randint(256, (n, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def swept(tmp_path):
    """Return a function that sweeps on the CPU with a cache of its own, opened anew."""

    def run(images, requests, device="cpu", folder=tmp_path):
        progress = Progress(images.count * len(requests))
        try:
            return sweep(images, requests, device, Cache(folder), progress)
        finally:
            progress.close()
            assert progress._bar.n == progress._bar.total

    return run


def test_images_are_gone_through_only_for_what_is_not_kept(swept):
    counted, toys = Counted(noise(20), 7), Toys()
    first = swept(counted.images, toys("a", "b"))
    assert counted.times == 1 and toys.built == ["a", "b"]
    second = swept(counted.images, toys("c", "b", "d", "a"))
    assert counted.times == 2 and toys.built == ["a", "b", "c", "d"]
    assert list(second) == ["c", "b", "d", "a"]
    third = swept(counted.images, toys("d", "c", "b"))
    assert counted.times == 2 and len(toys.built) == 4 and list(third) == ["d", "c", "b"]
    for results in (first, second, third):
        for result in results.values():
            assert torch.equal(result["sums"], counted.pixels.double().sum(dim=(1, 2, 3)))


@pytest.mark.parametrize("device, batches", [("cpu", [16] * 6 + [4]), ("cuda", [64, 36])])
@pytest.mark.parametrize("sizes", [1, 15, 16, 17, 64, 100, [3, 0, 60, 30, 7], [0, 100, 0]], ids=str)
def test_the_division_into_blocks_changes_nothing(sizes, device, batches, swept):
    assert MICRO_BATCH == {"cpu": 16, "cuda": 64}
    counted = Counted(noise(100), sizes)
    result = swept(counted.images, Toys()("a"), device)["a"]
    assert result["shapes"].tolist() == [[size, 3, 4, 6] for size in batches]
    assert torch.equal(result["sums"], counted.pixels.double().sum(dim=(1, 2, 3)))


def test_images_of_different_sizes_are_batched_by_shape(swept):
    groups = [noise(3, (4, 6)), noise(18, (6, 4), 1), noise(16, (5, 5), 2), noise(2, (4, 6), 3)]
    images = [image for group in groups for image in group]
    result = swept(Images.of_list("toy", images), Toys()("a"))["a"]
    assert result["shapes"].tolist() == [[3, 3, 4, 6], [16, 3, 6, 4], [2, 3, 6, 4], [16, 3, 5, 5], [2, 3, 4, 6]]
    assert result["sums"].tolist() == [image.sum().item() for image in images]


@pytest.mark.parametrize("kept", [[], ["a"], ["a", "b", "c"]], ids=len)
def test_progress_ends_at_its_total(kept, tmp_path):
    images, toys = Images.of_tensor("toy", noise(20)), Toys()
    if kept:
        sweep(images, toys(*kept), "cpu", Cache(tmp_path), Progress(20 * len(kept)))
    progress = Progress(20 * 3 + 5)
    sweep(images, toys("a", "b", "c"), "cpu", Cache(tmp_path), progress)
    assert progress._bar.n == 20 * (3 - len(kept)) and progress._bar.total == progress._bar.n + 5
    progress.stage("the rest", 5)
    progress.advance(5)
    progress.close()
    assert progress._bar.n == progress._bar.total


@pytest.mark.parametrize("what", ["nothing", "device", "torch", "a pixel", "the order", "the shape", "the pass"])
def test_results_are_kept_by_everything_that_they_depend_on(what, swept, monkeypatch):
    pixels, toys, names, device = noise(4), Toys(), ["a"], "cpu"
    swept(Images.of_tensor("toy", pixels.clone()), toys("a"))
    if what == "device":
        device = "cuda"
    elif what == "torch":
        monkeypatch.setattr(torch, "__version__", "0.0")
    elif what == "a pixel":
        pixels[3, 2, 1, 0] ^= 1
    elif what == "the order":
        pixels = pixels.flip(0)
    elif what == "the shape":
        pixels = pixels.view(4, 3, 6, 4)
    elif what == "the pass":
        names = ["b"]
    swept(Images.of_tensor("another name", pixels), toys(*names), device)
    assert len(toys.built) == (1 if what == "nothing" else 2)


def test_lists_of_images_are_known_by_their_pixels_and_shapes():
    images = list(noise(3))
    wider = [*images[:2], images[2].view(3, 6, 4)]
    assert Images.of_list("a", images).identity == Images.of_list("b", [image.clone() for image in images]).identity
    assert Images.of_list("a", images).identity != Images.of_list("a", wider).identity
    assert Images.of_list("a", images).identity != Images.of_list("a", images[::-1]).identity
    assert torch.equal(Images.of_list("a", images).pick([2, 0]), torch.stack([images[2], images[0]]))


def test_only_bytes_are_swept(swept, tmp_path):
    with pytest.raises(AssertionError, match="as files hold them"):
        sweep(Images.of_tensor("toy", noise(2).float()), Toys()("a"), "cpu", Cache(tmp_path), Progress(2))
    assert list(tmp_path.iterdir()) == []


def test_what_another_version_of_the_code_has_kept_is_not_ours(tmp_path, monkeypatch):
    path = stored(tmp_path)
    monkeypatch.setattr("metrics.cache._code", lambda: "another version")
    assert Cache(tmp_path).load(KEY) is None and path.exists()


def test_every_module_that_can_change_a_result_is_part_of_the_code(tmp_path):
    for package in ("baselines", "data", "imle", "lab", "metrics", "models", "sampling", "training"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda folder, names: [
                name for name in names if not name.endswith(".py") and not os.path.isdir(os.path.join(folder, name))
            ],
        )
    before = source_hash(tmp_path)
    assert before == source_hash(ROOT) == _code()
    for path in sorted(tmp_path.rglob("*.py")):
        source = path.read_bytes()
        path.write_bytes(source + b"#")
        assert (source_hash(tmp_path) == before) == path.is_relative_to(tmp_path / "lab"), path
        path.write_bytes(source)
    (tmp_path / "imle" / "search" / "exact.py").rename(tmp_path / "imle" / "search" / "other.py")
    assert source_hash(tmp_path) != before
