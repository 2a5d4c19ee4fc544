"""What a quick look at the scores costs on this machine, told before there is anything to score."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from metrics.cache import Cache
from metrics.evaluation import Evaluator
from metrics.features import FeaturePass
from metrics.images import MICRO_BATCH, Images
from metrics.interface import Context, Decoder, Reals
from metrics.measure import CPU_SAMPLES, OFFLINE_JUDGES, QUICK, protocol_of
from metrics.neighbours import NeighbourPass
from models.perceptual import load_embedding

STARTS = 20.0  # seconds in which sample.py and evaluate.py start, draw a sheet and write the page
BESIDE = 1.5  # all of the work over the networks' part: samples are drawn too, and features compared
ON_GPU = 90.0  # seconds for the whole evaluation there; a guess


def seconds(count: int, side: Sequence[int], device: torch.device) -> float:
    """Return the seconds of `sample.py` for a sheet and of `evaluate.py` for QUICK metrics of CPU_SAMPLES samples, roughly.

    The run has `count` training images of `side` (height, width). Raises MissingWeights.
    """
    if device.type != "cpu":
        return ON_GPU
    protocol, metrics = protocol_of("default", OFFLINE_JUDGES[0], QUICK, False)
    evaluator = Evaluator(protocol, metrics, device="cpu", cache=Cache(Path()), num_backtracked=0)
    reals = torch.zeros(count, 3, 1, 1, dtype=torch.uint8)
    context = Context(
        Images.of_seeds("samples", range(CPU_SAMPLES), {}, lambda seeds: []),
        Reals(reals, reals[:0], Images.of_tensor("reals", reals), None, None),
        Decoder(nn.Identity(), 1, device, {}),
        protocol.perceptual,
        num_backtracked=0,
        device="cpu",
        cache=evaluator.cache,
    )
    images = torch.zeros(MICRO_BATCH["cpu"], 3, *side, dtype=torch.uint8)
    passes = [FeaturePass(name, "cpu") for name in evaluator.networks]
    passes.append(NeighbourPass(load_embedding(protocol.perceptual), "cpu", images[:2], 2))
    pace = sum(_seconds(each, images) for each in passes) / len(passes) / len(images)
    return STARTS + BESIDE * evaluator.work([context.samples], context) * pace


def _seconds(each: FeaturePass | NeighbourPass, images: Tensor) -> float:
    """Return the seconds of a pass over images, after a first one that does not count."""
    each.add(images)
    started = time.perf_counter()
    each.add(images)
    return time.perf_counter() - started
