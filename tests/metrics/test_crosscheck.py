"""Agreement with the published libraries: clean-fid, torch-fidelity, prdc and lpips, none of which shares our code."""

import itertools
from types import SimpleNamespace

import cleanfid.fid
import numpy as np
import pytest
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from PIL import Image
from prdc import compute_prdc
from torch import nn
from torch_fidelity import FeatureExtractorInceptionV3, GenerativeModelModuleWrapper, metric_ppl, noise, registry
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.sample_similarity_base import SampleSimilarityBase

from metrics import features, frechet, kid, paths, prdc
from metrics.interface import Decoder
from metrics.neighbours import NeighbourPass
from models.interpolation import slerp
from models.perceptual import Embedding
from models.pixels import to_float


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noisy(*shape, seed=0):
    """Draw uint8 images in which all bytes are equally likely."""
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def lattice(count, dimension, seed):
    """Draw points with whole coordinates, many of them equal and many at one distance: all libraries see every tie."""
    return torch.randint(5, (count, dimension), generator=torch.Generator().manual_seed(seed)).double()


# precision, recall, density, coverage

POINTS = {
    "unequal": (normal(100, 16), normal(300, 16, seed=1)),
    "shifted": (normal(60, 64), 0.8 * normal(45, 64, seed=1) + 0.15),
    "equal": (normal(300, 8), 0.7 * normal(300, 8, seed=1) + 0.4),
    "ties in a plane": (lattice(40, 2, 0), lattice(60, 2, 1)),
    "ties in space": (lattice(70, 3, 0), lattice(50, 3, 1)),
}


@pytest.mark.parametrize("real, fake", POINTS.values(), ids=POINTS.keys())
def test_strict_shares_equal_the_prdc_package(real, fake, capsys):
    """Equal but for the division: each share is a count over a count, and one point more is 1e-3 or more away."""
    theirs = compute_prdc(real.numpy(), fake.numpy(), nearest_k=3)
    capsys.readouterr()  # it prints how many there are
    assert prdc.prdc(real, fake, strict=True) == pytest.approx(theirs, rel=0, abs=1e-12)
    assert 0 < theirs["recall"] < 1


@pytest.mark.parametrize("save_memory", [False, True], ids=["full", "in parts"])
@pytest.mark.parametrize("real, fake", POINTS.values(), ids=POINTS.keys())
def test_precision_and_recall_equal_torch_fidelity(real, fake, save_memory):
    """Within 1e-6: it counts as we do, points on a radius included, and takes the mean in float32."""
    theirs = prc_features_to_metric(fake, real, prc_neighborhood=3, prc_batch_size=37, save_cpu_ram=save_memory, verbose=False)
    ours = prdc.prdc(real, fake)
    assert {name: ours[name] for name in ("precision", "recall")} == pytest.approx(
        {name: theirs[name] for name in ("precision", "recall")}, rel=0, abs=1e-6
    )


# kernel distance and Frechet distance


@pytest.mark.parametrize("count, dimension, shift", [(100, 64, 0.0), (100, 64, 0.5), (30, 2048, 0.0)])
def test_kernel_distance_equals_torch_fidelity_and_clean_fid(count, dimension, shift):
    """Within 1e-9 of the value: all sum the same float64 kernels, and the cancellation leaves 1e-13.

    Both libraries draw subsets without replacement; one subset of everything leaves nothing to chance.
    """
    real, fake = normal(count, dimension), normal(count, dimension, seed=1) + shift
    ours, _ = kid.kernel_distance(real, fake)
    fidelity = kid_features_to_metric(
        real,
        fake,
        kid_subsets=1,
        kid_subset_size=count,
        kid_kernel="poly",
        verbose=False,
        kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None,
        kid_kernel_poly_coef0=1,
    )
    assert ours == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-9)
    clean = cleanfid.fid.kernel_distance(real.numpy(), fake.numpy(), num_subsets=1, max_subset_size=count)
    assert ours == pytest.approx(clean, rel=1e-9)


