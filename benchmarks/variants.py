"""What a step of another function would cost: python benchmarks/variants.py [--threads N] [--rounds N] [section.key=value ...]

Takes steps of configs/fluent-faces-64.yaml and of variants of it in turn, and prints the time of each for one image, relative to
the recipe's: the ratio of the medians and that of the minima. The variants compute another function, and whether their images are
as good is not judged here. They are built by patches in this file; the code has no options for them. On one CPU thread times are
processor time, otherwise wall time.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from clock import add_options, by_turns, seconds_of, steady

import methods
from data import load_images
from errors import run_as_command
from models import generator
from models.perceptual import EffNetLite
from training.device import choose_device
from training.settings import to_dict
from training.transform import transform


class OneConvolution(generator.Block):
    """A block with one 3x3 convolution in place of two."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        first, second, _, last = self.convs
        self.convs = nn.ModuleList([first, second, last])

    def halves(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(self.resize(x), w)
        first, second, _ = self.convs
        return x, F.gelu(second(self.grown(F.gelu(first(F.gelu(x))))))


RECIPE = "the recipe"
VARIANTS: dict[str, tuple[list[str], AbstractContextManager]] = {  # settings, and a patch for building and running
    RECIPE: ([], nullcontext()),
    "leaky ReLU of slope 0.2 for GELU": ([], patch.object(F, "gelu", partial(F.leaky_relu, negative_slope=0.2))),
    "SiLU for GELU": ([], patch.object(F, "gelu", F.silu)),
    "batches of 20": (["train.batch_size=20"], nullcontext()),
    "data.channels=rgba": (["data.channels=rgba"], nullcontext()),
    "channels 128-128-128-64-64": (["model.channels=[128,128,128,64,64]"], nullcontext()),
    "one 3x3 convolution in a block": ([], patch.object(generator, "Block", OneConvolution)),
    "loss without the map of 1/16": ([], patch.object(EffNetLite, "STAGES", (0, 1, 2))),
    "loss without the maps of 1/8 and 1/16": ([], patch.object(EffNetLite, "STAGES", (0, 1))),
    "loss without the map of 1/2": ([], patch.object(EffNetLite, "STAGES", (1, 2, 4))),
}


def stepper(name: str, settings: list[str], device: torch.device) -> tuple[Callable[[], object], int]:
    """Return a function that takes a step of a variant, and the number of images in the step."""
    changes, patched = VARIANTS[name]
    config = methods.load_config(ROOT / "configs" / "fluent-faces-64.yaml", [*settings, *changes])
    images = load_images(config.data.path, **transform(to_dict(config))).images
    with patched:
        method = methods.make(config, images, device=device)
    method.latents.normal_()
    index = torch.arange(min(config.train.batch_size, len(images)), device=device)

    def step() -> None:
        with patched:
            method.pull(index, 0)

    return step, len(index)


def measure(settings: list[str], device: torch.device, rounds: int) -> dict[str, dict[str, float]]:
    """Return each variant's milliseconds and GFLOP for an image, and its ratios to the recipe."""
    steps = {name: stepper(name, settings, device) for name in VARIANTS}
    flops = {}
    for name, (step, images) in steps.items():
        with FlopCounterMode(display=False) as counter:  # and warms up
            step()
        flops[name] = counter.get_total_flops() / images
    taken = by_turns({name: partial(seconds_of, step, device, steady(device)) for name, (step, _) in steps.items()}, rounds)
    found = {name: [seconds / steps[name][1] for seconds in of_step] for name, of_step in taken.items()}
    base = found[RECIPE]
    return {
        name: {
            "ms": 1e3 * statistics.median(times),
            "ratio of medians": statistics.median(times) / statistics.median(base),
            "ratio of minima": min(times) / min(base),
            "ratio of FLOPs": flops[name] / flops[RECIPE],
        }
        for name, times in found.items()
    }


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="steps of each variant (60)")
    add_options(parser)
    args = parser.parse_intermixed_args(words)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = [f"data.path={ROOT / 'data' / 'fluent_faces'}", *args.settings, "train.cuda_graph=false"]  # a graph hides its FLOPs
    found = measure(settings, choose_device(args.device), args.rounds)
    if args.json:
        print(json.dumps(found))
        return
    print("| variant | ms an image | ratio of medians | ratio of minima | ratio of FLOPs |\n|---|---|---|---|---|")
    for name, numbers in found.items():
        print(f"| {name} | {numbers['ms']:.2f} | " + " | ".join(f"{value:.2f}" for value in list(numbers.values())[1:]) + " |")


if __name__ == "__main__":
    run_as_command(main)
