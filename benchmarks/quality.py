"""What a recipe reaches for its money: python benchmarks/quality.py --budget SECONDS 'NAME:section.key=value;...' ...

Trains every variant of a recipe for the same CPU-seconds and scores it on held-out images. What a refresh and a step of
each variant cost is measured first, the variants taking turns, so that a noisy machine is noisy to all; the number of
epochs follows from it, and with it the end of the learning rate's schedule. One thread by default: more change the time of
a step, hardly its work. A result is kept in its own folder under --out, and the same command goes on where it was stopped.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from data import load_images  # noqa: E402
from imle import config as configs  # noqa: E402
from imle.config import Config  # noqa: E402
from imle.runlog import RunLog  # noqa: E402
from imle.sampling import Sampler  # noqa: E402
from imle.sheets import grid, save_png  # noqa: E402
from imle.trainer import Trainer  # noqa: E402
from metrics import copying, frechet, prdc  # noqa: E402
from metrics.features import FeaturePass  # noqa: E402

STEPS = 10  # of a calibration


def trainer_of(config: Config) -> Trainer:
    """Return a new trainer on a recipe's images."""
    dataset = load_images(config.data.path, resolution=configs.resolution(config), fit=config.data.fit,
                          background=config.data.background)  # fmt: skip
    data = {"fingerprint": dataset.fingerprint, "names": dataset.names, "heldout": []}
    return Trainer(config, dataset.images, dataset.images[:0], data=data, device=torch.device("cpu"))


def cpu_seconds(work) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def epoch_costs(variants: dict[str, Config], rounds: int) -> dict[str, float]:
    """Return the CPU-seconds of an epoch of each variant, its share of a refresh included: the median of the rounds."""
    trainers = {name: trainer_of(config) for name, config in variants.items()}
    costs: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds + 1):
        for name, trainer in trainers.items():
            refresh = cpu_seconds(lambda: trainer.refresher.refresh(trainer.embed_latents, 0, 0))
            steps = cpu_seconds(lambda: [trainer.train_step() for _ in range(STEPS)]) / STEPS
            costs[name].append(steps * trainer.steps_per_epoch + refresh / variants[name].imle.refresh_epochs)
    return {name: sorted(seconds[1:])[rounds // 2] for name, seconds in costs.items()}  # the first warms up


def train(config: Config, run: Path) -> dict:
    """Train to the end in folder `run` and return what it took; a stopped training begins anew, for its time is lost."""
    trainer = trainer_of(config)
    log = RunLog(run)
    started = time.monotonic()
    seconds = cpu_seconds(lambda: trainer.run(log))
    log.close()
    return {"cpu_seconds": seconds, "wall_seconds": time.monotonic() - started, "loss": trainer.losses.mean().item(),
            "epochs": config.train.epochs, "parameters": sum(p.numel() for p in trainer.generator.parameters())}  # fmt: skip


def features_of(images: Tensor) -> Tensor:
    """Return the EfficientNet-Lite0 features (N, 1280) of uint8 images, as evaluate.py takes them."""
    taken = FeaturePass("effnet-lite0", "cpu")
    for batch in images.split(16):
        taken.add(batch)
    return taken.result()["features"]


def score(run: Path, config: Config, heldout: Path, samples: int) -> dict[str, float]:
    """Return the scores of a run's last average, and draw a sheet of its samples."""
    def read(path):
        return load_images(path, resolution=configs.resolution(config), fit=config.data.fit, background=config.data.background).images

    drawn = Sampler(run).images(range(samples))
    save_png(grid(drawn[:96], columns=16), run / "samples.png")
    fake, real, held = (features_of(images) for images in (drawn, read(config.data.path), read(heldout)))
    similarity = prdc.prdc(real, fake)
    return {"fd_heldout": frechet.frechet_distance(held, fake), "fd_train": frechet.frechet_distance(real, fake),
            "precision": similarity["precision"], "recall": similarity["recall"], "coverage": similarity["coverage"],
            "copy_rate": copying.copy_rate(real, fake)}  # fmt: skip


HEADER = ("| variant | settings | parameters | epochs | CPU s | FD held-out | FD train | precision | recall | coverage | copies | loss |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip


def row(name: str, found: dict) -> str:
    """Return one line of the table."""
    scores = found["scores"]
    return (f"| {name} | {found['settings'].replace(';', ' ')} | {found['parameters']:,} | {found['epochs']} | {found['cpu_seconds']:.0f} "
            f"| {scores['fd_heldout']:.1f} | {scores['fd_train']:.1f} | {scores['precision']:.2f} | {scores['recall']:.2f} "
            f"| {scores['coverage']:.2f} | {scores['copy_rate']:.1%} | {found['loss']:.3f} |")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="NAME:section.key=value;...", help="NAME: alone is the recipe itself")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "fluent-faces-64.yaml")
    parser.add_argument("--data", default=str(ROOT / "data" / "fluent_faces"), help="training images (the shipped set)")
    parser.add_argument("--heldout", type=Path, default=ROOT / "tests" / "fluent_faces_heldout", help="held-out images (the shipped ones)")
    parser.add_argument("--budget", type=float, required=True, help="CPU-seconds of a training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1000, help="scored samples (1000)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs and results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = dict(word.split(":", 1) for word in args.variants)

    def config_of(words: str, *more: str) -> Config:
        return configs.load_config(args.config, [f"data.path={args.data}", *filter(None, words.split(";")), *more])

    waiting = {name: config_of(words) for name, words in settings.items() if not (args.out / name / "result.json").exists()}
    costs = epoch_costs(waiting, rounds=3) if waiting else {}
    for name in waiting:
        epochs = max(1, round(args.budget / costs[name]))
        quiet = ("log.sheet_epochs=1000000", "log.checkpoint_epochs=1000000")  # neither costs the budget anything
        found = train(config_of(settings[name], f"train.epochs={epochs}", *quiet), args.out / name)
        found |= {"settings": settings[name], "epoch_cost": costs[name], "budget": args.budget,
                  "scores": score(args.out / name, waiting[name], args.heldout, args.samples)}  # fmt: skip
        (args.out / name / "result.json").write_text(json.dumps(found, indent=1))
        print(row(name, found), flush=True)
    print("\n".join([HEADER, *(row(name, json.loads((args.out / name / "result.json").read_text())) for name in settings)]))


if __name__ == "__main__":
    main()
