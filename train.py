"""Train a generator on a folder of images. Give the same command again to resume the run."""

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # before torch loads; longer spinning slows a shared machine tenfold

import torch
from torch import Tensor

import methods
from data import READER, Record, load_images, mirrored, split_holdout
from errors import UserError, ending_signals, run_as_command
from metrics import cost
from training import checkpoint, processes
from training.costs import planned, settled
from training.device import choose_device
from training.dryrun import dry_run
from training.folder import RunFolder
from training.resume import check_same_run, nothing_to_do
from training.runlog import RunLog, SilentLog, environment
from training.scores import variety
from training.settings import Settings, describe, to_dict, to_yaml
from training.trainer import Trainer
from training.transform import transform

VARIED = 0.6  # the variety from which on training says what to expect: 100 portraits have 0.81, 100 drawn animals 0.75


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings, with their defaults:\n{describe(methods.config_class(methods.asked_for(words)))}",
    )
    parser.add_argument("--config", required=True, help="YAML file of settings, for example configs/fluent-faces-128.yaml")
    parser.add_argument("--run", required=True, type=Path, help="folder for everything that the run writes; an existing run is resumed")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--scored", action="store_true", help="leave time in train.minutes for what ./train.sh does then: scores")
    parser.add_argument("--dry-run", action="store_true", help="print settings, size, memory and time, and stop")
    parser.add_argument("settings", nargs="*", metavar="section.key=value", help="settings that override the file")
    return parser.parse_intermixed_args(words)  # settings may stand anywhere


def main(words: list[str]) -> None:
    started, args = time.monotonic(), parse(words)
    config = methods.load_config(args.config, args.settings)
    if config.train.minutes and any(word.startswith("train.epochs=") for word in args.settings):
        raise UserError(f"train.epochs: follows from train.minutes={config.train.minutes:g}; leave one out, or set train.minutes=0")
    device = choose_device(args.device)
    folder = RunFolder(args.run)
    with processes.process_group(device, lambda: kept(folder.last)):
        code = train(args, config, device, folder, started)
    if code:
        raise SystemExit(code)


def train(args: argparse.Namespace, config: Settings, device: torch.device, folder: RunFolder, started: float) -> int:
    """Train, from the last checkpoint in `folder` if there is one; return the exit code. `started` is when train.minutes began."""
    source = None if folder.last.exists() else methods.source(config)
    if args.dry_run:
        tell(to_yaml(config) + "\n" + dry_run(config, methods.make, device, source=source).rstrip("\n"))
        return 0
    if Path(os.path.realpath(args.run)).is_relative_to(os.path.realpath(os.path.expanduser(config.data.path))):
        raise UserError(f"--run {args.run}: is inside data.path, so its sheets would become training images; choose a folder outside")
    state = methods.load(folder.last) if folder.last.exists() else None
    with checkpoint.unpacking(folder.last):
        before = Record(**state["data"]) if state else Record("", [], [], READER)  # empty for a new run
        known = before.all_names
    dataset = load_images(config.data.path, **transform(to_dict(config)), minimum=2, reader=before.reader).respelled(known)
    tell(*dataset.report)
    train, heldout = split_holdout(dataset.names, config.data.holdout, config.seed)
    data = Record.of(dataset, train, heldout)
    images = mirrored(dataset.images[train]) if config.data.flips else dataset.images[train]

    def new(config: Settings) -> Trainer:
        method = methods.make(config, images, device=device)
        return Trainer(config, method, len(images), data=data._asdict(), device=device, heldout=dataset.images[heldout])

    facts = {"the settings": to_yaml(config), "the images": dataset.fingerprint, "the step of the checkpoint": str(state and state["step"])}
    processes.check_agreement(facts | {"the file of train.start_from": str(source and source.record)})
    if args.scored and state is None:  # scores get their part of train.minutes, at most half
        started -= min(cost.seconds(len(images), images.shape[2:], device), 30 * config.train.minutes)
    config = planned(config, state, lambda: new(config), started)
    if state is not None:
        with checkpoint.unpacking(folder.last):
            notices = check_same_run(state, config, data)
    trainer = new(config)
    tell(*trainer.start(source))
    if state is not None:
        with checkpoint.unpacking(folder.last):
            trainer.load_state(state)
        if trainer.step >= trainer.total_steps:
            tell(nothing_to_do(args.run, state, config.train, trainer.steps_per_epoch), *(f"report: {path}" for path in folder.reports()))
            return 0
        tell(*notices, f"going on from step {trainer.step} of {trainer.total_steps} in {args.run}")
    return run(trainer, folder, state, dataset.images[:400])


def run(trainer: Trainer, folder: RunFolder, state: dict | None, shown: Tensor) -> int:
    """Train to the end or until a signal; return the exit code. `state` is the checkpoint of a run that goes on."""
    signals, config = Signals(), trainer.config
    try:
        log = SilentLog()
        if processes.is_main():
            log = RunLog(folder.path, *(state["log_position"], state["step"]) if state else ())
            log.describe(to_yaml(settled(config)), environment(trainer.device, sys.argv), shown)
        if config.train.minutes and state is None:
            tell(f"train.minutes={config.train.minutes:g}: {config.train.epochs} epochs, by what they cost on this machine")
        numbers = f"{trainer.n} images, {trainer.method.facts()['parameters']} parameters, on {trainer.device}"
        tell(f"{numbers}; {folder.images} shows the images as they are used", *([] if state else advice(trainer.method.features)))
        trainer.run(log, should_stop=signals.caught)
        log.close()
    except OSError as error:
        raise UserError(f"--run {folder.path}: cannot write there ({error.strerror or error}); what was saved before is intact") from None
    if trainer.step < trainer.total_steps:
        tell(f"stopped and saved at step {trainer.step} of {trainer.total_steps}; the same command goes on from there")
        return 128 + (signals.number or signal.SIGTERM)  # the signal may have gone to another process
    tell(f"done: {folder.last}")
    return 0


def advice(features: Tensor) -> list[str]:
    """Return what to expect of images with these features (n, D), if they differ more than most sets of faces."""
    found = variety(features)
    if not found >= VARIED:  # also if all images are alike, where it is NaN
        return []
    return [
        f"these images differ much: the nearest other one is {found:.2f} times as far as an average one (the project's faces: 0.39). "
        "Expect softer and rougher samples than those in the README; while they still improve, a larger train.epochs helps"
    ]


def kept(last: Path) -> str:
    """Return a line about the checkpoint of a run that was cut off."""
    if not last.exists():
        return "nothing is saved yet"
    return f"{last}, of step {checkpoint.load(last)['step']}, is good, and the same command goes on from there"


def tell(*lines: str) -> None:
    """Print lines in the main process only."""
    if processes.is_main():
        print(*lines, sep="\n", flush=True)


class Signals:
    """Remember Ctrl-C, SIGTERM and a closed terminal until the step is done; a second Ctrl-C stops at once.

    With several processes a second Ctrl-C does not: each may get the first twice, from the terminal and from torchrun.
    """

    def __init__(self):
        self.number = 0
        for number in (signal.SIGINT, *ending_signals()):
            signal.signal(number, self.catch)

    def catch(self, number, frame) -> None:
        self.number = number
        said = b"\nstopping after this step\n"
        if processes.count() == 1:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            said = b"\nstopping after this step; Ctrl-C again stops at once\n"
        if processes.is_main():
            with suppress(OSError):  # the terminal may be gone
                os.write(2, said)  # not print: the signal may have interrupted a print

    def caught(self) -> bool:
        return bool(self.number)


if __name__ == "__main__":
    run_as_command(main)