@pytest.mark.filterwarnings("ignore:The `disp` argument:DeprecationWarning")
@pytest.mark.parametrize(
    "n, m, tolerance",
    [(40, 200, 1e-6), (200, 40, 1e-6), (40, 40, 1e-6), (200, 200, 1e-9)],
    ids=["few reals", "few fakes", "few of both", "full rank"],
)
def test_frechet_distance_equals_torch_fidelity_and_clean_fid(n, m, tolerance):
    """Within 1e-9 for covariances of full rank, where float64 loses little; 1e-6 below.

    The zero eigenvalues of a singular product come out of their arithmetic as about 1e-16, and so as 1e-8 in its root.
    """
    mixing = normal(64, 64, seed=9) / 8
    real, fake = normal(n, 64) @ mixing, (1.3 * normal(m, 64, seed=1) + 0.3) @ mixing
    ours = frechet.frechet_distance(real, fake)
    statistics = [fid_features_to_statistics(each) for each in (real, fake)]
    fidelity = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert ours == pytest.approx(fidelity, rel=tolerance)
    clean = cleanfid.fid.frechet_distance(*(each[name] for each in statistics for name in ("mu", "sigma")))
    assert ours == pytest.approx(clean, rel=tolerance)


# Inception behind clean-fid's input


def extremes(height, width):
    """Draw a checkerboard of black and white, on which a cubic overshoots most."""
    return ((torch.arange(height)[:, None] + torch.arange(width)) % 2 * 255).to(torch.uint8).expand(3, -1, -1)


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (48, 80), (299, 299), (300, 298), (512, 350), (31, 700)])
def test_resize_equals_clean_fid_bit_for_bit(size):
    """No tolerance: both are Pillow's own arithmetic on the same floats."""
    resize = build_resizer("clean")
    for image in (noisy(3, *size), extremes(*size), noisy(3, *size) // 128 * 255, torch.full((3, *size), 255, dtype=torch.uint8)):
        ours = features._clean_resize(image).permute(1, 2, 0).contiguous().numpy()
        theirs = resize(image.permute(1, 2, 0).numpy())
        assert ours.dtype == theirs.dtype == np.float32 and ours.tobytes() == theirs.tobytes()


def test_features_equal_clean_fids_folder_path_bit_for_bit(inception_weights, tmp_path, monkeypatch):
    """No tolerance: from files to features, the same floats go through the same layers in the same batches."""
    seen = features.FeaturePass("inception-clean", "cpu")
    layers = nn.Sequential(*seen.network.network.blocks)
    monkeypatch.setattr(torch.jit, "load", lambda path: SimpleNamespace(eval=lambda: SimpleNamespace(layers=layers)))
    model = InceptionV3W(str(tmp_path), download=False, resize_inside=False)
    batches = [noisy(2, 3, 48, 80), torch.stack([extremes(320, 310), noisy(3, 320, 310, seed=1)])]
    for number, batch in enumerate(batches):
        seen.add(batch)
        for place, image in enumerate(batch):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}{place}.png")
    theirs = cleanfid.fid.get_folder_features(str(tmp_path), model, num_workers=0, batch_size=2, device="cpu", verbose=False)
    ours = seen.result()["features"].numpy()
    assert np.array_equal(ours, theirs)
    assert ours.std(axis=0).mean() > 1e-3  # the random network does tell the pictures apart


def test_features_equal_torch_fidelitys_inception(inception_weights):
    """Within 1e-5 of the largest feature, float32's rounding over some fifty layers; its layers are written anew.

    At 299 pixels, where neither side resizes: torch-fidelity's own resize is TensorFlow's.
    """
    images = noisy(2, 3, 299, 299)
    (theirs,) = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path=inception_weights)(images)
    seen = features.FeaturePass("inception-clean", "cpu")
    seen.add(images)
    torch.testing.assert_close(seen.result()["features"], theirs, rtol=0, atol=1e-5 * theirs.max().item())
    assert (theirs[0] - theirs[1]).abs().max() > 1e-2 * theirs.max()


# LPIPS


def test_neighbours_and_spread_equal_the_lpips_package(lpips_and_ours):
    """Within 1e-4: ours are differences of lengths and products in float32, the package's are sums of squares."""
    package, ours = lpips_and_ours

    @torch.no_grad()
    def between(a, b):
        return package(to_float(a), to_float(b)).flatten()

    queries = noisy(5, 3, 32, 32)
    owners = [0, 2, 0, 1, 0, 2, 1, 0]  # the fourth cluster stays empty, and the fifth query has none
    samples = torch.where(noisy(8, 3, 32, 32, seed=1) < 100, noisy(8, 3, 32, 32, seed=2), queries[owners])
    seen = NeighbourPass(ours, "cpu", queries, num_clusters=4)
    seen.add(samples[:3])
    seen.add(samples[3:])
    result = seen.result()
    distances = torch.stack([between(sample.expand_as(queries), queries) for sample in samples])
    torch.testing.assert_close(result["distances"], distances, rtol=1e-4, atol=0)
    assert distances[:, :4].argmin(dim=1).tolist() == owners and result["members"].tolist() == [4, 2, 2, 0]
    spread = torch.full((4,), torch.nan)
    for cluster in range(3):
        members = samples[torch.tensor(owners) == cluster]
        first, second = torch.combinations(torch.arange(len(members))).T
        spread[cluster] = between(members[first], members[second]).mean()
    torch.testing.assert_close(result["spread"], spread, rtol=1e-4, atol=0, equal_nan=True)


