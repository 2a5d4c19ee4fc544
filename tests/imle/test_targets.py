"""The cache of the targets' maps: its memory, its layout, and when it is kept."""

import pytest
import torch
from conftest import LiveBytes

import imle.targets as targets_module
from errors import UserError
from imle.targets import BATCH, Targets
from models.perceptual import load_embedding
from models.pixels import to_float


def images(n, side=32):
    return torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def embedding_of(name):
    torch.manual_seed(0)
    return load_embedding(name, pixel_weight=0.3, pretrained=False).to(memory_format=torch.channels_last)


def search_features(batch):
    return batch.flatten(1)[:, :8]


def test_building_the_cache_takes_its_memory_once():
    pixels, embedding = images(20 * BATCH), embedding_of("effnet-lite0")
    with LiveBytes() as batch:
        embedding(to_float(pixels[:BATCH]))
    with LiveBytes() as whole:
        targets = Targets(pixels, embedding, search_features, 4.0)
    assert targets.map_bytes == sum(level.nbytes for level in targets.cached) < whole.peak
    assert whole.peak <= 1.15 * targets.map_bytes + batch.peak


def test_features_take_their_memory_once_too():
    pixels = images(20 * BATCH)
    with LiveBytes() as whole:
        targets = Targets(pixels, embedding_of("pixels"), lambda batch: batch.flatten(1), 0)
    assert whole.peak <= 1.3 * targets.features.nbytes


@pytest.mark.parametrize("n", [1, 2, BATCH, BATCH + 1, 3 * BATCH - 1])
@pytest.mark.parametrize("name", ["pixels", "effnet-lite0"])
@pytest.mark.parametrize("side", [16, 32, (32, 48)])
def test_a_level_is_laid_out_as_its_batches_joined(side, name, n):
    """The layout of a level is that of the maps which are taken from it at every step."""
    pixels, embedding = images(n)[:, :, :16, :16] if side == 16 else images(n), embedding_of(name)
    if side == (32, 48):
        pixels = torch.cat([pixels, pixels[..., :16]], dim=3)
    joined = [torch.cat(level) for level in zip(*[embedding(to_float(batch)) for batch in pixels.split(BATCH)])]
    targets = Targets(pixels, embedding, search_features, 4.0)
    for level, expected, taken in zip(targets.cached, joined, targets.maps(torch.tensor([0, n - 1])), strict=True):
        assert torch.equal(level, expected) and level.dtype == expected.dtype
        assert order(level) == order(expected) and order(taken) == order(expected[[0, n - 1]])
        assert not (level.requires_grad or taken.requires_grad)


def order(tensor):
    """Return the strides of the dimensions that have more than one entry."""
    return [(number, step) for number, (step, size) in enumerate(zip(tensor.stride(), tensor.shape)) if size > 1]


def test_the_default_cache_is_half_of_a_gpu_s_free_memory(monkeypatch):
    pixels, embedding = images(4), embedding_of("pixels")
    size = Targets(pixels, embedding, search_features, "auto").map_bytes
    assert Targets(pixels, embedding, search_features, "auto").most_bytes == 4e9  # on a CPU
    free_bytes, gpu = targets_module._free_bytes, torch.device("cuda", 1)
    monkeypatch.setattr(targets_module, "_free_bytes", lambda device: free_bytes(gpu))
    for free, kept in ((2 * size, True), (2 * size - 2, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12) if device == gpu else 1 / 0)
        targets = Targets(pixels, embedding, search_features, "auto")
        assert (targets.cached is not None) == kept and targets.most_bytes == free / 2


@pytest.mark.parametrize("cache_gb", [4.0, "auto"])
def test_out_of_memory_names_the_setting(cache_gb):
    def full(batch):
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [batch]

    with pytest.raises(UserError) as told:
        Targets(images(4), full, search_features, cache_gb)
    assert str(told.value) == (
        f"out of memory for the targets: set a smaller loss.cache_gb (now {cache_gb}; 0 keeps no maps); what was saved is intact"
    )
