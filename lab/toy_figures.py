"""The pictures of the 2-D experiment: samples, selected latents, distance laws and diagnostics of the runs of lab.plane.

Each method has one colour: warm for IMLE, cold for RS-IMLE. In the picture of latents each training point has one colour.
Pictures show the first seed, diagnostics the mean over seeds.
"""

import colorsys
import itertools
from pathlib import Path

import numpy as np
from PIL import Image

from lab.plane import FAR, LAW_GRID, METHODS, NUM_POINTS, POOL_FACTOR, REFRESH_STEPS, Run, Snapshot, infinity_symbol, pooled_gap
from lab.plots import GREY, INK, PALE, canvas, save

COLORS = dict(zip(METHODS, ("#c8553d", "#dd9a2b", "#8a5a9e", "#1f4e79", "#5b7fb5", "#2a8fbd", "#2a9d6f", "#7a8b23")))
GRID = (2, 4)  # of panels, one for each method
LIMITS = (-1.4, 1.4), (-1.0, 1.0)  # of the plane; the few samples outside are not shown
MOMENTS = (0.0, 0.05, 1.0)  # shares of a run
LATER = 0.5  # selected latents are shown from the last half of a run
NUM_FILMED, NUM_TONES = 500, 5  # samples in the film, and tones per colour, to keep its file small
FRAME, LAST_FRAME = 160, 3000  # milliseconds
NUM_BINS = 20  # bins of steps; diagnostics are averaged in each


def draw_all(runs: list[Run], folder: Path) -> None:
    """Draw all pictures of `runs` into `folder`."""
    first = [run for run in runs if run.laws is not None]
    draw_samples(first, folder / "samples.png")
    draw_film(first, folder / "training.gif")
    draw_latents(first, folder / "latents.png")
    draw_laws(first, folder / "laws.png")
    draw_diagnostics(runs, folder / "diagnostics.png")


class Scene:
    """A panel of the plane: points, samples, and an arrow from each match to its point."""

    def __init__(self, panel, run: Run):
        points = infinity_symbol().numpy()
        self.samples = panel.scatter([], [], s=5, color=COLORS[run.method], alpha=0.5, linewidths=0)
        self.arrows = panel.quiver(
            *points.T,
            *np.zeros_like(points).T,
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.006,
            headwidth=3.5,
            headlength=4,
            headaxislength=3.5,
            color=INK,
            zorder=3,
        )
        panel.scatter(*points.T, s=26, color="white", edgecolors=INK, linewidths=1.2, zorder=4)
        panel.set(xlim=LIMITS[0], ylim=LIMITS[1], aspect="equal", xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color=PALE)
        self.points = points

    def show(self, snapshot: Snapshot, num: int | None = None) -> None:
        """Show a snapshot, with its first `num` samples."""
        self.samples.set_offsets(snapshot.samples[:num])
        self.arrows.set_offsets(snapshot.matches)
        self.arrows.set_UVC(*(self.points - snapshot.matches).T)


def draw_samples(runs: list[Run], path: Path) -> None:
    """Draw samples and matches at three moments, one row per method."""
    with canvas() as pyplot:
        figure, panels = pyplot.subplots(len(runs), len(MOMENTS), figsize=(10.5, 2.82 * len(runs) + 0.6))
        figure.suptitle("IMLE's samples leave the curve, RS-IMLE's follow it\n ", x=0.01, ha="left")
        figure.text(0.01, 0.98, "circles: the 20 points; dots: samples; arrows: from each point's match to the point", va="top")
        for row, run in zip(panels, runs):
            steps = np.array([snapshot.step for snapshot in run.snapshots])
            for panel, moment in zip(row, MOMENTS):
                snapshot = run.snapshots[np.abs(steps - moment * steps[-1]).argmin()]
                Scene(panel, run).show(snapshot)
                panel.set_title(f"step {snapshot.step:,}", loc="right", fontsize=11, color=GREY)
            row[0].set_title(run.method, color=COLORS[run.method], fontweight="bold")
            share = f"{100 * run.scores['far_share']:.0f}% farther than {FAR} from all points"
            row[-1].text(0.5, 0.025, share, transform=row[-1].transAxes, ha="center", fontsize=10)
        save(figure, path)


