"""Measure the project on one GPU, in nine minutes: python benchmarks/gpu.py --out DIR [--parts card steps ...]

Parts: the rates of the card; CPU against GPU; a step and a candidate of four recipes with each lever; a step of the other methods;
minutes of training at 256 pixels, with samples and scores, of every --recipe; the tests that can use a GPU; the gradient in each
precision; torch.compile. If a part fails or has no time left, it reports that and the others still run. --out receives result.json
after every part, steps.md and a sheet of samples of every recipe.

--rehearse uses a tiny recipe, which takes two minutes on a CPU. Needs the project's requirements, pytest and pytest-xdist, but
no download: LPIPS is timed with random weights, and the training uses EfficientNet-Lite0 instead.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as train.py does, before torch loads

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from clock import CPU, peak_bytes, seconds_of, wait

import methods
from data import load_images
from errors import run_as_command
from imle.method import Imle
from models.perceptual import squared_distance
from models.pixels import to_uint8
from models.precision import LOSS_SCALE, PRECISIONS, SIXTEEN_BITS, autocast, computing, products
from training.device import choose_device
from training.runlog import SilentLog
from training.settings import resolution
from training.trainer import Method, Trainer

RECIPES = ("fluent-faces-64", "fewshot-128", "fewshot-256", "paper-256")
OTHERS = {  # recipes of other methods: their steps are timed as they are, without a graph, and in 16 bits
    "fastgan-64": (),
    "fastgan-256": (),
    "adapt-emoji-32": (),
    "score-emoji-32": ("train.batch_size=64",),
}
OFFLINE = {  # settings that train a method without a download
    "imle": ("loss.perceptual=effnet-lite0", "loss.pixel_weight=0.3"),
    "fastgan": ("fastgan.perceptual=effnet-lite0",),
}
LEVERS = {  # settings that change a recipe
    "graph": ("train.cuda_graph=true",),
    "graph, fp32": ("train.cuda_graph=true", "train.precision=fp32"),
    "graph, fp16": ("train.cuda_graph=true", "train.precision=fp16"),
    "graph, bf16": ("train.cuda_graph=true", "train.precision=bf16"),
    "graph, EfficientNet-Lite0": ("train.cuda_graph=true", "loss.perceptual=effnet-lite0"),
    "no graph": ("train.cuda_graph=false",),
    "no graph, fp16": ("train.cuda_graph=false", "train.precision=fp16"),
}
TESTS = ("cuda", "trainer", "search", "optimizer")
SAMPLES = 1000  # to score


class Run:
    """The arguments, the remaining time and the results."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.began, self.device = args, time.monotonic(), choose_device(args.device)
        self.cuda = self.device.type == "cuda"
        self.found: dict[str, dict] = {"torch": {"version": torch.__version__, "device": str(self.device)}}
        self.out: Path = args.out
        self.out.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Return the remaining seconds."""
        return self.args.seconds - (time.monotonic() - self.began)

    def part(self, name: str, seconds: float) -> Callable[[Callable[[dict], None]], None]:
        """Return a decorator that calls a function at once, if `seconds` are left, with a dict to fill; then write all results.

        If the function fails or is skipped, its dict says so and the other parts still run.
        """

        def now(work: Callable[[dict], None]) -> None:
            box: dict = {}
            self.found[name], begun = box, time.monotonic()
            try:
                if self.left() < seconds:
                    raise TimeoutError(f"skipped: needs {seconds:.0f} s, {self.left():.0f} s are left")
                work(box)
            except Exception as error:  # after any error the other parts still run
                box["error"] = "".join(traceback.format_exception(error))[-1500:]
            box["seconds"] = round(time.monotonic() - begun, 1)
            (self.out / "result.json").write_text(json.dumps(self.found, indent=1, default=str) + "\n")
            print(f"[{time.monotonic() - self.began:5.0f} s] {name}: {json.dumps(box, default=str)[:700]}", flush=True)

        return now

    def timed(self, work: Callable, calls: int, warm: int = 3) -> dict[str, float]:
        """Return milliseconds per call: `step` for calls in a row, `alone` for a median single call, `host` for queueing."""
        calls, warm = (calls, warm) if self.cuda else (2, 1)
        for _ in range(warm):
            work()
        wait(self.device)
        alone = [seconds_of(work, self.device) for _ in range(calls)]
        queued: list[float] = []

        def row() -> None:
            queued.append(seconds_of(lambda: [work() for _ in range(calls)]))

        whole = seconds_of(row, self.device)
        return {"step_ms": 1e3 * whole / calls, "alone_ms": 1e3 * statistics.median(alone), "host_ms": 1e3 * queued[0] / calls}


def card(run: Run) -> None:
    """Measure the rates of copies and matrix products, and the cost of a kernel launch."""

    @run.part("card", 20)
    def measure(box: dict) -> None:
        elements = 2**30 if run.cuda else 2**22
        source = torch.empty(elements, dtype=torch.uint8, device=run.device).random_()
        target = torch.empty_like(source)
        box["copy_TB/s"] = 2 * elements / run.timed(lambda: target.copy_(source), 20)["step_ms"] / 1e9
        side = 8192 if run.cuda else 512
        for name, kind, precision in (
            ("bf16", torch.bfloat16, "ieee"),
            ("fp16", torch.float16, "ieee"),
            ("tf32", torch.float32, "tf32"),
            ("fp32", torch.float32, "ieee"),
        ):
            m = torch.randn(side, side, device=run.device).to(kind)
            with products(precision, (torch.backends.cuda.matmul,)):
                box[f"matmul_{name}_TFLOP/s"] = 2 * side**3 / run.timed(lambda: m @ m, 6, 2)["step_ms"] / 1e9
        x = torch.zeros(8, device=run.device)
        box["launch_us"] = 1e3 * run.timed(lambda: x.add_(1), 2000)["host_ms"]
        if run.cuda:
            properties = torch.cuda.get_device_properties(run.device)
            box["name"], box["memory_GB"] = properties.name, properties.total_memory / 1e9


def tests(run: Run) -> None:
    """Run the tests of training, search and networks on the machine with the GPU."""

    @run.part("tests", 60)
    def measure(box: dict) -> None:
        names = [str(path) for name in (TESTS[:1] if run.args.rehearse else TESTS) for path in (ROOT / "tests").rglob(f"test_{name}.py")]
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "1" if run.args.rehearse else "8",
            "--dist",
            "loadfile",
            "-p",
            "no:cacheprovider",
            "-rs",
            *names,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(60, run.left() - 20), cwd=ROOT)
        (run.out / "tests.txt").write_text(done.stdout + done.stderr)
        box["exit"], box["tail"] = done.returncode, done.stdout[-300:]


def method_of(recipe: str, words: tuple[str, ...], device: torch.device, *, images: Tensor | None = None) -> Method:
    """Return the untrained method of a recipe; without `images`, on noise and with random loss weights."""
    config = methods.load_config(ROOT / "configs" / f"{recipe}.yaml", list(words))
    noise = images is None
    images = torch.randint(256, (100, 3, *resolution(config)), dtype=torch.uint8) if noise else images
    made = methods.make(config, images, device=device, pretrained=not noise)
    if isinstance(made, Imle):
        made.latents.copy_(torch.randn(made.latents.shape, generator=torch.Generator().manual_seed(0)))
    return made


def agreement(run: Run) -> None:
    """Compare matches and images of one untrained generator on CPU and GPU."""

    @run.part("CPU against GPU", 30)
    def measure(box: dict) -> None:
        images = torch.randint(256, (100, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        cpu = method_of("smoke-32", ("imle.pool_factor=5",), CPU, images=images)
        ours = cpu.generator(cpu.latents[:16]).detach()
        matches = cpu.refresher.refresh(cpu.embed_latents, 0)
        for precision in ("fp32", "tf32"):
            gpu = method_of("smoke-32", ("imle.pool_factor=5", f"train.precision={precision}"), run.device, images=images)
            found = gpu.refresher.refresh(gpu.embed_latents, 0)
            with computing(precision):
                theirs = gpu.generator(gpu.latents[:16]).detach().cpu()
            box[precision] = {
                "weights_equal": all(torch.equal(a, b.cpu()) for a, b in zip(cpu.generator.parameters(), gpu.generator.parameters())),
                "matches_equal": (matches.latents == found.latents).all(1).float().mean().item(),
                "distance_error": error(matches.distance, found.distance),
                "image_error": error(ours, theirs),
                "bytes_that_differ": (to_uint8(ours) != to_uint8(theirs)).float().mean().item(),
            }


def error(exact: Tensor, other: Tensor) -> float:
    """Return the relative error of `other` against `exact`."""
    exact, other = exact.double().cpu(), other.double().cpu()
    return ((exact - other).norm() / exact.norm()).item()


GRADIENTS = {name: (name, name) for name in PRECISIONS} | {  # (generator, perceptual network)
    "fp16 generator": ("fp16", "tf32"),
    "bf16 generator": ("bf16", "tf32"),
    "fp16 loss": ("tf32", "fp16"),
    "bf16 loss": ("tf32", "bf16"),
}


def precision(run: Run) -> None:
    """Compare the gradient of a batch in each precision with that in float32, before and after some training."""

    @run.part("gradient by precision", 60)
    def measure(box: dict) -> None:
        images = load_images(ROOT / "data" / "fluent_faces", resolution=(64, 64), fit="crop", background="white", minimum=2).images
        made = method_of(
            "smoke-32" if run.args.rehearse else "fluent-faces-64",
            ("data.resolution=64", *RESIZED[run.args.rehearse]),
            run.device,
            images=images,
        )
        trainer = Trainer(made.config, made, len(images), data={}, device=run.device)
        trainer.write_to(SilentLog())
        epochs = (0, 1) if run.args.rehearse else (0, 12, 60)
        for epoch in epochs:
            while trainer.step < epoch * trainer.steps_per_epoch:
                trainer.advance()
            exact = gradient(made, *GRADIENTS["fp32"])
            box[f"epoch {epoch}"] = {"loss": made.losses.mean().item()} | {
                name: {"cosine": (g @ exact / g.norm() / exact.norm()).item(), "error": error(exact, g)}
                for name in GRADIENTS
                for g in [gradient(made, *GRADIENTS[name])]
            }


RESIZED = {False: (), True: ("model.channels=[32,32,16,16,16]", "model.blocks=[1,1,1,1,1]")}  # settings of `precision`, by --rehearse


def gradient(made: Imle, generator: str, loss: str) -> Tensor:
    """Return the gradient (P,), float64, of the first batch of matches; both networks compute in their own precision."""
    scale = max(LOSS_SCALE.get(precision, 1.0) for precision in (generator, loss))
    index = torch.arange(10, device=made.device)
    with computing(generator):
        image = made.generator(made.latents[index], SIXTEEN_BITS.get(generator))
    with computing(loss), autocast(loss, made.device):
        maps = made.embedding(image)
    with computing("fp32" if (generator, loss) == ("fp32", "fp32") else "tf32"):
        distance = squared_distance(maps, made.targets.maps(index))
        grads = torch.autograd.grad(scale * distance.mean(), list(made.generator.parameters()))
    return torch.cat([g.flatten().double() for g in grads]) / scale


def steps(run: Run) -> None:
    """Time a step and a candidate for every recipe and lever, with the GPU's own time and its slowest kernels."""
    for recipe in ("smoke-32",) if run.args.rehearse else RECIPES:
        for lever, words in LEVERS.items():
            step(run, recipe, lever, words)


