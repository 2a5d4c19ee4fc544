"""Sharpness: measures whose values are known in closed form, and a sentence that is right about images whose truth is known."""

import math
from fractions import Fraction

import pytest
import torch

from metrics import alterations, report
from metrics.cache import Cache
from metrics.calibration import Calibration
from metrics.compare import compare
from metrics.document import numbers_record, write_numbers
from metrics.evaluation import Evaluator
from metrics.features import FeaturePass
from metrics.images import Images
from metrics.interface import Comparison, Measurement, Reals
from metrics.measure import PROTOCOLS, protocol_of
from metrics.sharpness import Patches, Spectrum, equivalent_size, measure_patches, measure_power, sliced_distance
from metrics.verdict import verdict

EFFNET = PROTOCOLS["default", "effnet-lite0"]
KEYS = ["sharpness", "swd"]
SIDE = 64


def to_bytes(images):
    return images.round().clamp(0, 255).to(torch.uint8)


def white_noise(count, seed, deviation=25.0, size=(SIDE, SIDE)):
    generator = torch.Generator().manual_seed(seed)
    return to_bytes(128 + deviation * torch.randn(count, 1, *size, generator=generator).expand(-1, 3, -1, -1))


def pictures(count, seed, size=(SIDE, SIDE)):
    """Draw images with as much detail as photographs: noise whose amplitude falls as one over the frequency."""
    noise = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows, columns = (torch.fft.fftfreq(side, dtype=torch.float64) for side in size)
    frequency = (rows[:, None].square() + columns.square()).sqrt().clamp(min=1 / max(size))
    images = torch.fft.ifft2(torch.fft.fft2(noise) / frequency).real
    return to_bytes(128 + 40 * images / frequency.reciprocal().square().mean().sqrt())


def wave(frequency, size=(SIDE, SIDE)):
    """Return one image, a wave of so many cycles a pixel to the right."""
    return to_bytes(128 + 50 * torch.cos(2 * math.pi * frequency * torch.arange(size[1]) + 1)).expand(1, 3, *size)


def checkerboard(images, levels):
    rows, columns = (torch.arange(side) for side in images.shape[2:])
    return to_bytes(images + levels * (1 - 2 * ((rows[:, None] + columns) % 2)))


def compared(measure, network, real, fake):
    return measure(Comparison(network(real).float(), network(fake).float(), None, None, EFFNET, True))


def power(real, fake):
    return compared(measure_power, Spectrum(), real, fake)


def swd(real, fake):
    return compared(measure_patches, Patches(), real, fake)


def evaluated(fake, real, folder, keys=("sharpness",)):
    """Return the numbers, the calibration and the sentences of samples beside training images."""
    wrapped = Images.of_tensor("real", real)
    evaluator = Evaluator(EFFNET, [*keys], device="cpu", cache=Cache(folder), num_backtracked=1)
    found = evaluator([Images.of_tensor("fake", fake)], Reals(real, real[:0], wrapped, None, None), "only images")
    return found, verdict(found.measured, found.calibration)


REAL = pictures(60, 0)


def test_white_noise_has_its_variance_in_every_octave():
    spectrum = Spectrum()(white_noise(40, 0))
    assert torch.allclose(spectrum.mean(dim=0), torch.full((3,), 625.0, dtype=torch.float64), rtol=0.05)
    for value in power(white_noise(40, 0), white_noise(40, 1)):
        assert abs(value.value - 1) < 3 * value.error < 0.2
    assert power(white_noise(40, 0), white_noise(40, 1, deviation=12.5))[0].value == pytest.approx(0.25, rel=0.02)


def test_the_error_is_the_spread_of_the_ratio_over_fresh_sets():
    ratios = [power(pictures(20, 2 * k), pictures(30, 2 * k + 1))[0] for k in range(40)]
    spread = torch.tensor([each.value for each in ratios]).std()
    told = torch.tensor([each.error for each in ratios]).mean()
    assert 0.7 < spread / told < 1.4


