"""Where the time of a training goes: python benchmarks/training.py [--config FILE] [--refreshes N] [section.key=value ...]

Runs whole refresh periods of a recipe, each a refresh and the steps that follow it, with the sheets, scores, checkpoints
and log that belong to them, and prints how long every part took by itself, beside its floor: its multiplications at
the rate of this machine's matrix product, or its bytes at the rate of a copy, both measured. Nothing is kept. It trains on
the set that comes with the project, unless a data.path is given.

--against-revision REV or --against-config FILE compares with another state of the code or another recipe, the two
taking turns in processes of their own, so that a noisy machine is noisy to both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from errors import run_as_command  # noqa: E402

NETWORKS = ("generator", "perceptual")  # what the rest is overhead to


class Clock:
    """Seconds spent in each part, without the parts inside it."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.calls = device, {}, {}
        self._open: list[list] = []  # [name, when it began, seconds of parts inside]

    @contextmanager
    def part(self, name: str):
        self._open.append([name, self._now(), 0.0])
        try:
            yield
        finally:
            name, begun, inside = self._open.pop()
            self._add(name, begun, inside)

    def split(self, name: str, into: str) -> None:
        """Count what the innermost open part has taken so far to `name`, and go on with it as `into`."""
        _, begun, inside = self._open[-1]
        self._add(name, begun, inside, depth=1)
        self._open[-1] = [into, self._now(), 0.0]

    def _add(self, name: str, begun: float, inside: float, depth: int = 0) -> None:
        whole = self._now() - begun
        self.seconds[name] = self.seconds.get(name, 0.0) + whole - inside
        self.calls[name] = self.calls.get(name, 0) + 1
        if len(self._open) > depth:
            self._open[-1 - depth][2] += whole

    def watch(self, owner: object, method: str, name: str, after=lambda value: None) -> None:
        """Count what `owner.method` takes to the part `name`, told apart by step, pool and sheets if it ends in `of`."""
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            with self.part(f"{name} {self.where()}" if name.endswith(" of") else name):
                value = original(*args, **kwargs)
            after(value)
            return value

        setattr(owner, method, timed)

    def where(self) -> str:
        open_parts = {name for name, _, _ in self._open}
        return next((place for part, place in PLACES.items() if part in open_parts), "sheets")

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


PLACES = {"rest of the step": "the step", "reject, match, latents": "the pool"}


def measure(config, device: torch.device, refreshes: int) -> dict:
    """Return seconds, calls and floors by part, of so many refresh periods after one step that warms up."""
    from data import load_images
    import methods
    from training.settings import resolution
    from training.runlog import RunLog
    from training.trainer import Trainer

    dataset = load_images(config.data.path, resolution=resolution(config), fit=config.data.fit,
                          background=config.data.background)  # fmt: skip
    trainer = Trainer(config, dataset.images, data={}, device=device)
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder))
        trainer.log = log
        trainer.rematch()
        trainer.train_step()
        work = work_of(trainer)
        trainer.step = 0
        stop_at = refreshes * config.imle.refresh_epochs * trainer.steps_per_epoch
        clock = Clock(device)
        watch(clock, trainer, log)
        with clock.part("rest"):
            trainer.run(log, should_stop=lambda: trainer.step >= stop_at)
        log.close()
    gemm, copy = gemm_rate(device), copy_rate(device)
    floors = {part: calls * (flops / gemm + moved / copy) for part, calls in clock.calls.items()
              for flops, moved in [work.get(part, (0, 0))]}  # fmt: skip
    return {"steps": trainer.step, "images": trainer.step * min(config.train.batch_size, trainer.n), "seconds": clock.seconds,
            "calls": clock.calls, "floors": floors, "gemm_rate": gemm, "copy_rate": copy, "threads": torch.get_num_threads(),
            "peak_bytes": peak_bytes(device)}  # fmt: skip


