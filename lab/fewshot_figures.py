"""The figures of the few-shot experiment: scores over the budget, and samples of the same latents for each method."""

import math
from pathlib import Path

import torch

from lab import plots
from lab.cells import resized
from lab.intervals import interval
from methods import open_sampler
from training.sheets import grid, save_png

SAMPLES = 16  # on a sheet, of seeds 0 to 15
SCORES = {
    "fd_heldout": "FD to held-out images",
    "fd_train": "FD to the training images",
    "fine_power": "power of the finest octave",
    "copy_rate": "share of near copies",
    "loss": "loss of the matches",
}


def draw_curves(results: dict, path: Path) -> None:
    """Plot every score against seconds, with a column of panels per set; bars are 95% intervals over seeds."""
    with plots.canvas() as pyplot:
        figure, panels = pyplot.subplots(
            len(SCORES), len(results), figsize=(1.2 + 4.2 * len(results), 3 * len(SCORES)), sharex="col", squeeze=False
        )
        for row, (score, label) in zip(panels, SCORES.items()):
            row[0].set_ylabel(label)
            for panel, of_method in zip(row, results.values()):
                for number, (name, runs) in enumerate(of_method.items()):
                    plot_score(panel, runs, score, label=name, number=number, shift=1 + 0.02 * (number - len(of_method) / 2))
                if score == "copy_rate":
                    panel.set_ylim(bottom=0)  # bars may extend below 0
        for top, bottom, chosen in zip(panels[0], panels[-1], results):
            top.set_title(chosen)
            bottom.set_yscale("log")  # losses
            plots.label_log(bottom.yaxis, (1, 1.5, 2, 3, 5, 7))
            bottom.set_xscale("log", base=2)
            bottom.xaxis.set_major_formatter("{x:,g}")
            bottom.set_xlabel("seconds")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
        plots.save(figure, path)


def plot_score(panel, runs: list[list[dict]], score: str, *, label: str, number: int, shift: float) -> None:
    """Plot one score of a method's runs; the factor `shift` moves it sideways, so bars of several methods do not overlap."""
    points = list(zip(*runs))  # [share of the budget][seed]
    seconds = [shift * interval([point["seconds"] for point in seeds])[0] for seeds in points]
    means, halves = zip(*(interval([math.nan if point.get(score) is None else point[score] for point in seeds]) for seeds in points))
    panel.errorbar(
        seconds,
        means,
        None if len(runs) == 1 else halves,
        color=plots.COLORS[number % len(plots.COLORS)],
        label=label,
        marker="o",
        markersize=4,
        capsize=2,
        elinewidth=1,
    )


def draw_sheet(runs: dict[str, Path], path: Path) -> None:
    """Write a sheet with the samples of seeds 0 to 15, one row per run; smaller ones are enlarged."""
    images = [open_sampler(folder).images(range(SAMPLES)) for folder in runs.values()]
    side = max(each.shape[-1] for each in images)
    save_png(grid(torch.cat([each if each.shape[-1] == side else resized(each, side) for each in images]), columns=SAMPLES), path)
