"""What an evaluation will cost is foretold from the work that it then does."""

import pytest
import torch
from torch import nn

from metrics import cost, evaluation
from metrics.cache import Cache
from metrics.images import Images
from metrics.interface import Decoder, Reals
from metrics.measure import CPU_SAMPLES, OFFLINE_JUDGES, PUBLISHED_SAMPLES, QUICK, SLOW_SAMPLES, protocol_of, usual_samples

CPU = torch.device("cpu")


def test_the_foretold_work_is_what_a_quick_evaluation_does(monkeypatch, tmp_path):
    """With a second for each image in each network, the foretold seconds are the passes that the progress bar counts."""
    monkeypatch.setattr(cost, "CPU_SAMPLES", 6)
    monkeypatch.setattr(cost, "_seconds", lambda each, images: float(len(images)))
    done = []

    class Counting(evaluation.Progress):
        def advance(self, passes: int) -> None:
            done.append(passes)
            super().advance(passes)

    monkeypatch.setattr(evaluation, "Progress", Counting)
    images = torch.randint(256, (10, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    real, fake = Images.of_tensor("real", images[:4]), Images.of_tensor("fake", images[4:])
    generator = nn.Sequential(nn.Linear(2, 3 * 32 * 32), nn.Unflatten(1, (3, 32, 32)))
    protocol, metrics = protocol_of("default", OFFLINE_JUDGES[0], QUICK, False)
    evaluator = evaluation.Evaluator(protocol, metrics, device="cpu", cache=Cache(tmp_path), num_backtracked=0)
    evaluator([fake], Reals(images[:4], images[:0], real, None, None), Decoder(generator, 2, CPU, {}))
    assert cost.seconds(4, (32, 32), CPU) == cost.STARTS + cost.BESIDE * sum(done) and sum(done) > 6 * 3


def test_every_network_is_timed_on_a_batch_after_a_first_one(monkeypatch):
    """By a clock that goes on by a second for every batch, a pass over one image takes a sixteenth of a second."""
    batches = []
    for kind in (cost.FeaturePass, cost.NeighbourPass):
        add = kind.add
        monkeypatch.setattr(kind, "add", lambda self, images, add=add: batches.append((self, add(self, images))))
    monkeypatch.setattr(cost.time, "perf_counter", lambda: float(len(batches)))
    found = cost.seconds(4, (32, 32), CPU)
    timed = [each for each, _ in batches]
    assert timed[::2] == timed[1::2] and len({*timed}) == len(timed) // 2 and isinstance(timed[-1], cost.NeighbourPass)
    monkeypatch.setattr(cost, "_seconds", lambda each, images: float(len(images)))  # sixteen times as long
    assert cost.seconds(4, (32, 32), CPU) - cost.STARTS == pytest.approx(16 * (found - cost.STARTS))


@pytest.mark.parametrize(
    "device, protocol, metrics, slow, expected",
    [
        ("cpu", "default", QUICK, False, CPU_SAMPLES),
        ("cpu", "default", QUICK, True, SLOW_SAMPLES),
        ("cpu", "default", None, True, CPU_SAMPLES),
        ("cpu", "paper", QUICK, True, PUBLISHED_SAMPLES),
        ("cuda:1", "default", QUICK, True, PUBLISHED_SAMPLES),
    ],
)
def test_a_cpu_scores_fewer_samples_and_still_fewer_at_a_quick_look_at_a_slow_model(device, protocol, metrics, slow, expected):
    assert usual_samples(device, protocol, metrics, slow=slow) == expected
    assert SLOW_SAMPLES < CPU_SAMPLES < PUBLISHED_SAMPLES