@pytest.mark.parametrize(("frequency", "octave"), [(0.45, 0), (0.3, 0), (0.2, 1), (0.16, 1), (0.11, 2), (0.08, 2)])
def test_a_wave_lies_in_its_octave_alone_whatever_its_direction(frequency, octave):
    """This would fail if the octaves were exchanged, or counted in cycles an image."""
    for size in ((SIDE, SIDE), (48, 96)):
        images = wave(frequency, size)
        for each in (images, images.transpose(2, 3)):
            found = Spectrum()(each)[0]
            assert found[octave] > 0.97 * found.sum()


def test_the_finest_octave_is_what_half_the_side_cannot_hold():
    small = Spectrum()(alterations.resized(REAL, Fraction(1, 2))).mean(dim=0) / Spectrum()(REAL).mean(dim=0)
    assert small[0] < 0.1 < 0.3 < small[1] < small[2]


def test_brightness_is_no_detail():
    darker = to_bytes(REAL.float().clamp(40, 215))
    assert [value.value for value in power(darker, darker - 40)] == pytest.approx([1, 1, 1], rel=1e-6)
    assert swd(darker, darker - 40)[0].value < 1e-4


def test_results_depend_neither_on_the_batch_nor_on_the_order():
    for name in ("spectrum", "patches"):
        results = []
        for size in (60, 7, 1):
            each = FeaturePass(name, "cpu")
            for part in REAL.split(size):
                each.add(part)
            results.append(each.result()["features"])
        assert results[0].dtype == torch.float32
        assert torch.allclose(results[0], results[1], rtol=1e-6, atol=1e-4) and torch.allclose(results[0], results[2], rtol=1e-6, atol=1e-4)


def gaussian(count, seed, mean=0.0, deviation=1.0):
    return mean + deviation * torch.randn(count, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sliced_distance_of_gaussians_is_the_closed_form():
    """W1 of two normal distributions is |m1 - m2| if the deviations are equal, and |s1 - s2| sqrt(2 / pi) if the means are."""
    line = torch.ones(1, 1)
    assert sliced_distance(gaussian(40_000, 0), gaussian(30_000, 1, mean=0.7), line) == pytest.approx(0.7, abs=0.03)
    wider = sliced_distance(gaussian(40_000, 0), gaussian(30_000, 1, deviation=1.5), line)
    assert wider == pytest.approx(0.5 * math.sqrt(2 / math.pi), abs=0.02)


def test_sliced_distance_is_exact_for_unequal_counts_and_symmetric():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [0.0], [3.0]])
    line = torch.ones(1, 1)
    # Between 0 and 1 the distribution functions are 1/2 and 2/3, between 1 and 3 they are 1 and 2/3.
    assert sliced_distance(a, b, line) == sliced_distance(b, a, line) == pytest.approx(1 / 6 + 2 / 3)
    assert sliced_distance(a, a.flip(0), line) == 0 == sliced_distance(a, torch.cat([a, a]), line)


def test_sliced_distance_of_points_that_move_is_the_mean_length_of_the_move_along_the_directions():
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = torch.eye(3, dtype=torch.float64).repeat(1, 20)  # more than one chunk
    assert sliced_distance(points, points + torch.tensor([3.0, 0.0, 0.0]), directions) == pytest.approx(1.0)


def test_equal_sets_have_no_distance_and_each_level_notices_its_own_detail():
    total, fine = swd(REAL, REAL)
    assert total.value == 0 and fine.value == 0

    def by_level(fake):
        return [float(each) for each in swd(REAL, fake)[0].note.split(": ")[1].split(", ")]

    fine, middle, coarse = by_level(checkerboard(REAL, 20))
    assert fine > 10 * middle and fine > 10 * coarse
    halved = by_level(alterations.resized(REAL, Fraction(1, 2)))
    assert halved[0] > 2 * halved[1] > 2 * halved[2]
    faint = to_bytes(128 + (REAL.float() - 128) / 2)
    assert min(by_level(faint)) > 0.2, "a loss of contrast alone has a distance"


