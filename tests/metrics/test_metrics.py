"""metrics/: against pytorch-fid itself, against brute force, and on toy sets whose truth is known. No downloads."""

import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data import is_generated, read_generated
from errors import UserError
from metrics import document, features, frechet, interface, kid, measure, prdc, pytorch_fid_bridge, report
from metrics.cache import Cache
from metrics.calibration import calibrate
from metrics.features import FeaturePass, resize_to_224
from metrics.images import Images, Request, sweep
from metrics.interface import Measurement, Sets
from metrics.measure import PROTOCOLS, networks_of
from metrics.progress import Progress
from metrics.verdict import verdict
from models import weights

EFFNET = PROTOCOLS["default", "effnet-lite0"]
INCEPTION = PROTOCOLS["default", "inception"]
ALL = ["fid", "kid", "pr"]


def normal(n, dimension=64, seed=0, scale=1.0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dimension, generator=generator) * scale + shift


def pictures(n, seed=0, size=(32, 40)):
    """Draw n coarse random pictures, uint8 (n, 3, *size)."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 5, 5, generator=generator)
    return (nn.functional.interpolate(coarse, size=size, mode="bilinear") * 255).round().to(torch.uint8)


def features_of(name, images, tmp_path):
    """Return the features (N, D) of images in one network, as an evaluation takes them."""
    requests = {name: Request({"network": name}, lambda: FeaturePass(name, "cpu"))}
    results = sweep(Images.of_tensor("images", images), requests, "cpu", Cache(tmp_path / "cache"), Progress(len(images)))
    return results[name]["features"]


def write(folder, images):
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:03}.png")
    return folder


# pytorch-fid's own program as the oracle


def test_features_and_distance_equal_pytorch_fids_folder_path_bit_for_bit(inception_weights, tmp_path, monkeypatch):
    """The 2048 x 2048 root takes half a minute: both sides get a cheap function of its input in its place.

    Any bit of difference before the root then still shows. The root itself is the library's own code on both sides.
    """
    from pytorch_fid import fid_score

    theirs, activations_of = [], fid_score.get_activations
    monkeypatch.setattr(fid_score, "get_activations", lambda *words: theirs.append(activations_of(*words)) or theirs[-1])
    monkeypatch.setattr(fid_score.linalg, "sqrtm", lambda product, disp: (np.tanh(product) * 1e-2, 0.0))
    images = {"real": pictures(4), "fake": pictures(3, seed=1)}
    folders = [str(write(tmp_path / name, each)) for name, each in images.items()]
    fid = fid_score.calculate_fid_given_paths(folders, batch_size=4, device="cpu", dims=2048, num_workers=0)
    ours = [features_of("inception", each, tmp_path) for each in images.values()]
    for mine, library in zip(ours, theirs):
        assert np.array_equal(mine.numpy().astype(np.float64), library)
        assert mine.std(dim=0).mean() > 1e-3  # the random network does tell the pictures apart
    assert pytorch_fid_bridge.library_distance(*ours) == fid


def test_the_librarys_downloader_is_put_back(inception_weights):
    from pytorch_fid import inception

    assert inception.load_state_dict_from_url.__module__ == "torch.hub"


@pytest.mark.parametrize(
    "n, m, dimension",
    [(40, 200, 64), (200, 300, 64), (12, 9, 128), (2, 2, 16)],
    ids=["few reals", "more images than features", "fewer images than features", "two"],
)
def test_exact_distance_equals_the_matrix_root(n, m, dimension):
    """Within 1e-3, absolute below 1 and relative above: the difference is the root's, of singular products."""
    mixing = normal(dimension, dimension, seed=9) / dimension**0.5
    real, fake = normal(n, dimension) @ mixing, normal(m, dimension, seed=1, scale=1.5, shift=0.3) @ mixing
    exact = frechet.frechet_distance(real, fake)
    library = pytorch_fid_bridge.library_distance(real, fake)
    assert abs(exact - library) < 1e-3 * max(1, library)
    assert report.disagreement({"fid": number(library), "fid_exact": number(exact)}) is None