# paths


def unit(vectors):
    return nn.functional.normalize(vectors, dim=1)


def test_slerp_of_unit_vectors_equals_torch_fidelity():
    """Within 1e-12, float64's rounding; only where lengths are equal, as ours interpolates lengths and theirs does not."""
    a, b, places = unit(normal(50, 8)), unit(normal(50, 8, seed=1)), torch.linspace(-0.5, 1.5, 50, dtype=torch.float64)[:, None]
    for theirs in (noise.batch_slerp_any, noise.batch_slerp_unit):
        torch.testing.assert_close(slerp(a, b, places), theirs(a, b, places), rtol=0, atol=1e-12)


class Painter(nn.Module):
    """Paint the direction of a latent as a smooth image, in float64."""

    def __init__(self, latent_dim):
        super().__init__()
        self.strokes = normal(latent_dim, 3 * 4 * 4)

    def forward(self, latents):
        return torch.tanh(unit(latents.double()) @ self.strokes).view(-1, 3, 4, 4)


class MeanSquare(SampleSimilarityBase):
    def __init__(self, name, **_):
        super().__init__(name)

    def forward(self, a, b):
        return (a - b).square().mean(dim=(1, 2, 3))


def test_path_length_equals_torch_fidelity(monkeypatch):
    """Lengths within 0.5%: float32 latents round a step of 1e-4 by up to 1e-3 of it. Their trimmed mean within 1e-12.

    torch-fidelity steps from the start of an arc and we from anywhere on it, so that it gets our arcs moved along by
    our places, in directions alone.
    """
    count, latent_dim = 1000, 16
    monkeypatch.setattr(paths, "NUM_STEPS", count)
    decoder = Decoder(Painter(latent_dim), latent_dim, torch.device("cpu"), {})
    ours = paths.step_lengths(decoder, Embedding(None, pixel_weight=1.0), seed=3, advance=lambda number: None)

    generator = torch.Generator().manual_seed(3)
    ends = [unit(each) for each in torch.randn(2, count, latent_dim, generator=generator).double()]
    places = torch.rand(count, 1, generator=generator).double()
    latents = itertools.cycle([slerp(*ends, places), slerp(*ends, places + 1)])
    monkeypatch.setitem(registry.NOISE_SOURCE_REGISTRY, "normal", lambda rng, shape: next(latents))
    monkeypatch.setitem(registry.SAMPLE_SIMILARITY_REGISTRY, "mean square", MeanSquare)
    percentile = np.percentile  # numpy 2.4 took away the old name of `method`, which the library still uses
    monkeypatch.setattr(np, "percentile", lambda values, share, interpolation: percentile(values, share, method=interpolation))

    def theirs(**words):
        model = GenerativeModelModuleWrapper(decoder.generator, latent_dim, "normal", num_classes=0)
        return metric_ppl.calculate_ppl(
            1,
            input1=model,
            input1_model_num_samples=count,
            cuda=False,
            verbose=False,
            **words,
            ppl_epsilon=1e-4,
            ppl_z_interp_mode="slerp_unit",
            ppl_sample_similarity="mean square",
        )

    whole = theirs(ppl_reduction="none", ppl_discard_percentile_lower=None, ppl_discard_percentile_higher=None)
    lengths = torch.from_numpy(whole["perceptual_path_length_raw"])
    torch.testing.assert_close(ours, lengths, rtol=5e-3, atol=0)
    mean, error = paths.path_length(lengths)
    trimmed = theirs(ppl_discard_percentile_lower=1, ppl_discard_percentile_higher=99)
    assert mean == pytest.approx(trimmed["perceptual_path_length_mean"], rel=1e-12)
    kept = count - 18
    assert error == pytest.approx(trimmed["perceptual_path_length_std"] / (kept - 1) ** 0.5, rel=1e-12)