@pytest.mark.parametrize("size", [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
def test_resized_images_are_told_by_their_own_size(size, tmp_path):
    found, sentences = evaluated(alterations.resized(REAL, Fraction(size)), REAL, tmp_path)
    (sentence,) = sentences
    assert sentence.text.startswith("Softer than the training images: like them at ")
    assert float(sentence.text.split(" at ")[1].split()[0]) == pytest.approx(size, abs=0.04)
    assert sentence.tone == ("mixed" if size > 0.75 else "bad")
    ratios = [found.calibration[f"resized, {each}"].values["fine_power"] for each in alterations.RESIZED]
    assert ratios[0] == 1 and ratios == sorted(ratios, reverse=True)
    text = report.text(found.measured, found.calibration, sentences, [])
    assert f"verdict: {sentence.text}" in text and "fine_power of real images resized to a share of their side and back: 1: 1.00" in text


def test_the_softer_the_images_the_larger_their_calibrated_distance(tmp_path):
    found, _ = evaluated(REAL[:20], REAL, tmp_path, KEYS)
    for name in ("swd", "swd_fine"):
        distances = [found.calibration[f"resized, {each}"].values[name] for each in alterations.RESIZED]
        assert distances[0] == 0 and distances == sorted(distances)


def test_images_below_the_smallest_size_are_told_so(tmp_path):
    (sentence,) = evaluated(alterations.resized(REAL, Fraction(1, 8)), REAL, tmp_path)[1]
    assert "like them at 3/8 or less of their size" in sentence.text and sentence.tone == "bad"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fresh_images_are_as_sharp(seed, tmp_path):
    (sentence,) = evaluated(pictures(50, seed), REAL, tmp_path)[1]
    assert sentence.tone == "good" and sentence.text.startswith("As sharp as the training images: ")


def test_patterns_of_single_pixels_are_harsh(tmp_path):
    found, (sentence,) = evaluated(checkerboard(pictures(50, 1), 30), REAL, tmp_path)
    assert sentence.tone == "bad" and "Harsher than the training images" in sentence.text and "single pixels" in sentence.text
    fine, middle, coarse = (found.measured[f"{name}_power"].value for name in ("fine", "middle", "coarse"))
    assert fine > 1.5 and middle == pytest.approx(1, abs=0.15) and coarse == pytest.approx(1, abs=0.25)
    (sentence,) = evaluated(checkerboard(pictures(50, 1), 8), REAL, tmp_path)[1]
    assert sentence.tone == "mixed" and sentence.text.startswith("A little harsher")


def test_noise_does_not_hide_softness(tmp_path):
    """Noise gives a soft image the power of the finest octave back, but not that of the next."""
    soft = alterations.resized(pictures(50, 1), Fraction(3, 8))
    fine = Spectrum()(REAL).mean(dim=0)[0] - Spectrum()(soft).mean(dim=0)[0]
    noisy = to_bytes(soft + white_noise(50, 5, float(fine.sqrt())).float() - 128)
    found, (soft, harsh) = evaluated(noisy, REAL, tmp_path)
    assert abs(found.measured["fine_power"].value - 1) < 0.1
    assert soft.tone == "bad" and soft.text.startswith("Softer") and "middle detail" in soft.text and "harsher" in harsh.text


def test_soft_training_images_clear_nobody(tmp_path):
    """Resizing hardly changes them, so a soft generator could not be convicted."""
    gradients = torch.linspace(0, 1, SIDE)[None, None, None, :] * torch.rand(60, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    real = to_bytes(200 * gradients.expand(-1, -1, SIDE, -1) + 20)
    (sentence,) = evaluated(real[:30], real, tmp_path)[1]
    assert sentence.tone == "mixed" and sentence.text.startswith("Cannot tell")


def test_soft_training_images_convict_nobody_of_softness(tmp_path):
    """Their finest octave holds the rounding to levels alone, and flat images have none of it."""
    place = torch.arange(SIDE) / 16 + torch.arange(60)[:, None] / 7
    real = to_bytes(128 + 60 * torch.sin(place)[:, None, None, :] * torch.cos(place)[:, None, :, None]).expand(-1, 3, -1, -1)
    flat = real.clone()
    flat[::2] = 128
    found, (sentence,) = evaluated(flat, real, tmp_path)
    assert found.measured["fine_power"].value + 2 * found.measured["fine_power"].error < 1
    assert sentence.tone == "mixed" and sentence.text.startswith("Cannot tell")


NAMES = ("fine_power", "middle_power", "coarse_power")


def judged(samples, resized):
    """Return the sentence about powers, finest octave first, beside those of the training images at every size."""
    measured = {name: Measurement(value, "near 1", 100, 100, error=0.01) for name, value in zip(NAMES, samples)}
    return verdict(measured, {f"resized, {size}": Calibration("", 100, 100, dict(zip(NAMES, each))) for size, each in resized.items()})


def test_power_that_resizing_does_not_take_away_is_no_measure_of_softness():
    same = dict.fromkeys(alterations.RESIZED, (1.0, 1.0, 1.0))
    (sentence,) = judged((0.5, 0.5, 1.0), same)
    assert sentence.tone == "mixed" and sentence.text.startswith("Cannot tell")


def test_resized_images_too_are_judged_beside_their_coarse_detail():
    sizes = {"1": (1.0, 1.0, 1.0), "7/8": (0.8, 0.9, 0.8), "3/4": (0.4, 0.8, 0.8), "5/8": (0.3, 0.6, 0.8), "1/2": (0.2, 0.5, 0.8)}
    for size, powers in (*sizes.items(), ("3/8", (0.0, 0.1, 0.5))):
        sentence = judged(powers, sizes | {"3/8": (0.0, 0.1, 0.5)})[0]
        told = {"1": "As sharp", "7/8": "As sharp", "3/4": " 0.75 of", "5/8": " 0.62 of", "1/2": " 0.50 of", "3/8": " 3/8 or less of"}
        assert told[size] in sentence.text


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.2])
def test_contrast_alone_is_neither_softness_nor_harshness(factor, tmp_path):
    found, (sentence,) = evaluated(to_bytes(128 + (pictures(50, 1).float() - 128) * factor), REAL, tmp_path)
    for name in ("fine", "middle", "coarse"):
        assert found.measured[f"{name}_power"].value == pytest.approx(factor**2, rel=0.1)
    assert sentence.tone == "good"


def test_faint_and_soft_images_are_told_by_their_size(tmp_path):
    faint = to_bytes(128 + (alterations.resized(pictures(50, 1), Fraction(5, 8)).float() - 128) / 2)
    _, (sentence,) = evaluated(faint, REAL, tmp_path)
    assert float(sentence.text.split(" at ")[1].split()[0]) == pytest.approx(5 / 8, abs=0.05)


def test_few_images_clear_nobody_and_convict_nobody(tmp_path):
    for real in (REAL[:2], REAL[:7]):
        for fake in (pictures(50, 1), alterations.resized(pictures(50, 1), Fraction(1, 2))):
            (sentence,) = evaluated(fake, real, tmp_path)[1]
            assert sentence.text.startswith("Cannot tell") and "at least 8 training images" in sentence.text
    found, sentences = evaluated(pictures(50, 1), REAL[:1], tmp_path, KEYS)
    assert not sentences and all("at least 2 images" in number.reason for number in found.measured.values())
    (sentence,) = evaluated(pictures(5, 1), REAL, tmp_path)[1]
    assert "too few to judge" in sentence.text


def test_images_that_differ_much_from_each_other_clear_nobody(tmp_path):
    """A set whose power varies so much that 3/4 of its size lies within the uncertainty."""
    contrast = torch.tensor([0.02] * 9 + [1.0]).view(-1, 1, 1, 1)
    real = to_bytes(128 + (pictures(10, 0).float() - 128) * contrast)
    fake = to_bytes(128 + (pictures(30, 1).float() - 128) * contrast.repeat(3, 1, 1, 1))
    (sentence,) = evaluated(fake, real, tmp_path)[1]
    assert sentence.tone == "mixed" and sentence.text.startswith("Cannot tell")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (5, 3), (8, 8), (7, 64), (33, 65)])
