"""The table of toy truths: for generators whose nature is known, every number and every sentence says the right thing."""

import pytest
import torch

from metrics.calibration import Altered, Calibration, calibrate
from metrics.interface import Measurement, Sets
from metrics.measure import PROTOCOLS, measure
from metrics.verdict import verdict

EFFNET = PROTOCOLS["default", "effnet-lite0"]
METRICS = ["fid", "fid_heldout", "kid", "pr", "copying"]
N, HELDOUT, M, D = 100, 60, 400, 12


def real_world(count, seed, num_kinds=100):
    """Draw images of the first so many of a hundred kinds, no kind like another, as features (count, D)."""
    kinds = torch.randn(100, D, generator=torch.Generator().manual_seed(7)) * 4.0
    generator = torch.Generator().manual_seed(seed)
    return kinds[torch.randint(num_kinds, (count,), generator=generator)] + torch.randn(count, D, generator=generator)


def seen(images, texture=0.0):
    """Return what a network and what a thumbnail shows of images (count, D): a texture changes the former alone."""
    small = torch.nn.functional.interpolate(128 + images.view(-1, 3, 2, 2), size=16)
    return {"effnet-lite0": images + texture, "thumbnail": small.flatten(1)}


REAL, HELD = real_world(N, 0), real_world(HELDOUT, 1)


def noise(count, seed, scale):
    return scale * torch.randn(count, D, generator=torch.Generator().manual_seed(seed))


def draws(images, seed):
    return images[torch.randint(len(images), (M,), generator=torch.Generator().manual_seed(seed))]


WAYS = torch.arange(N) % 4
TEXTURED = 8.0
COPIES = seen(REAL + noise(N, 5, 0.1))
COPIES["effnet-lite0"] = COPIES["effnet-lite0"] + TEXTURED * (WAYS == 0)[:, None]
ALTERED = Altered(COPIES, WAYS, {"blurred": seen(REAL + 8)}, {})
FAKES = {
    "copier": draws(REAL, 2),
    "copier with noise": draws(REAL, 2) + noise(M, 3, 0.1),
    "copier with texture": draws(REAL, 2) + noise(M, 3, 0.1),
    "collapse to 10 of 100 images": draws(REAL[:10], 2) + noise(M, 3, 0.1),
    "collapse to 10 of 100 kinds": real_world(M, 3, num_kinds=10),
    "fresh": real_world(M, 4),
    "elsewhere": real_world(M, 4) + 8,
}


@pytest.fixture(scope="module", params=["with held-out images", "without"])
def table(request):
    """Return name -> (numbers, calibration, tones and texts)."""
    answers = {}
    for name, fake in FAKES.items():
        heldout = seen(HELD) if request.param != "without" else None
        sets = Sets(seen(REAL), seen(fake, TEXTURED if "texture" in name else 0.0), heldout)
        measured, calibration = measure(sets, EFFNET, METRICS), calibrate(sets, EFFNET, METRICS, ALTERED)
        answers[name] = measured, calibration, verdict(measured, calibration)
    return answers


def value(table, name, metric):
    return table[name][0][f"{metric}_effnetlite0"].value


def says(table, name, words):
    """Return the tones of the sentences that hold these words."""
    return {tone for tone, text in table[name][2] if words in text}


COPIERS = ["copier", "copier with noise", "collapse to 10 of 100 images"]


def test_a_texture_does_not_hide_copies(table):
    """In the network's features they lie as far off as new images, and farther: C_T alone would have cleared them."""
    assert value(table, "copier with texture", "copy_rate") == 0
    assert says(table, "copier with texture", "opying") == {"bad"} and says(table, "copier with texture", "as thumbnails") == {"bad"}
    assert not says(table, "copier with texture", "No more near copies") and not says(table, "copier with texture", "No closer")
    if (test := value(table, "copier with texture", "c_t")) is not None:
        assert test > 3


@pytest.mark.parametrize("name", COPIERS)
def test_copiers_are_suspected_by_every_witness(table, name):
    assert value(table, name, "copy_rate") > 0.99 and value(table, name, "authpct") < 0.01
    assert says(table, name, "opying") == {"bad"}  # and no sentence clears them
    assert not says(table, name, "No more near copies") and not says(table, name, "No closer")
    if (test := value(table, name, "c_t")) is not None:
        assert test < -10 and says(table, name, "Closer to the training images than new real images are: suspect copying") == {"bad"}
    if name != "collapse to 10 of 100 images":
        assert value(table, name, "kd") < 0 and says(table, name, "below zero") == {"bad"}