def draw_film(runs: list[Run], path: Path) -> None:
    """Draw a film of samples and matches, one frame per snapshot."""
    with canvas() as pyplot:
        figure, panels = pyplot.subplots(*GRID, figsize=(11.2, 5.0), dpi=80, layout="none")
        figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.86, wspace=0.03, hspace=0.12)
        heading = figure.text(0.01, 0.95, "", fontsize=13, fontweight="bold")
        scenes = [Scene(panel, run) for panel, run in zip(panels.flat, runs)]
        for panel, run in zip(panels.flat, runs):
            panel.set_title(run.method, color=COLORS[run.method], fontweight="bold", fontsize=11.5)
        frames = []
        for moment in zip(*(run.snapshots for run in runs)):
            heading.set_text(f"Samples, and arrows from matches to their points: step {moment[0].step:,}")
            for scene, snapshot in zip(scenes, moment):
                scene.show(snapshot, NUM_FILMED)
            figure.canvas.draw()
            frames.append(Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3].copy()))
    palette = tones()
    few = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    few[0].save(path, save_all=True, append_images=few[1:], duration=[FRAME] * (len(few) - 1) + [LAST_FRAME], loop=0)


def tones() -> Image.Image:
    """Return a picture with the palette of the film: white, and a few tones of each colour."""
    used = np.array([[int(color[at : at + 2], 16) for at in (1, 3, 5)] for color in (INK, *COLORS.values())])
    mixed = [255 - (255 - used) * share for share in np.linspace(1, 0, NUM_TONES, endpoint=False)]
    colors = np.concatenate([np.full((1, 3), 255), *mixed]).round().astype(int)
    picture = Image.new("P", (1, 1))
    picture.putpalette(np.resize(colors, (256, 3)).flatten().tolist())  # repeated, because unused entries would be black
    return picture


def image_colors() -> list[tuple[float, float, float]]:
    """Return a colour for each point, in their order around the symbol."""
    return [colorsys.hls_to_rgb(k / NUM_POINTS, 0.42 if k % 2 else 0.58, 0.68) for k in range(NUM_POINTS)]


def draw_latents(runs: list[Run], path: Path) -> None:
    """Draw the latents selected in the last half of training, in the colours of their points."""
    colors = image_colors()
    with canvas() as pyplot:
        figure, panels = pyplot.subplots(*GRID, figsize=(14.4, 8.2), sharex=True, sharey=True)
        figure.suptitle("Selected latents: IMLE trains bands and leaves gaps, RS-IMLE fills the Gaussian\n ", x=0.01, ha="left")
        for panel, run in zip(panels.flat, runs):
            latents = np.stack(run.latents)[-max(1, round(LATER * len(run.latents))) :]  # (refreshes, 20, 2)
            panel.scatter(*latents.reshape(-1, 2).T, s=5, c=np.tile(np.array(colors), (len(latents), 1)), linewidths=0)
            panel.grid(False)
            panel.set(xlim=(-3.6, 3.6), ylim=(-3.6, 3.6), aspect="equal", xticks=range(-3, 4), yticks=range(-3, 4))
            panel.set_title(run.method, color=COLORS[run.method], fontweight="bold")
            for radius in (1, 2, 3):
                panel.add_patch(pyplot.Circle((0, 0), radius, fill=False, color=PALE, zorder=0))
        figure.text(0.01, 0.967, "all that were selected in the last half of training, in the colours of their images:", va="top")
        key = figure.add_axes((0.87, 0.938, 0.1, 0.055))  # beside the title
        key.scatter(*infinity_symbol().numpy().T, s=18, c=colors, linewidths=0, clip_on=False)
        key.axis("off")
        save(figure, path)


