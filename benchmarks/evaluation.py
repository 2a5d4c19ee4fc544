"""The cost of the metrics, without computing features: python benchmarks/evaluation.py

Times the exact Frechet distance and pytorch-fid's matrix root on 100 against 5,000 features, and precision and recall on 5,000
against 5,000, with their memory. The features are random; their spectrum falls like that of real features.
"""

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from clock import peak_bytes, seconds_of

from errors import run_as_command
from metrics import frechet, prdc
from metrics.pytorch_fid_bridge import library_distance


def features(count: int, dimension: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, dimension + 1) ** -0.7
    return torch.randn(count, dimension, generator=generator) * scale + 0.01 * seed


def main(words: list[str]) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(words)
    print(f"{torch.get_num_threads()} threads")
    real, fake = features(5000, 4096, 0), features(5000, 4096, 1)
    prdc.prdc(real[:50], fake[:50])  # warm up
    before = peak_bytes()
    seconds = seconds_of(lambda: prdc.prdc(real, fake))
    print(
        f"precision, recall, density, coverage of 5,000 x 5,000, 4096-d, float64: {seconds:.1f} s, "
        f"{(peak_bytes() - before) / 2**20:.0f} MB above the features"
    )

    real, fake = features(100, 2048, 0), features(5000, 2048, 1)
    frechet.frechet_distance(real, fake)
    distances: list[float] = []
    exact_seconds = seconds_of(lambda: distances.append(frechet.frechet_distance(real, fake)))
    root_seconds = seconds_of(lambda: distances.append(library_distance(real, fake)))
    exact, root = distances
    print(
        f"Frechet distance of 100 and 5,000, 2048-d: {exact_seconds:.2f} s, matrix root {root_seconds:.1f} s; "
        f"{exact:.6f} and {root:.6f}, {abs(exact - root):.1e} apart"
    )


if __name__ == "__main__":
    run_as_command(main)