def test_exact_distance_of_known_gaussians():
    """Diagonal covariances commute: the distance is |m1 - m2|^2 + sum (s1 - s2)^2 of the samples' own moments."""
    axes = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    real, fake = axes * torch.tensor([1.0, 2.0]), axes * torch.tensor([3.0, 5.0]) + torch.tensor([10.0, 0])
    scale = math.sqrt(2 / 3)  # the standard deviation of (1, -1, 0, 0)
    assert frechet.frechet_distance(real, fake) == pytest.approx(100 + scale**2 * (2**2 + 3**2), rel=1e-6)


@pytest.mark.parametrize("n", [10, 300])
def test_a_set_against_itself_is_at_zero(n):
    assert 0 <= frechet.frechet_distance(normal(n), normal(n)) < 1e-6
    assert 0 <= frechet.frechet_distance(normal(n), normal(n)[torch.randperm(n)]) < 1e-6


def test_a_root_that_is_not_finite_gives_no_number(monkeypatch, capsys):
    """The library would go on with covariances that are not the images' own, and say so on stdout."""
    from pytorch_fid import fid_score

    root = fid_score.linalg.sqrtm
    monkeypatch.setattr(
        fid_score.linalg, "sqrtm", lambda product, disp=True: (np.full_like(product, np.nan), 0) if disp is False else root(product)
    )
    measured = measure.measure(Sets({"inception": normal(9, 8)}, {"inception": normal(9, 8, 1)}), INCEPTION, ["fid"])
    assert measured["fid"].value is None and "not finite" in measured["fid"].reason
    assert measured["fid_exact"].value > 0
    assert capsys.readouterr().out == ""


# brute-force oracles


def brute_kid(real, fake):
    kernel = lambda a, b: (float(a.double() @ b.double()) / len(a) + 1) ** 3  # noqa: E731
    within = [sum(kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j) / (len(s) * (len(s) - 1)) for s in (real, fake)]
    return sum(within) - 2 * sum(kernel(a, b) for a in real for b in fake) / (len(real) * len(fake))


def test_kernel_distance_equals_brute_force(monkeypatch):
    monkeypatch.setattr(kid, "CHUNK", 4)
    real, fake = normal(9, 5), normal(7, 5, seed=1, shift=0.5)
    value, error = kid.kernel_distance(real, fake)
    assert value == pytest.approx(brute_kid(real, fake), rel=1e-10)
    left = [
        [brute_kid(torch.cat([real[:i], real[i + 1 :]]), fake) for i in range(9)],
        [brute_kid(real, torch.cat([fake[:i], fake[i + 1 :]])) for i in range(7)],
    ]
    variance = sum((len(v) - 1) / len(v) * np.square(np.array(v) - np.mean(v)).sum() for v in left)
    assert error == pytest.approx(variance**0.5, rel=1e-8)
    assert kid.kernel_distance(real[:2], fake)[1] is None


@pytest.mark.parametrize("shift, low, high", [(0.0, 1.0, 2.0), (0.5, 0.7, 1.4)], ids=["one distribution", "two"])
def test_kernel_distance_error_is_the_spread_over_draws(shift, low, high):
    """For one distribution the statistic is degenerate and the jackknife too wide, by about the root of two."""
    draws = [kid.kernel_distance(normal(60, 16, seed=s), normal(80, 16, seed=1000 + s, shift=shift)) for s in range(60)]
    values, errors = np.array(draws).T
    assert low < errors.mean() / values.std() < high
    assert shift or abs(values.mean()) < 3 * values.std() / len(values) ** 0.5


def brute_prdc(real, fake, k=3):
    real, fake = real.double().numpy(), fake.double().numpy()
    between = lambda a, b: np.array([[np.sqrt(((p - q) ** 2).sum()) for q in b] for p in a])  # noqa: E731
    real_radii, fake_radii = (np.sort(between(s, s), axis=1)[:, k] for s in (real, fake))
    cross = between(real, fake)
    in_real, in_fake = cross <= real_radii[:, None], cross <= fake_radii
    return {
        "precision": in_real.any(0).mean(),
        "recall": in_fake.any(1).mean(),
        "density": in_real.sum(0).mean() / k,
        "coverage": in_real.any(1).mean(),
    }