def watch(clock: Clock, trainer, log) -> None:
    """Let the clock count what the trainer calls."""

    def split_backward(drawn):
        images = drawn[-1] if isinstance(drawn, list) else drawn
        if images.requires_grad:  # the gradient reaches the images when the perceptual network is done
            images.register_hook(lambda _: clock.split("perceptual backward", "generator backward"))

    for owner, method, name in (
            (trainer.ema.module, "forward", "generator forward of"), (trainer.embedding, "forward", "perceptual forward of"),
            (torch.Tensor, "backward", "backward"), (trainer.search_features, "forward", "feature projection"),
            (trainer.optimizer, "step", "optimiser"), (trainer.ema, "update", "EMA"),
            (trainer.refresher, "refresh", "reject, match, latents"), (trainer, "draw_and_score", "sheets and score"),
            (trainer, "save", "checkpoint"), (log, "row", "log"), (trainer, "train_step", "rest of the step")):  # fmt: skip
        clock.watch(owner, method, name)
    for network in {trainer.generator, trainer.network}:  # two where there are heads, and then neither runs the other's forward
        clock.watch(network, "forward", "generator forward of", after=split_backward)


def work_of(trainer) -> dict[str, tuple[float, float]]:
    """Return (floating-point operations, bytes moved) of one call of each part whose work can be counted."""
    images, pool, n = trainer.config.train.batch_size, trainer.config.imle.pool_batch, trainer.n
    z = trainer.latents[:1]
    with FlopCounterMode(display=False) as of_generator:
        image = trainer.ema.module(z)
    with FlopCounterMode(display=False) as of_perceptual:
        trainer.embedding(image)
    generator, perceptual = of_generator.get_total_flops(), of_perceptual.get_total_flops()
    weights = 4 * sum(p.numel() for p in trainer.generator.parameters())
    dimension = trainer.targets.features.shape[1]
    chunks = -(-trainer.refresher.pool_size // pool)
    mean_chunk = trainer.refresher.pool_size / chunks
    return {
        "generator forward of the step": (generator * images, 0), "perceptual forward of the step": (perceptual * images, 0),
        "generator backward": (2 * generator * images, 0), "perceptual backward": (perceptual * images, 0),
        "generator forward of the pool": (generator * mean_chunk, 0),
        "perceptual forward of the pool": (perceptual * mean_chunk, 0),
        "feature projection": (0, 8 * mean_chunk * dimension),                              # read and written once
        "reject, match, latents": (2 * n * dimension * trainer.refresher.pool_size, 0),     # all distances
        "optimiser": (0, 7 * weights), "EMA": (0, 3 * weights),                             # AdamW: p, g, m, v; p, m, v
        "checkpoint": (0, 2 * 4 * weights),
    }  # fmt: skip


def gemm_rate(device: torch.device, side: int = 1024) -> float:
    """Return the float32 operations per second of a matrix product."""
    a, b = torch.randn(2, side, side, device=device)
    return 2 * side**3 / best_of(lambda: a @ b, device)


def copy_rate(device: torch.device, elements: int = 2**24) -> float:
    """Return the bytes per second, read and written, of a copy."""
    source = torch.zeros(elements, device=device)
    target = torch.empty_like(source)
    return 8 * elements / best_of(lambda: target.copy_(source), device)


def best_of(work, device: torch.device, times: int = 20) -> float:
    """Return the seconds of the fastest of some calls."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def peak_bytes(device: torch.device) -> int:
    """Return the most memory held so far: on the GPU, or of the process where there is none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def summary(found: dict) -> dict[str, float]:
    """Return what two runs are compared by."""
    whole = sum(found["seconds"].values())
    networks = sum(seconds for part, seconds in found["seconds"].items() if part.startswith(NETWORKS))
    return {"steps per second": found["steps"] / whole, "images per second": found["images"] / whole,
            "milliseconds a step, all included": 1000 * whole / found["steps"], "share of the networks": networks / whole,
            "peak memory, GB": found["peak_bytes"] / 1e9}  # fmt: skip


def table(found: dict) -> str:
    """Return the parts, the slowest first, and the summary."""
    whole = sum(found["seconds"].values())
    lines = [f"{found['threads']} threads, matrix product {found['gemm_rate'] / 1e9:.0f} GFLOP/s, copy {found['copy_rate'] / 1e9:.1f} GB/s",
             f"{'part':<32}{'seconds':>9}{'share':>8}{'calls':>8}{'ms a call':>11}{'floor, s':>10}{'x floor':>9}"]
    for part, seconds in sorted(found["seconds"].items(), key=lambda item: -item[1]):
        calls, floor = found["calls"][part], found["floors"][part]
        against = f"{floor:>10.3f}{seconds / floor:>9.1f}" if floor else f"{'-':>10}{'-':>9}"
        lines.append(f"{part:<32}{seconds:>9.2f}{seconds / whole:>8.1%}{calls:>8}{1000 * seconds / calls:>11.2f}{against}")
    return "\n".join([*lines, f"{found['steps']} steps in {whole:.1f} s",
                      *(f"{name}: {value:.3g}" for name, value in summary(found).items())])  # fmt: skip


def compare(sides: dict[str, list[str]], rounds: int) -> dict[str, list[dict]]:
    """Run this benchmark's command once for each side in turn, `rounds` times; the first is the base of the ratios."""
    found: dict[str, list[dict]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, words in sides.items():
            answer = subprocess.run([sys.executable, __file__, "--json", *words], check=True, stdout=subprocess.PIPE)
            found[name].append(summary(json.loads(answer.stdout)))
            print(f"{name}: {found[name][-1]['steps per second']:.2f} steps/s", file=sys.stderr)
    return found


def comparison(found: dict[str, list[dict]]) -> str:
    """Return the medians side by side."""
    (first, ours), (second, theirs) = found.items()
    lines = [f"{'median of ' + str(len(ours)) + ' rounds':<36}{first:>32}{second:>32}{'ratio':>8}"]
    for name in ours[0]:
        a, b = (statistics.median(each[name] for each in side) for side in (ours, theirs))
        lines.append(f"{name:<36}{a:>32.3f}{b:>32.3f}{a / b:>8.2f}")
    return "\n".join(lines)


@contextmanager
def checked_out(revision: str):
    """Have the code of a git revision in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "code"
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--quiet", "--detach", place, revision], check=True)
        try:
            yield place
        finally:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", place], check=True)


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/fluent-faces-64.yaml", help="of the code that is run, or any file")
    parser.add_argument("--refreshes", type=int, default=2, help="periods to run (2)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--code", type=Path, default=ROOT, help="folder of the code to run")
    parser.add_argument("--against-revision", metavar="REV", help="compare with this git revision")
    parser.add_argument("--against-config", metavar="FILE", help="compare with this recipe")
    parser.add_argument("--rounds", type=int, default=3, help="of a comparison (3)")
    parser.add_argument("settings", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args(words)
    common = [*args.settings, "--refreshes", str(args.refreshes)]
    for option in ("device", "threads"):
        common += [f"--{option}", str(getattr(args, option))] if getattr(args, option) else []
    if args.against_revision:
        with checked_out(args.against_revision) as place:
            show(compare({"this code": [*common, "--config", args.config],
                          args.against_revision: [*common, "--config", args.config, "--code", str(place)]}, args.rounds), args.json)
    elif args.against_config:
        sides = {file: [*common, "--config", file] for file in (args.config, args.against_config)}
        show(compare(sides, args.rounds), args.json)
    else:
        if args.threads:
            torch.set_num_threads(args.threads)
        sys.path.insert(0, str(args.code.resolve()))
        import methods
        from training.settings import resolution
        from training.device import choose_device

        file = args.code / args.config  # an absolute path stays itself
        settings = [f"data.path={args.code / 'data' / 'fluent_faces'}", *args.settings]
        found = measure(methods.load_config(file, settings), choose_device(args.device), args.refreshes)
        print(json.dumps({**found, "summary": summary(found)}) if args.json else table(found))


def show(found: dict[str, list[dict]], as_json: bool) -> None:
    print(json.dumps(found) if as_json else comparison(found))


if __name__ == "__main__":
    run_as_command(main)