@pytest.mark.parametrize("name", ["fresh", "elsewhere", "collapse to 10 of 100 kinds"])
def test_nobody_else_is(table, name):
    assert value(table, name, "copy_rate") < 0.1
    assert not says(table, name, "uspect copying") and says(table, name, "No more near copies") == {"good"}
    assert not says(table, name, "No closer to the training images")  # C_T misses the copies with texture


@pytest.mark.parametrize("what, cleared", [("as they are", True), ("with texture", False), (None, False)])
def test_c_t_and_the_copy_rate_clear_nobody_where_they_would_miss_changed_copies(what, cleared):
    copies = seen(REAL + noise(N, 5, 0.1), TEXTURED if what == "with texture" else 0.0)
    if what == "with texture":  # one that a thumbnail shows, too
        copies["thumbnail"] = copies["thumbnail"] + 40 * (WAYS == 0)[:, None] * (torch.arange(768) % 2)
        copies["thumbnail"][WAYS == 0] = seen(real_world(N, 9))["thumbnail"][WAYS == 0]
    sets = Sets(seen(REAL), seen(FAKES["fresh"]), seen(HELD))
    sentences = verdict(measure(sets, EFFNET, METRICS), calibrate(sets, EFFNET, METRICS, what and Altered(copies, WAYS, {}, {})))
    assert any("No more near copies" in text for _, text in sentences) == cleared
    assert any("No closer" in text for _, text in sentences) == cleared
    assert {tone for tone, text in sentences if "Cannot tell whether it copies" in text} == (set() if cleared else {"mixed"})


@pytest.mark.parametrize(
    "value, of_copies, tones", [(1.0, -9.0, ["good"]), (8.0, -9.0, []), (1.0, 0.0, []), (1.0, None, []), (-5.0, 0.0, ["bad"])]
)
def test_c_t_clears_within_chance_alone_and_only_where_it_would_be_far_below_zero_for_copies(value, of_copies, tones):
    ways = {f"changed_copy, {way}": Calibration("", 100, 25, {"c_t": of_copies if way == "JPEG" else -9.0}) for way in ("JPEG", "blur")}
    assert [tone for tone, text in verdict({"c_t": number(value)}, ways) if "C_T" in text] == tones


@pytest.mark.parametrize("name, tones", [("fresh", {"mixed"}), ("elsewhere", {"bad"})])
def test_nothing_looks_real_where_spoilt_images_would(name, tones):
    spoilt = {"blurred": seen(real_world(N, 11)), "reduced": seen(REAL + 8)}
    sets = Sets(seen(REAL), seen(FAKES[name]))
    sentences = verdict(measure(sets, EFFNET, METRICS), calibrate(sets, EFFNET, METRICS, Altered(None, WAYS, spoilt, {})))
    told = [(tone, text) for tone, text in sentences if "look real" in text]
    assert {tone for tone, _ in told} == tones and ("but so do" in told[0][1]) == (name == "fresh") and "reduced" not in told[0][1]


@pytest.mark.parametrize("count, few", [(1, True), (19, True), (20, False)])
def test_few_samples_clear_nobody(count, few):
    for fake, bad in ((FAKES["fresh"], False), (FAKES["copier"], count > 1)):  # no share of one sample is clear
        sets = Sets(seen(REAL), seen(fake[:count]), seen(HELD))
        sentences = verdict(measure(sets, EFFNET, METRICS), calibrate(sets, EFFNET, METRICS, ALTERED))
        assert any(f"{count} samples are too few" in text for _, text in sentences) == few
        assert not few or "good" not in {tone for tone, _ in sentences}
        assert any("uspect copying" in text for _, text in sentences) == bad


def test_held_out_images_that_are_copies_excuse_nobody():
    """Their own copy rate would pass for that of new images."""
    sets = Sets(seen(REAL), seen(FAKES["copier with noise"], TEXTURED), seen(REAL[:60] + noise(60, 8, 0.1), TEXTURED))
    sentences = verdict(measure(sets, EFFNET, METRICS), calibrate(sets, EFFNET, METRICS, ALTERED))
    assert any("as thumbnails" in text for tone, text in sentences if tone == "bad")
    assert "good" not in {tone for tone, text in sentences if "cop" in text}


def test_fresh_samples_of_the_truth_are_told_nothing_bad(table):
    assert {sentence.tone for sentence in table["fresh"][2]} <= {"good", "mixed"}
    assert says(table, "fresh", "No kind of image is missing") == says(table, "fresh", "look real") == {"good"}
    assert 0.4 < value(table, "fresh", "authpct") < 0.8
    assert abs(table["fresh"][0]["kd_effnetlite0"].value) < 3 * table["fresh"][0]["kd_effnetlite0"].error


