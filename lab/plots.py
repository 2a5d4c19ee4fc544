"""The common style of all figures: fonts, colours, logarithmic axes, and saving."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from PIL import Image

INK, GREY, PALE = "#333333", "#8a8a8a", "#e4e4e4"
COLORS = ("#1f4e79", "#c8553d", "#588157", "#e09f3e", "#7b5ea7", "#3d9dae", "#9a8c98", "#b56576")  # of lines, in this order
STYLE = {
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "legend.frameon": False,
    "legend.fontsize": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 2.0,
    "figure.titlesize": 15,
    "figure.titleweight": "bold",
    "figure.constrained_layout.use": True,
}


@contextmanager
def canvas() -> Iterator[ModuleType]:
    """Yield pyplot in this style, for files; close all figures at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context(STYLE):
        yield pyplot
    pyplot.close("all")


def label_log(axis, subs: tuple[float, ...] = (1,)) -> None:
    """Label a logarithmic axis in plain numbers, at `subs` times each power of ten."""
    from matplotlib.ticker import LogLocator

    axis.set(major_locator=LogLocator(subs=subs), major_formatter="{x:,g}", minor_formatter="")


def save(figure, path: Path) -> None:
    """Save a figure as a PNG of 256 colours, to save space."""
    figure.savefig(path, dpi=100)
    with Image.open(path) as picture:
        few = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
