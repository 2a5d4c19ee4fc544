"""The figures of the few-shot experiment: scores over the budget, and samples of the same latents by every method."""

import math
from pathlib import Path

import torch

from methods import open_sampler
from training.sheets import grid, save_png
from lab.intervals import interval

SAMPLES = 16  # on a sheet, of seeds 0 to 15
SCORES = {"fd_heldout": "FD to held-out images", "fd_train": "FD to the training images", "copy_rate": "share of near copies",
          "loss": "loss of the matches"}  # fmt: skip
COLOURS = ("#1f4e79", "#c8553d", "#588157", "#e09f3e", "#7b5ea7", "#3d9dae", "#9a8c98", "#b56576")
STYLE = {"font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "legend.frameon": False, "lines.linewidth": 1.8}  # fmt: skip


def draw_curves(results: dict, path: Path) -> None:
    """Draw every score against CPU-seconds, a column of panels for each set; bars are 95% intervals over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    plain = StrMethodFormatter("{x:,g}")
    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(len(SCORES), len(results), figsize=(1.2 + 4.2 * len(results), 3 * len(SCORES)), sharex="col",
                                         squeeze=False, layout="constrained")  # fmt: skip
        for row, (score, label) in zip(panels, SCORES.items()):
            row[0].set_ylabel(label)
            for panel, of_method in zip(row, results.values()):
                for number, (name, runs) in enumerate(of_method.items()):
                    plot_score(panel, runs, score, label=name, number=number, shift=1 + 0.02 * (number - len(of_method) / 2))
                if score == "copy_rate":
                    panel.set_ylim(bottom=0)  # bars reach below
        for top, bottom, chosen in zip(panels[0], panels[-1], results):
            top.set_title(chosen)
            bottom.set_yscale("log")  # losses
            bottom.yaxis.set(major_locator=LogLocator(subs=(1, 1.5, 2, 3, 5, 7)), major_formatter=plain, minor_formatter=NullFormatter())
            bottom.set_xscale("log", base=2)
            bottom.xaxis.set_major_formatter(plain)
            bottom.set_xlabel("CPU-seconds")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=8)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def plot_score(panel, runs: list[list[dict]], score: str, *, label: str, number: int, shift: float) -> None:
    """Plot one score of a method's runs; `shift` moves its bars aside, so that those of several methods are all seen."""
    points = list(zip(*runs))  # of all seeds at each part of the budget
    seconds = [shift * interval([point["cpu_seconds"] for point in seeds])[0] for seeds in points]
    means, halves = zip(*(interval([math.nan if point[score] is None else point[score] for point in seeds]) for seeds in points))
    panel.errorbar(seconds, means, None if len(runs) == 1 else halves, color=COLOURS[number % len(COLOURS)], label=label,
                   marker="o", markersize=4, capsize=2, elinewidth=1)  # fmt: skip


def draw_sheet(runs: dict[str, Path], path: Path) -> None:
    """Draw the samples of seeds 0 to 15 of every run, a row each."""
    images = [open_sampler(folder).images(range(SAMPLES)) for folder in runs.values()]
    save_png(grid(torch.cat(images), columns=SAMPLES), path)