def test_small_and_oblong_images_give_numbers_or_reasons(size, tmp_path):
    found, _ = evaluated(pictures(30, 1, size), pictures(30, 0, size), tmp_path, KEYS)
    for number in found.measured.values():
        assert number.reason if number.value is None else math.isfinite(number.value)
    large = min(size) >= 8
    assert (found.measured["fine_power"].value is not None) == (max(size) > 1)
    assert (found.measured["swd_fine"].value is not None) == (min(size) >= 7)
    assert not large or found.measured["middle_power"].value is not None


@pytest.mark.parametrize("num", [2, 30])
def test_constant_images_give_numbers_or_reasons(num, tmp_path):
    flat = torch.full((num, 3, 16, 16), 77, dtype=torch.uint8)
    found, sentences = evaluated(REAL[:, :, :16, :16], flat, tmp_path, KEYS)
    assert all(number.value is None and "training images have no detail" in number.reason for number in found.measured.values())
    assert not sentences
    found, sentences = evaluated(flat, REAL[:, :, :16, :16], tmp_path, KEYS)
    assert num < 20 or sentences[0].text.startswith("Cannot tell")
    assert found.measured["fine_power"].value == pytest.approx(0, abs=1e-9) and found.measured["swd"].value > 0.5
    assert found.network is None, "pixels are no features for pytorch-fid"