@pytest.mark.parametrize("shift", [0.0, 0.8, 5.0])
def test_prdc_equals_brute_force(shift, monkeypatch):
    monkeypatch.setattr(prdc, "CHUNK", 7)
    real, fake = normal(30, 4), normal(45, 4, seed=1, shift=shift)
    assert prdc.prdc(real, fake) == pytest.approx(brute_prdc(real, fake))


def test_prdc_counts_ties_and_duplicates_as_inside():
    """A neighbour exactly on the radius is inside, far from the origin too, and a radius of zero holds a copy."""
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)) + 1000
    assert prdc.prdc(grid, grid) == pytest.approx(brute_prdc(grid, grid))
    same = torch.full((6, 3), 0.1)
    assert prdc.prdc(same, same) == {"precision": 1, "recall": 1, "density": 2, "coverage": 1}
    assert prdc.prdc(same, same + 1)["precision"] == 0


def test_wilson_interval_of_a_textbook_case():
    assert interface.wilson_interval(0.1, 10) == pytest.approx((0.0179, 0.4042), abs=1e-4)
    assert interface.wilson_interval(1.0, 100) == pytest.approx((0.963, 1), abs=1e-3)
    assert interface.wilson_interval(0.0, 100)[0] == 0


# toy truths


@pytest.fixture(scope="module")
def toy():
    real, fresh = normal(100), normal(400, seed=1)
    copier = real[torch.randint(100, (400,), generator=torch.Generator().manual_seed(2))]
    collapsed = real[:1] + 0.01 * normal(400, seed=3)
    return {
        name: values_of(real, fake) for name, fake in {"copier": copier, "fresh": fresh, "collapsed": collapsed, "far": fresh + 9}.items()
    }


def values_of(real, fake):
    return measure.measure(Sets({"effnet-lite0": real}, {"effnet-lite0": fake}), EFFNET, ALL)


def test_frechet_ranks_copier_below_fresh_below_collapsed(toy):
    """This is why it is never printed alone: copying 100 images scores better than drawing new ones."""
    fd = {name: measured["fd_effnetlite0"].value for name, measured in toy.items()}
    assert 4 * fd["copier"] < fd["fresh"] < fd["collapsed"] < fd["far"]


def test_copying_does_not_lower_the_distance_to_held_out_images():
    real, fresh, heldout = normal(100), normal(400, seed=1), normal(60, seed=5)
    copier = real[torch.randint(100, (400,), generator=torch.Generator().manual_seed(2))]
    found = {}
    for name, fake in {"copier": copier, "fresh": fresh}.items():
        sets = Sets(*({"effnet-lite0": each} for each in (real, fake, heldout)))
        found[name] = measure.measure(sets, EFFNET, ["fid", "fid_heldout"])
        number = found[name]["fd_heldout_effnetlite0"]
        assert number.value == frechet.frechet_distance(heldout, fake) and (number.num_real, number.num_fake) == (60, 400)
        assert found[name]["fd_effnetlite0"].num_real == 100 and number.error > 0
    assert found["copier"]["fd_effnetlite0"].value < found["fresh"]["fd_effnetlite0"].value
    assert found["copier"]["fd_heldout_effnetlite0"].value > found["fresh"]["fd_heldout_effnetlite0"].value
    assert list(values_of(real, fresh)) == [name for name in measure.measure(sets, EFFNET, ALL) if "heldout" not in name]


def test_kernel_distance_tells_copier_from_fresh(toy):
    kd = {name: measured["kd_effnetlite0"] for name, measured in toy.items()}
    assert kd["copier"].value < -5 * kd["copier"].error
    assert abs(kd["fresh"].value) < 3 * kd["fresh"].error
    assert kd["collapsed"].value > 5 * kd["collapsed"].error