@pytest.mark.parametrize("name", ["collapse to 10 of 100 images", "collapse to 10 of 100 kinds"])
def test_a_collapse_is_missed_variety_and_not_missed_realism(table, name):
    assert says(table, name, "Kinds of image are missing") == {"bad"}
    assert says(table, name, "vary less than real images do") & {"bad", "mixed"}
    assert value(table, name, "reached") < 0.8 * value(table, "fresh", "reached")
    assert value(table, name, "fd") > 1.5 * value(table, "fresh", "fd")
    assert "bad" not in says(table, name, "look real")


@pytest.mark.parametrize("name", ["copier", "copier with noise", "fresh"])
def test_nothing_is_missing_where_all_images_are_reached(table, name):
    assert says(table, name, "No kind of image is missing") == {"good"} and not says(table, name, "re missing")
    assert not says(table, name, "vary less")


def test_what_lies_elsewhere_does_not_look_real(table):
    assert value(table, "elsewhere", "precision") < 0.05 and says(table, "elsewhere", "do not look real") == {"bad"}
    assert not says(table, "elsewhere", "issing")
    if table["elsewhere"][1]["held_out"]:
        assert says(table, "elsewhere", "times as far from the training images") == {"bad"}


def test_frechet_alone_would_have_praised_the_copier(table):
    """This is why it is never printed alone: a copier scores below fresh images, and the verdict says so."""
    assert value(table, "copier", "fd") < 0.5 * value(table, "fresh", "fd")


@pytest.mark.parametrize("fresh, told", [(1e-14, "over 100 times"), (0.0, "over 100 times"), (2.0, "5.0 times")])
def test_a_distance_of_next_to_nothing_is_no_unit(fresh, told):
    sentences = verdict(
        {"fid": number(9.0)},
        {kind: Calibration("", 100, 20, {"fid": value}, {"fid": 0.1}) for kind, value in (("as_many", 10.0), ("held_out", fresh))},
    )
    assert [told in text for _, text in sentences] == [True]


@pytest.mark.parametrize("ours, told", [(10.0, {"bad"}), (18.0, set()), (50.0, {"bad"})], ids=["far nearer", "nearer by chance", "far"])
def test_frechet_is_held_beside_new_images_in_equal_numbers(ours, told):
    def of(value, deviation=None):
        return Calibration("", 100, 20, {"fid": value}, {"fid": deviation})

    sentences = verdict({"fid": number(5.0, 0.1)}, {"as_many": of(ours, 2.0), "held_out": of(20.0)})
    assert {tone for tone, _ in sentences} == told
    assert not told or ("uspect copying" in sentences[0].text) == (ours < 20)


@pytest.mark.parametrize("seed", range(10))
def test_fresh_samples_are_cleared_whatever_the_draw(seed):
    real, fake, held = (real_world(count, 100 * seed + k) for k, count in ((10, N), (20, M), (30, HELDOUT)))
    sets = Sets(seen(real), seen(fake), seen(held))
    measured = measure(sets, EFFNET, METRICS)
    assert "bad" not in {sentence.tone for sentence in verdict(measured, calibrate(sets, EFFNET, METRICS, ALTERED))}


def number(value, error=None, interval=None, num_fake=300):
    return Measurement(value, "lower", 100, num_fake, error=error, interval=interval)


def test_reconstruction_is_told_in_words():
    measured = {
        "backtrack_heldout": number(0.5, 0.1),
        "backtrack_train": number(0.1, 0.02),
        "backtrack_gap": number(0.4, 0.1),
        "beyond_copying": number(0.8, interval=(0.49, 0.94), num_fake=10),
    }
    texts = dict(verdict(measured, {}))
    assert "0.10 for training images, 0.50 for new ones" in texts["mixed"]
    assert "80% of 10 held-out images" in texts["good"]
    measured |= {"beyond_copying": number(0.0, interval=(0.0, 0.28), num_fake=10), "backtrack_gap": number(0.1, 0.1)}
    (sentence,) = verdict(measured, {})
    assert sentence.tone == "mixed" and "hardly makes images that it never saw" in sentence.text


def test_nothing_is_said_without_numbers():
    assert verdict({}, {}) == []
    none = {
        name: Measurement(None, "lower", 1, 300, reason="too few")
        for name in ("fid", "kid", "precision", "coverage", "copy_rate", "c_t", "backtrack_gap", "beyond_copying")
    }
    empty = Calibration("", 1, 1, dict.fromkeys([*none, "reached"]), dict.fromkeys([*none, "reached"]))
    assert verdict(none, {"copy": empty, "split_half": empty, "as_halves": empty, "held_out": None, "as_many": None}) == []
