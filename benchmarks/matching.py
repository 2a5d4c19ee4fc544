"""The cost of rejecting and matching against a matrix product: python benchmarks/matching.py [--sizes M ...] [--json]

Matches 100 targets of 800 dimensions to pools of M candidates, with a radius that rejects a tenth of them and with none, on one
thread and on two. The floor is `targets @ block.T` over the same pool, with its best block size. Floor and matcher take turns,
and the median of their times counts. On one thread the time is CPU time, which other work on the machine affects less. A column
of its own shows the matcher with candidates gathered from batches of `imle.pool_batch`, as in a refresh.

The memory is that of a whole refresh with cheap features, each in its own process.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))
from clock import CPU, by_turns, peak_bytes, seconds_of

from errors import run_as_command
from imle.refresh import Refresher
from imle.search import PoolMatcher, clearance
from imle.search.bounds import block_size
from imle.settings import Imle
from methods import from_dict

N, DIM = 100, 800
DISTINCT = 2**15  # candidates in memory, 105 MB; a larger pool repeats them
FLOOR_BLOCKS = (512, 1024, 2048, 4096, 8192)
MEMORY_SIZES = (10**4, 10**6)


def mixture(count: int, seed: int) -> Tensor:
    """Draw features like those of images: ten kinds, each a 32-dimensional cloud with a little noise."""
    shared, generator = torch.Generator().manual_seed(100), torch.Generator().manual_seed(seed)
    centres = torch.randn(10, DIM, generator=shared)
    ways = torch.randn(10, 32, DIM, generator=shared) / 32**0.5
    kinds = torch.randint(10, (count,), generator=generator)
    points = centres[kinds] + 0.3 * torch.randn(count, DIM, generator=generator)
    for kind, way in enumerate(ways):
        mine = kinds == kind
        points[mine] += 2 * torch.randn(int(mine.sum()), 32, generator=generator) @ way
    return points


def gaussian(count: int, seed: int) -> Tensor:
    """Draw features at almost equal distances, so many candidates are nearly as near as the nearest."""
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))


DATA = {"mixture": mixture, "gaussian": gaussian}


def rounds(pool: Tensor, size: int, batch: int) -> Iterator[Tensor]:
    """Yield `size` candidates in batches, repeating those of `pool`."""
    while size > 0:
        yield from pool[:size].split(batch)
        size -= len(pool)


def floor(targets: Tensor, pool: Tensor, size: int, block: int) -> None:
    for part in rounds(pool, size, block):
        targets @ part.T


def match(targets: Tensor, epsilon: float, blocks: Iterator[Tensor]) -> None:
    matcher = PoolMatcher(targets, epsilon)
    for block in blocks:
        matcher.offer(block)
    matcher.result()


def measure(sizes: list[int], threads: list[int], repeats: int) -> Iterator[dict]:
    """Yield one row of seconds per kind of data, number of threads, pool size and radius."""
    block = block_size(DIM, N)
    for data, draw in DATA.items():
        targets, pool = draw(N, 1), draw(DISTINCT, 2)
        radius = clearance(pool[:4096], targets).quantile(0.1).item()
        for count in threads:
            torch.set_num_threads(count)
            now = time.process_time if count == 1 else time.perf_counter
            best = min(
                FLOOR_BLOCKS, key=lambda size: min(seconds_of(lambda: floor(targets, pool, DISTINCT, size), now=now) for _ in range(3))
            )
            for size in sizes:
                for epsilon in (radius, 0.0):
                    works = {
                        "floor": lambda: floor(targets, pool, size, best),
                        "matcher": lambda: match(targets, epsilon, rounds(pool, size, block)),
                        "gathered": lambda: match(
                            targets, epsilon, (torch.cat(part.split(Imle().pool_batch)) for part in rounds(pool, size, block))
                        ),
                    }
                    turns = max(3, min(repeats, 5 * 10**5 // size))  # a small pool is fast and its time noisy
                    taken = by_turns({name: partial(seconds_of, work, now=now) for name, work in works.items()}, turns)
                    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
                    yield {
                        "data": data,
                        "threads": count,
                        "candidates": size,
                        "epsilon": epsilon,
                        "floor_block": best,
                        **middle,
                        "ratio": middle["matcher"] / middle["floor"],
                        "ratio_gathered": middle["gathered"] / middle["floor"],
                        "ratio_of_minima": min(taken["matcher"]) / min(taken["floor"]),
                    }


def refresh(size: int, n: int = N, device: torch.device = CPU) -> None:
    """Draw a pool of `size` candidates with cheap features, reject a tenth and match the rest to `n` targets."""
    config = from_dict({"imle": {"pool_factor": size / n}})
    weights = torch.randn(config.model.latent_dim, DIM, generator=torch.Generator().manual_seed(0)).to(device)
    refresher = Refresher(config, mixture(n, 1).to(device))
    matches = refresher.refresh(lambda latents: latents.to(device) @ weights, number=0)
    assert matches.diagnostics["pool_seen"] == size


def memory() -> dict[int, float]:
    """Return the peak memory in MB of a refresh of each size, each in its own process."""
    command = [sys.executable, __file__, "--refresh"]
    return {size: float(subprocess.run([*command, str(size)], check=True, capture_output=True, text=True).stdout) for size in MEMORY_SIZES}


def line(row: dict) -> str:
    return (
        f"{row['data']:<10}{row['threads']:>8}{row['candidates']:>12,}{row['epsilon']:>8.2f}{row['floor']:>10.4f}"
        f"{row['matcher']:>11.4f}{row['ratio']:>7.2f}{row['ratio_of_minima']:>11.2f}{row['ratio_gathered']:>16.2f}"
    )


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10**4, 10**5, 10**6], metavar="M")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="T")
    parser.add_argument("--repeats", type=int, default=15, help="largest number of turns of floor and matcher (15)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--refresh", type=int, help="only refresh a pool of this size and print the peak memory in MB")
    args = parser.parse_args(words)
    if args.refresh:
        torch.set_num_threads(1)
        refresh(args.refresh)
        print(peak_bytes() / 2**20)
        return
    peaks = memory()  # before drawing a pool: on Linux a new process inherits the peak of its parent
    if args.json:
        print(json.dumps({"rows": list(measure(args.sizes, args.threads, args.repeats)), "peak_mb": peaks}))
        return
    for size, peak in peaks.items():
        print(f"peak memory of a refresh of {size:,}: {peak:.0f} MB")
    print(
        f"{'data':<10}{'threads':>8}{'candidates':>12}{'radius':>8}{'floor s':>10}{'matcher s':>11}{'ratio':>7}"
        f"{'of minima':>11}{'with gathering':>16}"
    )
    for row in measure(args.sizes, args.threads, args.repeats):
        print(line(row), flush=True)


if __name__ == "__main__":
    run_as_command(main)