def test_neighbours_tell_fidelity_from_variety(toy):
    def value(name, quantity):
        return toy[name][f"{quantity}_effnetlite0"].value

    assert value("copier", "precision") == value("copier", "recall") == 1
    assert value("copier", "coverage") > 0.95
    assert value("fresh", "coverage") > 0.8
    assert value("collapsed", "precision") == 1 and value("collapsed", "recall") < 0.05
    assert value("collapsed", "coverage") < 0.2
    assert value("far", "precision") == value("far", "recall") == value("far", "coverage") == 0


def test_calibration_brackets_the_toys(toy):
    real, fake, heldout = ({"effnet-lite0": normal(n, seed=seed)} for n, seed in ((100, 0), (400, 1), (20, 5)))
    calibration = calibrate(Sets(real, fake, heldout), EFFNET, ALL)
    copy = calibration["copy"].values
    assert copy["fd_effnetlite0"] == pytest.approx(toy["copier"]["fd_effnetlite0"].value, rel=0.3)
    assert copy["kd_effnetlite0"] < 0 and copy["precision_effnetlite0"] == 1
    assert calibration["split_half"].values["fd_effnetlite0"] > toy["fresh"]["fd_effnetlite0"].value
    assert (calibration["split_half"].num_real, calibration["held_out"].num_fake) == (50, 20)
    assert calibration["as_many"].num_fake == 20
    assert calibration["as_many"].values["fd_effnetlite0"] > toy["fresh"]["fd_effnetlite0"].value  # fewer samples, the same kind
    assert calibration == calibrate(Sets(real, fake, heldout), EFFNET, ALL)
    assert calibrate(Sets(real, fake), EFFNET, ALL)["held_out"] is None
    few = calibrate(Sets(real, {"effnet-lite0": normal(12, seed=1)}, heldout), EFFNET, ALL)
    assert few["held_out"].num_fake == few["as_many"].num_fake == 12  # equal counts, always
    assert few["split_half"].num_fake == few["as_halves"].num_fake == 12


def test_frechet_error_is_the_jackknife_over_reals():
    real, fake = normal(40, 4), normal(50, 4, seed=1)
    values = frechet.jackknife(real, fake, 0)
    assert values == frechet.jackknife(real, fake, 0) and len(values) == frechet.BLOCKS
    assert min(values) < frechet.frechet_distance(real, fake) < max(values)
    assert frechet.jackknife_error(values) == pytest.approx((9 / 10 * np.square(np.array(values) - np.mean(values)).sum()) ** 0.5)
    assert frechet.jackknife(real[:19], fake, 0) is None


# numbers that cannot be had, and the report


def number(value, **rest):
    return Measurement(value, "lower", 100, 1000, **rest)


@pytest.mark.parametrize("n, m", [(1, 1), (1, 50), (50, 1), (2, 3), (3, 50), (50, 3)])
def test_too_few_images_give_none_with_a_reason(n, m, tmp_path):
    real, fake = (
        {"inception": normal(size, 8, seed), "vgg16": normal(size, 8, seed), "thumbnail": normal(size, 768, seed)}
        for size, seed in ((n, 0), (m, 1))
    )
    measured = measure.measure(Sets(real, fake), INCEPTION, [*ALL, "copying"])
    calibration = calibrate(Sets(real, fake), INCEPTION, [*ALL, "copying"])
    for name, measurement in measured.items():
        assert (measurement.value is None) == (measurement.reason is not None), name
        assert measurement.value is None or math.isfinite(measurement.value), name
    assert (measured["fid_exact"].value is None) == (min(n, m) < 2)
    assert (measured["precision"].value is None) == (n < 4)
    assert (measured["recall"].value is None) == (m < 4)
    document.write_numbers(tmp_path, document.numbers_record(measured, calibration))  # refuses NaN
    assert "nan" not in report.text(measured, calibration, verdict(measured, calibration), []).lower()


