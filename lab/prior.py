"""Write a run's EMA in 16 bits, half as large as an export: python -m lab.prior runs/score-emoji-32 baselines/priors/emoji-32.pt

The file is an export: sample.py, evaluate.py and denoiser.prior read it. Rounding changes samples a little.
"""

import argparse
from pathlib import Path

from torch import Tensor

from errors import run_as_command
from methods import open_sampler


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m lab.prior", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="RUN_OR_CHECKPOINT", help="a run of score-sde, a checkpoint or an export")
    parser.add_argument("out", type=Path, metavar="FILE", help="the file to write")
    args = parser.parse_args(words)
    sampler = open_sampler(args.source)
    sampler.sampled["weights"] = {name: halved(tensor) for name, tensor in sampler.sampled["weights"].items()}
    sampler.export(args.out)
    print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB")


def halved(tensor: Tensor) -> Tensor:
    """Return a tensor in float16, if it has a fraction."""
    return tensor.half() if tensor.is_floating_point() else tensor


if __name__ == "__main__":
    run_as_command(main)
