"""Train a generator on a folder of images. The same command goes on where it was stopped."""

import argparse
import json
import os
import signal
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch loads; longer spinning slows a shared machine tenfold

from data import load_images, mirrored, split_holdout
from errors import UserError, run_as_command
from imle import checkpoint, config as configs
from imle.device import choose_device
from imle.dryrun import dry_run
from imle.resume import check_same_run
from imle.runlog import RunLog, environment
from imle.sheets import grid, save_png
from imle.trainer import Trainer


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="settings, with their defaults:\n" + configs.describe_settings())  # fmt: skip
    parser.add_argument("--config", required=True, help="YAML file of settings, for example configs/fluent-faces-64.yaml")
    parser.add_argument("--run", required=True, type=Path, help="folder for everything the run writes; an existing run goes on")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (a GPU where there is one)")
    parser.add_argument("--dry-run", action="store_true", help="print settings, size, memory and time, and stop")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings that differ from the file")
    return parser.parse_intermixed_args(words)  # settings may stand anywhere


def main(words: list[str]) -> None:
    args = parse(words)
    config = configs.load_config(args.config, args.settings)
    device = choose_device(args.device)
    if args.dry_run:
        print(configs.to_yaml(config), dry_run(config, device), sep="\n", end="")
        return
    if args.run.resolve().is_relative_to(Path(config.data.path).expanduser().resolve()):
        raise UserError(f"--run {args.run}: lies in data.path, where its sheets would become training images; choose a place outside")
    dataset = load_images(config.data.path, resolution=configs.resolution(config), fit=config.data.fit,
                          background=config.data.background, minimum=2)  # fmt: skip
    print("\n".join(dataset.report))
    train, heldout = split_holdout(dataset.names, config.data.holdout, config.seed)
    data = {"fingerprint": dataset.fingerprint, "names": [dataset.names[i] for i in train],
            "heldout": [dataset.names[i] for i in heldout]}  # fmt: skip
    images = mirrored(dataset.images[train]) if config.data.flips else dataset.images[train]

    last = args.run / "checkpoints" / "last.pt"
    state = checkpoint.load(last) if last.exists() else None
    if state is not None:
        with checkpoint.unpacking(last):
            notices = check_same_run(state, config, data)
    trainer = Trainer(config, images, dataset.images[heldout], data=data, device=device)
    if state is not None:
        with checkpoint.unpacking(last):
            trainer.load_state(state)
        if trainer.step >= trainer.total_steps:
            print(f"{args.run} is finished, at step {trainer.step}; more than train.epochs={config.train.epochs} would go on")
            return
        print(*notices, f"going on from step {trainer.step} of {trainer.total_steps} in {args.run}", sep="\n")
    signals = Signals()
    try:
        log = RunLog(args.run, *(state["log_position"], state["step"]) if state else (0, 0))
        (args.run / "config.yaml").write_text(configs.to_yaml(config), encoding="utf-8")
        (args.run / "environment.json").write_text(json.dumps(environment(device, sys.argv), indent=2), encoding="utf-8")
        save_png(grid(dataset.images[:400], columns=20), args.run / "images.png")
        print(f"{len(images)} images, {sum(p.numel() for p in trainer.generator.parameters()):,} parameters, on {device}; "
              f"{args.run}/images.png shows the images as they are used")  # fmt: skip
        trainer.run(log, should_stop=signals.caught)
        log.close()
    except OSError as error:
        raise UserError(f"--run {args.run}: cannot write there ({error.strerror or error}); what was saved before is intact") from None
    if trainer.step < trainer.total_steps:
        print(f"stopped and saved at step {trainer.step} of {trainer.total_steps}; the same command goes on from there")
        raise SystemExit(128 + signals.number)
    print(f"done: {last}")


class Signals:
    """Remember Ctrl-C and SIGTERM until the step is done; a second Ctrl-C ends at once."""

    def __init__(self):
        self.number = 0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.catch)

    def catch(self, number, frame) -> None:
        self.number = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nstopping after this step; Ctrl-C again stops at once\n")  # print may be what was interrupted

    def caught(self) -> bool:
        return bool(self.number)


if __name__ == "__main__":
    run_as_command(main)