def test_real_images_at_their_own_size_are_not_compared_by_pixels():
    protocol, metrics = protocol_of("default", "effnet-lite0", None, raw=True)
    assert protocol.raw and not {*KEYS} & {*metrics} and {*KEYS} < {*protocol_of("default", "effnet-lite0", None, raw=False)[1]}


def test_a_size_is_interpolated_between_its_neighbours():
    ratios = {Fraction(1): 1.0, Fraction(1, 2): 0.6, Fraction(1, 4): 0.0}
    assert [equivalent_size(ratio, ratios) for ratio in (1.2, 1.0, 0.8, 0.6, 0.3, 0.0, -1.0)] == [1, 1, 0.75, 0.5, 0.375, 0.25, 0.25]
    assert equivalent_size(0.5, {Fraction(1): 1.0, Fraction(1, 2): 1.0}) == 0.5  # equal ratios, which nothing lies between


def test_of_two_evaluations_the_one_nearer_to_one_is_better(tmp_path):
    fakes = {"soft": alterations.resized(REAL, Fraction(3, 4)), "right": pictures(60, 1), "harsh": checkerboard(REAL, 30)}
    for name, fake in fakes.items():
        found, _ = evaluated(fake, REAL, tmp_path / "cache")
        (tmp_path / name).mkdir()
        document = {"schema": "rs-imle.evaluation.2", "conditions": {}, **numbers_record(found.measured, found.calibration)}
        write_numbers(tmp_path / name, document)

    def better(a, b):
        (line,) = (line for line in compare(tmp_path / a, tmp_path / b).splitlines() if line.startswith("fine_power"))
        return line.split("  ")[-1].strip()

    assert better("soft", "right") == "B" and better("right", "harsh") == "A" and better("right", "right") == "no clear difference"
