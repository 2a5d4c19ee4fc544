"""Where the time of a training goes: python benchmarks/training.py [--config FILE] [--refreshes N] [section.key=value ...]

Runs whole refresh periods of a recipe, each a refresh and the steps that follow it, with the sheets, scores, checkpoints
and log that belong to them, and prints how long every part took by itself. Nothing of it is kept.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from data import load_images  # noqa: E402
from imle import config as configs  # noqa: E402
from imle.device import choose_device  # noqa: E402
from imle.runlog import RunLog  # noqa: E402
from imle.trainer import Trainer  # noqa: E402

NETWORKS = ("generator forward", "perceptual forward", "backward")  # what the rest is overhead to


class Clock:
    """Seconds spent in each part, without the parts inside it."""

    def __init__(self, device: torch.device):
        self.device, self.seconds, self.calls, self._open = device, {}, {}, []

    @contextmanager
    def part(self, name: str):
        begun = self._now()
        self._open.append(0.0)
        try:
            yield
        finally:
            whole, inside = self._now() - begun, self._open.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + whole - inside
            self.calls[name] = self.calls.get(name, 0) + 1
            if self._open:
                self._open[-1] += whole

    def watch(self, owner: object, method: str, name: str) -> None:
        """Count what `owner.method` takes to the part `name`."""
        original = getattr(owner, method)

        def timed(*args, **kwargs):
            with self.part(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measure(config: configs.Config, device: torch.device, refreshes: int) -> dict:
    """Return seconds and calls by part, of so many refresh periods after one step that warms up."""
    dataset = load_images(config.data.path, resolution=configs.resolution(config), fit=config.data.fit,
                          background=config.data.background)  # fmt: skip
    trainer = Trainer(config, dataset.images, dataset.images[:0], data={}, device=device)
    with tempfile.TemporaryDirectory() as folder:
        log = RunLog(Path(folder))
        trainer.log = log
        trainer.rematch()
        trainer.train_step()
        trainer.step = 0
        stop_at = refreshes * config.imle.refresh_epochs * trainer.steps_per_epoch
        clock = Clock(device)
        for owner, method, name in (
                (trainer.generator, "forward", "generator forward"), (trainer.ema.module, "forward", "generator forward"),
                (trainer.embedding, "forward", "perceptual forward"), (torch.Tensor, "backward", "backward"),
                (trainer.search_features, "forward", "feature projection"), (trainer.optimizer, "step", "optimiser"),
                (trainer.ema, "update", "EMA"), (trainer.refresher, "refresh", "reject, match, latents"),
                (trainer, "draw_and_score", "sheets and score"), (trainer, "save", "checkpoint"), (log, "row", "log"),
                (trainer, "train_step", "rest of the step")):  # fmt: skip
            clock.watch(owner, method, name)
        with clock.part("rest"):
            trainer.run(log, should_stop=lambda: trainer.step >= stop_at)
        log.close()
    return {"steps": trainer.step, "seconds": clock.seconds, "calls": clock.calls}


def table(found: dict) -> str:
    """Return the parts, the slowest first, and the share of the networks."""
    whole = sum(found["seconds"].values())
    lines = [f"{'part':<24}{'seconds':>9}{'share':>8}{'calls':>8}{'ms a call':>11}"]
    for name, seconds in sorted(found["seconds"].items(), key=lambda item: -item[1]):
        calls = found["calls"][name]
        lines.append(f"{name:<24}{seconds:>9.2f}{seconds / whole:>8.1%}{calls:>8}{1000 * seconds / calls:>11.2f}")
    networks = sum(found["seconds"].get(name, 0.0) for name in NETWORKS)
    return "\n".join([*lines, f"{found['steps']} steps in {whole:.1f} s, {found['steps'] / whole:.2f} steps/s; "
                              f"the networks, forward and backward: {networks / whole:.1%}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent.parent / "configs" / "fluent-faces-64.yaml")
    parser.add_argument("--refreshes", type=int, default=2, help="periods to run (2)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("settings", nargs="*", metavar="section.key=value")
    args = parser.parse_intermixed_args()
    found = measure(configs.load_config(args.config, args.settings), choose_device(args.device), args.refreshes)
    print(json.dumps(found) if args.json else f"{torch.get_num_threads()} threads\n{table(found)}")


if __name__ == "__main__":
    main()
