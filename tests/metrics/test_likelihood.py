"""Bits per dimension as rows of the report, and priors among the conditions of a comparison."""

import json

import pytest
import torch

from errors import UserError
from metrics.cache import Cache
from metrics.compare import compare
from metrics.evaluation import Evaluator
from metrics.images import Images
from metrics.interface import Likelihood, Reals
from metrics.likelihood import MOST
from metrics.measure import PROTOCOLS

EFFNET = PROTOCOLS["default", "effnet-lite0"]


def evaluated(folder, likelihood, heldout: int):
    """Return the numbers of 20 images whose first byte is their number, and of `heldout` images that count from 100."""
    images = torch.zeros(20 + heldout, 3, 16, 16, dtype=torch.uint8)
    images[:20, 0, 0, 0], images[20:, 0, 0, 0] = torch.arange(20), 100 + torch.arange(heldout)
    wrapped = Images.of_tensor("images", images[:20])
    evaluator = Evaluator(EFFNET, ["likelihood"], device="cpu", cache=Cache(folder), num_backtracked=1)
    return evaluator([wrapped], Reals(images[:20], images[20:], wrapped, None, None), "none", likelihood=likelihood).measured


class Counting:
    """The first byte of an image as its bits."""

    def __init__(self):
        self.calls = 0

    def __call__(self, images):
        self.calls += 1
        return images[:, 0, 0, 0].double()


def test_bits_are_means_over_images_evenly_spread_and_kept(tmp_path):
    bits = Counting()
    found = evaluated(tmp_path, Likelihood(bits, {"checkpoint": "a"}), heldout=3)
    chosen = torch.tensor([place * 20 // MOST for place in range(MOST)]).double()
    train, heldout = found["bits_per_dim_train"], found["bits_per_dim_heldout"]
    assert train.value == pytest.approx(chosen.mean().item()) and train.error == pytest.approx(chosen.std().item() / MOST**0.5)
    assert train.num_fake == MOST and heldout.value == 101 and heldout.num_fake == 3 and heldout.better == "lower"
    calls = bits.calls
    assert evaluated(tmp_path, Likelihood(bits, {"checkpoint": "a"}), heldout=3) == found and bits.calls == calls
    evaluated(tmp_path, Likelihood(bits, {"checkpoint": "b"}), heldout=3)
    assert bits.calls == 2 * calls


def test_rows_are_left_out_without_a_likelihood_or_held_out_images(tmp_path):
    assert evaluated(tmp_path, None, heldout=3) == {}
    assert evaluated(tmp_path, Likelihood(Counting(), {}), heldout=0).keys() == {"bits_per_dim_train"}


@pytest.mark.parametrize(
    "a, b, compared",
    [
        ("none", "none", True),
        ("none", "emoji 12", False),
        ("emoji 12", "emoji 13", False),
        ("emoji 12", "emoji 12", True),
        (None, "emoji 12", True),  # a folder of images, whose model is unknown
        ("absent", "none", True),  # an evaluation from before there were priors
        ("absent", "emoji 12", False),
    ],
)
def test_evaluations_across_priors_are_not_compared(a, b, compared, tmp_path):
    for name, prior in (("a", a), ("b", b)):
        conditions = {"num_samples": 3} | ({} if prior == "absent" else {"prior": prior})
        document = {"schema": "rs-imle.evaluation.2", "conditions": conditions, "metrics": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    if compared:
        assert "uncertainty" in compare(tmp_path / "a.json", tmp_path / "b.json")
    else:
        with pytest.raises(UserError, match="cannot be compared: prior "):
            compare(tmp_path / "a.json", tmp_path / "b.json")
