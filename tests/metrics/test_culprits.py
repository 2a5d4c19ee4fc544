"""Culprits whose guilt is known, before the verdict: training images that came back changed are never cleared, new ones never accused.

On rendered faces, and on pictures with a photograph's shading, texture and grain.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from test_evaluate import ROOT

from data import load_images
from metrics.alterations import SPOILT, changed_copies
from metrics.cache import Cache
from metrics.evaluation import Evaluator
from metrics.images import Images
from metrics.interface import Reals
from metrics.measure import protocol_of
from metrics.verdict import verdict

SIDE, N = 64, 40
GENERATOR = np.random.default_rng(0)


def photographs(count, seed):
    """Draw what a camera might see: lit ellipses before a ground, both with the texture of natural images, and grain."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    down, right = np.mgrid[:SIDE, :SIDE] / SIDE

    def texture():
        field = np.fft.irfft2(np.fft.rfft2(random.normal(size=(SIDE, SIDE))) / np.maximum(frequency, 1 / SIDE), s=(SIDE, SIDE))
        return field / field.std()

    images = []
    for _ in range(count):
        picture = random.uniform(60, 200, 3)[:, None, None] + 25 * texture()
        for _ in range(3):
            y, x, height, width = *random.uniform(0.2, 0.8, 2), *random.uniform(0.1, 0.35, 2)
            inside = ((down - y) / height) ** 2 + ((right - x) / width) ** 2 < 1
            picture[:, inside] = (random.uniform(20, 235, 3)[:, None, None] + 40 * (y - down) / height + 12 * texture())[:, inside]
        images.append((picture + random.normal(0, 3, picture.shape)).clip(0, 255).astype(np.uint8))
    return torch.from_numpy(np.stack(images))


def rendered(folder, count=N):
    images = load_images(ROOT / folder, resolution=(SIDE, SIDE)).images
    return images[torch.arange(count) * len(images) // count]


def pillow(change):
    """Return `change`, of a PIL image, for tensors."""

    def changed(images):
        pictures = [change(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images]
        return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])

    return changed


def through_jpeg(quality):
    def change(image):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return pillow(change)


def noisy(amount):
    return lambda images: (images.short() + torch.from_numpy(GENERATOR.integers(-amount, amount + 1, images.shape))).clamp(0, 255).byte()


def shifted(pixels):
    return lambda images: torch.cat([images[..., :1].expand(-1, -1, -1, pixels), images[..., :-pixels]], dim=3)


zoomed = pillow(lambda image: image.crop((3, 3, SIDE - 3, SIDE - 3)).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
CULPRITS = {
    "as they are": lambda images: images,
    "JPEG 90": through_jpeg(90),
    "JPEG 75": through_jpeg(75),
    "JPEG 40": through_jpeg(40),
    "blur 0.5": pillow(lambda image: image.filter(ImageFilter.GaussianBlur(0.5))),
    "blur 1": pillow(lambda image: image.filter(ImageFilter.GaussianBlur(1))),
    "noise 1": noisy(1),
    "noise 3": noisy(3),
    "noise 8": noisy(8),
    "shift 1": shifted(1),
    "shift 3": shifted(3),
    "zoom": zoomed,
    "brighter": lambda images: (images.short() + 6).clamp(max=255).byte(),
    "mirror": lambda images: images.flip(3),
    "half and back": pillow(lambda image: image.resize((32, 32)).resize((SIDE, SIDE))),
    "mirror and JPEG 40": lambda images: through_jpeg(40)(images.flip(3)),
    "shift and noise": lambda images: noisy(8)(shifted(3)(images)),
    "zoom and JPEG 75": lambda images: through_jpeg(75)(zoomed(images)),
    "darker and noise": lambda images: noisy(3)((images.short() - 6).clamp(min=0).byte()),
}


@pytest.fixture(scope="module", params=["rendered", "photographs"])
def court(request, tmp_path_factory):
    """Return the training images, new ones, and a function that gives the verdict on samples; features are kept between calls."""
    real, fresh = (
        (rendered("data/fluent_faces"), rendered("data/fluent_faces_heldout"))
        if request.param == "rendered"
        else (photographs(N, 1), photographs(N, 2))
    )
    folder = tmp_path_factory.mktemp("features")

    def judge(samples, metric, heldout=None):
        cache = Cache(folder)
        cache.prune = lambda: None
        protocol, metrics = protocol_of("default", "effnet-lite0", metric, raw=False)
        held = None if heldout is None else Images.of_tensor("held-out", heldout)
        reals = Reals(real, real[:0] if heldout is None else heldout, Images.of_tensor("real", real), held, None)
        evaluator = Evaluator(protocol, metrics, device="cpu", cache=cache, num_backtracked=1)
        found = evaluator([Images.of_tensor("samples", samples)], reals, "images alone")
        return verdict(found.measured, found.calibration)

    return real, fresh, judge


@pytest.mark.parametrize("name", CULPRITS)
def test_a_copier_is_accused_however_its_copies_were_changed(court, name):
    real, fresh, judge = court
    for heldout in (None, fresh):
        sentences = judge(CULPRITS[name](real), "copying", heldout)
        assert any("uspect copying" in text for tone, text in sentences if tone == "bad")
        assert not any(tone == "good" for tone, _ in sentences)


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_a_part_of_changed_copies_is_accused(court, share):
    real, fresh, judge = court
    copies, _ = changed_copies(real)
    number = round(share * N)
    assert any("uspect copying" in text for _, text in judge(torch.cat([copies[:number], fresh[number:]]), "copying"))


def test_new_images_are_cleared_and_told_by_what(court):
    _, fresh, judge = court
    half = N // 2
    for samples, heldout in ((fresh, None), (fresh[:half], fresh[half:]), (fresh[half:], fresh[:half])):
        sentences = judge(samples, "copying", heldout)
        assert not any("uspect copying" in text for _, text in sentences)
        assert [tone for tone, text in sentences if "No more near copies" in text] == ["good"]


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_images_are_never_said_to_look_real(court, name):
    real, fresh, judge = court
    for images in (real, fresh):
        sentences = judge(SPOILT[name](images), "pr")
        assert [tone for tone, text in sentences if "look real" in text] and not any(
            "samples look real to" in text for _, text in sentences
        )