def draw_laws(runs: list[Run], path: Path) -> None:
    """Draw the laws of the distance to a point, and the distances that each method selects."""
    with canvas() as pyplot:
        figure, panels = pyplot.subplots(*GRID, figsize=(14.4, 7.6), sharex=True, sharey=True)
        figure.suptitle(
            "Distance from an image to what is selected for it: IMLE's is the law of the nearest of m,\n"
            "the rank prior's that of the nearest of n; a radius or a single rank makes all alike",
            x=0.01,
            ha="left",
        )
        for panel, run in zip(panels.flat, runs):
            laws, grid = run.laws, LAW_GRID
            panel.plot(grid, laws.fresh, color=GREY, label="$F$: any sample")
            panel.plot(grid, laws.least_of_n, "--", color=INK, label=f"$1-(1-F)^n$: nearest of n = {NUM_POINTS}")
            panel.plot(grid, laws.least_of_m, ":", color=INK, label=f"$1-(1-F)^m$: nearest of m = {POOL_FACTOR * NUM_POINTS}")
            panel.plot(grid[::5], laws.selected[::5], "o", ms=5, color=COLORS[run.method])
            panel.plot([], [], "o", ms=6, color=GREY, label="selected, measured")
            panel.set(xscale="log", xlim=(2e-3, 3), ylim=(-0.02, 1.04), xticks=(0.01, 0.1, 1), xticklabels=("0.01", "0.1", "1"))
            panel.set_title(run.method, color=COLORS[run.method], fontweight="bold")
        for panel in panels[1]:
            panel.set_xlabel("distance")
        for panel in panels[:, 0]:
            panel.set_ylabel("share that is nearer")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save(figure, path)


def draw_diagnostics(runs: list[Run], path: Path) -> None:
    """Draw the diagnostics of refreshes against steps, as means over seeds."""
    headings = {
        "pit": "PIT: share of the pool nearer than the match",
        "latent_gap": f"latent gap of what is selected in {len(runs[0].latents) * REFRESH_STEPS // NUM_BINS} steps: 1 is no gap",
        "train_test_gap": "train-test gap: mean distance of samples less that of matches",
        "rejected_share": "share of the pool rejected",
    }
    with canvas() as pyplot:
        figure, panels = pyplot.subplots(2, 2, figsize=(12, 8.7), sharex=True)
        figure.suptitle("IMLE is trained on other latents than it is sampled from, and the diagnostics tell", x=0.01, ha="left")
        for panel, (name, heading) in zip(panels.flat, headings.items()):
            for method in METHODS:
                steps, values = diagnostic([run for run in runs if run.method == method], name)
                dashes = "--" if method == "Adaptive IMLE" else "-"  # dashed where it covers IMLE's line
                panel.plot(steps, values, dashes, color=COLORS[method], label=method)
            panel.set_title(heading)
        pit, gap, difference, rejected = panels.flat
        pit.set(yscale="log", ylim=(8e-4, 0.12), yticks=(0.001, 0.01, 0.1), yticklabels=("0.001", "0.01", "0.1"))
        for count, name in ((NUM_POINTS, "n"), (POOL_FACTOR * NUM_POINTS, "m")):
            pit.axhline(1 / (count + 1), color=INK, linewidth=0.8, linestyle=":")
            pit.annotate(
                f"1/({name}+1)",
                (1, 1 / (count + 1)),
                xycoords=("axes fraction", "data"),
                xytext=(-4, 4),
                textcoords="offset points",
                ha="right",
                fontsize=10,
            )
        gap.axhline(1, color=INK, linewidth=0.8, linestyle=":")
        difference.axhline(0, color=INK, linewidth=0.8, linestyle=":")
        rejected.annotate("none: both IMLE, Adaptive IMLE and the ranks", (0, 0), xytext=(4, 5), textcoords="offset points", fontsize=10)
        for panel in panels[1]:
            panel.set_xlabel("step")
            panel.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
        figure.legend(*pit.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        save(figure, path)


def diagnostic(runs: list[Run], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres of the bins of steps, and the mean of a diagnostic over `runs` in each bin."""
    rows = [row for run in runs for row in run.refreshes]
    steps, values = np.array([row["step"] for row in rows]), np.array([row[name] for row in rows])
    edges = np.linspace(0, len(runs[0].latents) * REFRESH_STEPS, NUM_BINS + 1)
    bins = [(begin, end) for begin, end in itertools.pairwise(edges) if ((steps >= begin) & (steps < end)).any()]
    if name == "latent_gap":
        means = [np.mean([pooled_gap(run, begin, end) for run in runs]) for begin, end in bins]
    else:
        means = [values[(steps >= begin) & (steps < end)].mean() for begin, end in bins]
    return np.array([(begin + end) / 2 for begin, end in bins]), np.array(means)