def step(run: Run, recipe: str, lever: str, words: tuple[str, ...], seconds: float = 8) -> None:
    """Time one recipe with one lever."""

    @run.part(f"{recipe}, {lever}", seconds)
    def measure(box: dict) -> None:
        if run.cuda:
            gc.collect()  # a method refers to itself, so the one before may still hold memory
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        made = method_of(recipe, words, run.device)
        work = made.work()["a step"].job
        box |= run.timed(work, 20)
        if run.cuda:
            box["allocated_GB"], box["reserved_GB"] = peak_bytes(run.device) / 1e9, torch.cuda.max_memory_reserved() / 1e9
            box |= kernels(run, work)
        if not isinstance(made, Imle):
            return
        latents = torch.randn(made.config.imle.pool_batch, made.config.model.latent_dim)
        box["candidate_ms"] = run.timed(lambda: made.embed_latents(latents), 6, 2)["step_ms"] / len(latents)


def kernels(run: Run, work: Callable[[], None]) -> dict:
    """Return the number of kernels of a call, their milliseconds, and the slowest of them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        work()
        wait(run.device)
    rows = [event for event in profiler.key_averages() if event.self_device_time_total > 0]
    dearest = sorted(rows, key=lambda event: -event.self_device_time_total)[:12]
    return {
        "kernels": sum(event.count for event in rows),
        "gpu_ms": sum(event.self_device_time_total for event in rows) / 1e3,
        "dearest": [(event.key[:70], event.count, round(event.self_device_time_total / 1e3, 2)) for event in dearest],
    }


def others(run: Run) -> None:
    """Time a step of the recipes of other methods."""
    for recipe, words in {"fastgan-32": ()}.items() if run.args.rehearse else OTHERS.items():
        step(run, recipe, "as it is", words)
        step(run, recipe, "no graph", (*words, "train.cuda_graph=false"))
        step(run, recipe, "fp16", (*words, "train.precision=fp16"))


def compiled(run: Run) -> None:
    """Time a step without torch.compile and with it, which uses no graph and whose first steps take more than a minute."""
    if run.cuda:
        for lever in ("graph", "no graph"):
            if f"fewshot-128, {lever}" not in run.found:
                step(run, "fewshot-128", lever, LEVERS[lever])
        step(run, "fewshot-128", "no graph, torch.compile", ("train.compile=true",), seconds=100)


def training(run: Run) -> None:
    """Train every recipe with train.py for --train-seconds, to the end of its schedule; then run sample.py and evaluate.py."""
    for recipe in ("smoke-32",) if run.args.rehearse else run.args.recipe:
        trained(run, recipe)


def trained(run: Run, recipe: str) -> None:
    """Train, sample and score one recipe."""
    folder, on = run.out / recipe / "run", ["--device", str(run.device)]
    path = ROOT / "configs" / f"{recipe}.yaml"
    words = [f"data.path={run.args.data}", *OFFLINE[methods.load_config(path, []).method], *run.args.train]

    @run.part(f"training {recipe}", run.args.train_seconds + 20)
    def measure(box: dict) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        length = "train.epochs=2" if run.args.rehearse else f"train.minutes={run.args.train_seconds / 60}"
        box["settings"] = [*words, length]
        command = ["train.py", "--config", str(path), "--run", str(folder), *on, *box["settings"], "log.sheet_epochs=100000"]
        box["exit"] = command_of(run, command, run.args.train_seconds + 60, run.out / recipe)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for kind in dict.fromkeys(row["kind"] for row in rows):
            box[kind] = [row for row in rows if row["kind"] == kind][-1]

    @run.part(f"samples and scores of {recipe}", 20)
    def score(box: dict) -> None:
        samples, held = run.out / recipe / "samples", ["--heldout", str(run.args.heldout)] if run.args.heldout else []
        command = ["sample.py", str(folder), "--num", "36", "--grid", "--out", str(samples), *on]
        box["sample exit"] = command_of(run, command, 60, run.out / recipe)
        shutil.copy(samples / "grid.png", run.out / f"{recipe}.png")
        number = ["--num-samples", str(24 if run.args.rehearse else SAMPLES)]
        command = ["evaluate.py", str(folder), "--features", "effnet-lite2", "--metrics", "fid,fid_heldout,pr,copying", *held, *on, *number]
        box["evaluate exit"] = command_of(run, [*command, "--out", str(run.out / recipe / "evaluation")], 240, run.out / recipe)
        box["scores"] = json.loads((run.out / recipe / "evaluation" / "metrics.json").read_text())["metrics"]


def table(found: dict[str, dict]) -> str:
    """Return the timings of steps as Markdown."""
    columns = {"step_ms": 1, "gpu_ms": 1, "kernels": 0, "reserved_GB": 1, "candidate_ms": 2}
    lines = ["| recipe, lever | a step, ms | the GPU's own, ms | kernels | memory, GB | a candidate, ms |", "|---" * 6 + "|"]
    for name, box in found.items():
        if "step_ms" in box:
            cells = [f"{box[key]:.{digits}f}" if key in box else "-" for key, digits in columns.items()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def command_of(run: Run, words: list[str], seconds: float, folder: Path) -> int:
    """Run one of the project's commands with its output in a file of `folder`; return its exit status. After `seconds` send SIGTERM."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{words[0].removesuffix('.py')}.txt", "w") as log:
        process = subprocess.Popen([sys.executable, str(ROOT / words[0]), *words[1:]], stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # train.py saves a checkpoint
            return process.wait(60)


PARTS = {  # what nine minutes must not miss comes first; torch.compile runs only if time is left
    "card": card,
    "agreement": agreement,
    "steps": steps,
    "other methods": others,
    "training": training,
    "tests": tests,
    "precision": precision,
    "compile": compiled,
}


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=540, help="seconds for all parts (540)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run, always in this order (all)")
    parser.add_argument("--rehearse", action="store_true", help="use a tiny recipe, to try the command on a CPU")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--recipe", nargs="+", default=["fewshot-256"], help="recipes to train (fewshot-256)")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "fluent_faces", help="images to train on")
    parser.add_argument("--heldout", type=Path, help="held-out images for the scores")
    parser.add_argument("--train-seconds", type=float, default=130, help="seconds of training of each recipe (%(default)s)")
    parser.add_argument("--train", nargs="+", default=[], metavar="section.key=value", help="settings of the training")
    args = parser.parse_args(words)
    os.environ.setdefault("PYTHONUNBUFFERED", "1")  # for the commands that this one runs
    run = Run(args)
    for name in PARTS:
        if name in args.parts:
            PARTS[name](run)
    (run.out / "steps.md").write_text(table(run.found))
    print(table(run.found))


if __name__ == "__main__":
    run_as_command(main)