def test_names_say_which_network_and_what_is_comparable():
    real, fake = normal(30, 8), normal(40, 8, seed=1)
    ours = values_of(real, fake)
    assert list(ours) == [f"{name}_effnetlite0" for name in ("fd", "kd", "precision", "recall", "density", "coverage", "reached")]
    assert not any(measurement.comparable_with_published for measurement in ours.values())
    reals, fakes = ({"inception": s, "vgg16": s} for s in (real, normal(5000, 8, seed=1)))
    published = measure.measure(Sets(reals, fakes), INCEPTION, ALL)
    assert list(published) == ["fid", "fid_exact", "kid", "precision", "recall", "density", "coverage", "reached"]
    assert published["fid"].comparable_with_published and published["kid"].comparable_with_published
    assert not measure.measure(Sets(reals, {"inception": fake}), INCEPTION, ["fid"])["fid"].comparable_with_published
    assert networks_of(INCEPTION, ["fid", "kid"]) == ["inception"] and networks_of(EFFNET, ALL) == ["effnet-lite0"]


def test_table_is_aligned_and_warnings_are_said():
    measured = {
        "fid": number(12.3456),
        "fid_exact": number(12.4, error=0.5),
        "kid": number(-0.002, error=0.0001),
        "precision": number(0.5, interval=(0.4, 0.6)),
        "recall": number(None, reason="needs 4"),
    }
    reals = {"inception": normal(30, 8), "vgg16": normal(30, 8)}
    calibration = calibrate(Sets(reals, reals), INCEPTION, ALL)
    lines = report.table(measured, calibration).splitlines()
    assert [line.split()[0] for line in lines] == ["metric", "fid1k", "fid_exact1k", "kid", "precision", "recall"]
    assert len({line.index("lower") for line in lines[1:]}) == 1
    assert "12.35" in lines[1] and "-2.00" in lines[3] and "0.40 to 0.60" in lines[4] and " - " in lines[5]
    legend = report.legend(measured, calibration)
    assert "only repeats the 30 real images" in legend[0]
    warnings = " ".join(report.warnings_of(measured))
    for part in ("recall was not computed: needs 4", "trust fid_exact", "5000"):
        assert part in warnings


def test_frechet_distances_carry_their_number_of_samples_in_their_names():
    names = {
        ("fid", 5000): "fid5k",
        ("fid_clean", 1234): "fid_clean1234",
        ("fd_effnetlite0", 1000): "fd_effnetlite0_1k",
        ("precision", 5000): "precision",
        ("kid", 10): "kid (x1000)",
    }
    for (name, count), printed in names.items():
        assert report.printed_name(name, count) == printed


def test_repeats_are_told_by_mean_spread_and_least():
    first, *others = (number(value) for value in (3.0, 1.0, 2.0))
    together = measure.repeated(first, others)
    assert (together.value, together.repeats) == (2.0, (3.0, 1.0, 2.0))
    assert "mean of 3 sets of samples, standard deviation 1.00, least 1.00" in " ".join(report.legend({"fid": together}, {}))
    assert measure.repeated(first, [number(None)]) is first


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    path = document.write_numbers(tmp_path, {"fid": 1.0})
    before = path.read_bytes()
    with pytest.raises(ValueError):
        document.write_numbers(tmp_path, {"fid": math.nan})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_pytorch_fid_reads_our_statistics_of_the_real_images(tmp_path):
    from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path

    real, fake = normal(30, 8), normal(50, 8, seed=1)
    document.write_statistics(tmp_path, real)
    statistics = compute_statistics_of_path(str(tmp_path / "features_real.npz"), None, 1, 8, "cpu")
    rows = fake.numpy().astype(np.float64)
    theirs = calculate_frechet_distance(*statistics, rows.mean(axis=0), np.cov(rows, rowvar=False))
    assert theirs == pytorch_fid_bridge.library_distance(real, fake)


PEAK = """
import resource, sys, torch
from metrics import prdc
real, fake = torch.randn(2, 5000, 128)
prdc.prdc(real[:50], fake[:50])
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
prdc.prdc(real, fake)
print(peak() - before)
"""


