"""The figures of the few-shot experiment: scores over the budget, and samples of the same latents by every method."""

from pathlib import Path

from imle.sampling import Sampler
from imle.sheets import grid, save_png
from lab.intervals import interval

SAMPLES = 16  # on a sheet, of seeds 0 to 15
SCORES = {"fd_heldout": "FD to held-out images", "fd_train": "FD to the training images", "copy_rate": "share of near copies"}
COLOURS = ("#1f4e79", "#c8553d", "#588157", "#e09f3e", "#7b5ea7", "#3d9dae", "#9a8c98", "#b56576")
STYLE = {"font.size": 11, "axes.titlesize": 12, "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
         "axes.grid": True, "axes.axisbelow": True, "grid.color": "#e4e4e4", "legend.frameon": False, "lines.linewidth": 1.8}  # fmt: skip


def draw_curves(results: dict, path: Path) -> None:
    """Draw every score against CPU-seconds, a column of panels for each set; bars are 95% intervals over seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        figure, panels = pyplot.subplots(len(SCORES), len(results), figsize=(1.2 + 4.2 * len(results), 9), sharex="col",
                                         squeeze=False, layout="constrained")  # fmt: skip
        for column, (chosen, of_method) in zip(panels.T, results.items()):
            column[0].set_title(chosen)
            for panel, (score, label) in zip(column, SCORES.items()):
                for number, (name, runs) in enumerate(of_method.items()):
                    points = list(zip(*runs))  # of all seeds at each part of the budget
                    seconds = [interval([point["cpu_seconds"] for point in seeds])[0] for seeds in points]
                    means, halves = zip(*(interval([point[score] for point in seeds]) for seeds in points))
                    shift = 1 + 0.02 * (number - len(of_method) / 2)  # so that bars stand side by side
                    panel.errorbar([at * shift for at in seconds], means, None if len(runs) == 1 else halves, color=COLOURS[number % len(COLOURS)],
                                   marker="o", markersize=4, capsize=2, elinewidth=1, label=name)  # fmt: skip
                panel.set_xscale("log", base=2)
                panel.xaxis.set_major_formatter(lambda at, _: f"{at:,.0f}")
                if column is panels.T[0]:
                    panel.set_ylabel(label)
            column[-1].set_xlabel("CPU-seconds")
        panels[0, -1].legend()
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def draw_sheet(runs: dict[str, Path], path: Path) -> None:
    """Draw the samples of seeds 0 to 15 of every run, a row each."""
    import torch

    images = [Sampler(folder).images(range(SAMPLES)) for folder in runs.values()]
    save_png(grid(torch.cat(images), columns=SAMPLES), path)