def test_neighbours_of_5000_images_take_little_memory():
    """Under 500 MB above the features; a whole matrix of distances in float64 would be 200 MB, and there are three."""
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) < 500, done


# networks


def test_features_that_are_not_finite_are_refused(monkeypatch):
    broken = features.NETWORKS["effnet-lite0"]._replace(build=lambda: nn.Sequential(nn.Flatten(), _Broken()))
    monkeypatch.setitem(features.NETWORKS, "effnet-lite0", broken)
    with pytest.raises(UserError, match="effnet-lite0 gives features that are not finite"):
        FeaturePass("effnet-lite0", "cpu").add(pictures(2))


class _Broken(nn.Module):
    def forward(self, images):
        return images.float() * math.nan


def test_effnet_features_do_not_depend_on_how_images_arrive(tmp_path):
    images = pictures(19)
    first = features_of("effnet-lite0", images, tmp_path / "a")
    arriving = Images("images", 19, {}, lambda: images.split(3), None)
    again = sweep(arriving, {"f": Request({}, lambda: FeaturePass("effnet-lite0", "cpu"))}, "cpu", Cache(tmp_path), Progress(19))
    assert first.shape == (19, 1280) and first.dtype == torch.float32
    assert torch.equal(first, again["f"]["features"])


def test_vgg_features_are_the_second_fully_connected_layer(monkeypatch):
    from torchvision.models import vgg16

    torch.manual_seed(0)
    network = vgg16(weights=None, init_weights=False).eval()
    monkeypatch.setattr(weights, "require", lambda key: {key: key})
    monkeypatch.setattr(features.torch, "load", lambda *_, **__: network.state_dict())
    images, seen = pictures(2), []
    network.classifier[4].inplace = False
    network.classifier[4].register_forward_hook(lambda module, inputs, output: seen.append(output))
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        network((resize_to_224(images) / 255 - mean) / deviation)
        ours, linear = (features.VGG16(linear).eval()(images) for linear in (False, True))
    assert ours.shape == (2, 4096) and ours.min() == 0 < ours.max() and linear.min() < 0
    assert torch.equal(ours, seen[0]) and torch.equal(linear.relu(), ours)


def test_resize_is_antialiased_and_stays_in_range():
    checks = torch.zeros(1, 3, 896, 896, dtype=torch.uint8)
    checks[..., ::2] = 255
    grey = resize_to_224(checks)[..., 4:-4]
    assert (grey - 127.5).abs().max() < 2  # without antialiasing: all black, or all white
    assert resize_to_224(pictures(3) // 128 * 255).max() <= 255


# folders of generated images


def test_generated_images_are_read_as_they_are(tmp_path):
    images = pictures(4)
    images[3] = images[0]  # a duplicate stays
    folder = write(tmp_path / "images" / "nested", images).parent
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert torch.equal(read_generated(folder).images, images)
    assert torch.equal(read_generated(folder, limit=2).images, images[:2])
    archive = Path(shutil.make_archive(str(tmp_path / "images"), "zip", folder))
    assert is_generated(archive) and is_generated(folder)
    assert torch.equal(read_generated(archive).images, images)


def test_hostile_folders_are_told_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    mixed = write(tmp_path / "mixed", pictures(2))
    Image.new("RGB", (40, 41)).save(mixed / "zz.png")
    broken = write(tmp_path / "broken", pictures(1))
    (broken / "b.png").write_bytes((broken / "000.png").read_bytes()[:60])
    script = write(tmp_path / "script", pictures(1))
    (script / "a.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "not.zip").write_bytes(b"PK no")
    cases = {
        "empty": "no images",
        "mixed": r"000.png is 32x40, zz.png is 41x40",
        "broken": "b.png: cannot be read",
        "script": "a.png: cannot be read",
        "not.zip": r"neither a folder nor a readable \.zip",
    }
    for name, told in cases.items():
        with pytest.raises(UserError, match=told) as caught:
            read_generated(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no such run"):
        is_generated(tmp_path / "nowhere")
