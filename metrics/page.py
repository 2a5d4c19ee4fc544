"""report.html: an evaluation as one file for people; it needs only a browser and no network."""

import base64
import io
import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from metrics import report
from metrics.backtracking import Backtrack
from metrics.copying import PERCENTILE
from metrics.document import write
from metrics.evaluation import Evaluation
from metrics.images import Images
from metrics.interface import Reals
from metrics.measure import number_of
from metrics.neighbours import Recall
from metrics.paths import Strips
from metrics.prdc import nearest_distances, nearest_other_distances

MAX_SIDE = 96  # pixels of a picture on the page; larger pictures are reduced
SHEET = 64  # samples
NEAREST = 3  # training images beside a sample
MOST_COPIED, AT_RANDOM = 12, 20  # samples beside their nearest training images
RECALL_ROWS = 24  # real images beside their nearest samples
RECALL_SAMPLES = 6
STRIPS = 8
BINS = 30
CURVES = (  # of the run: title, kind of log row, values
    ("Loss of the matched samples", "train", ("loss",)),
    ("Energy distance to the training images", "score", ("energy_distance", "matched_energy_distance")),
    ("Distance to the nearest training image", "score", ("sample_to_nearest", "image_to_nearest")),
    ("Share of training images with a match of their own", "refresh", ("unique_matches",)),
)


class Picture(NamedTuple):
    """One image on the page: its data URL, its width and height on the page, and its description."""

    source: str
    width: int
    height: int
    text: str


class Row(NamedTuple):
    """Pictures that belong together, and their caption."""

    pictures: list[Picture]
    text: str


class Chart(NamedTuple):
    """Lines in the unit square, y upwards: labels with points, and the labels at the ends of both axes."""

    title: str
    series: list[tuple[str, str]]
    x_axis: tuple[str, str]
    y_axis: tuple[str, str]


def write_page(out: Path, document: dict, found: Evaluation, samples: Images, reals: Reals, run: Path | None) -> None:
    """Write report.html into `out`; `document` is the contents of metrics.json, `run` the run folder for its training curves."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("metrics", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    distances = _distances(found, found.network) if found.network else None
    text = environment.get_template("report.html.jinja").render(
        document=document,
        rows=report.rows(found.measured, found.calibration),
        legend=report.legend(found.measured, found.calibration),
        bars=_bars(document),
        sheet=[_picture(image, f"sample {i}") for i, image in enumerate(samples.pick(list(range(min(SHEET, samples.count)))))],
        nearest=_nearest(distances, samples, reals) if distances else [],
        recall=[row for each in found.of(Recall) for row in _recall(each, samples, reals)],
        histogram=_histogram(distances) if distances else None,
        strips=[row for each in found.of(Strips) for row in _strips(each)],
        backtracks=[(each.name, _backtracked(each, reals)) for each in found.of(Backtrack)],
        curves=_curves(run) if run else [],
        provenance=json.dumps(
            {key: document[key] for key in document if key not in ("metrics", "calibration", "verdict", "warnings")}, indent=2
        ),
    )
    write(out / "report.html", text)


class _Distances(NamedTuple):
    """Distances to training images in the features of the copy rate, in units of its threshold."""

    samples: Tensor  # (M,) of samples to their nearest training image
    nearest: Tensor  # (M, NEAREST) numbers of the nearest training images
    images: Tensor  # (n,) of training images to their nearest other one


def _distances(found: Evaluation, network: str) -> _Distances | None:
    """Return the distances of the copy rate, mirrored training images included; None if its threshold is 0 or undefined."""
    real, fake = found.sets.real[network], found.sets.fake[network]
    if len(real) < 2:
        return None
    images = nearest_other_distances(real)
    threshold = float(torch.quantile(images, PERCENTILE))
    if threshold == 0:
        return None
    others = torch.cat([real, found.sets.mirror[network]]) if found.sets.mirror else real
    samples, first = nearest_distances(fake, others)
    order = torch.cat([torch.cdist(part, others).topk(min(NEAREST, len(real)), largest=False).indices for part in fake.split(1024)])
    order[:, 0] = first
    return _Distances(samples / threshold, order % len(real), images / threshold)


def _nearest(distances: _Distances, samples: Images, reals: Reals) -> list[Row]:
    """Return the samples nearest to a training image, then the first samples, each beside its nearest training images."""
    most = distances.samples.argsort()[:MOST_COPIED].tolist()
    chosen = most + [i for i in range(min(AT_RANDOM, samples.count)) if i not in most]
    rows = []
    for place, (index, image) in enumerate(zip(chosen, samples.pick(chosen))):
        distance = float(distances.samples[index])
        pictures = [_picture(image, f"sample {index}")]
        pictures += [_picture(reals.images[other], f"training image {other}") for other in dict.fromkeys(distances.nearest[index].tolist())]
        rows.append(
            Row(
                pictures,
                f"sample {index}: {distance:.2f}{', a near copy' if distance < 1 else ''}"
                + (f" (one of the {len(most)} nearest)" if place < len(most) else ""),
            )
        )
    return rows


def _recall(found: Recall, samples: Images, reals: Reals) -> list[Row]:
    """Return real images (held-out ones if any) beside their nearest samples, the smallest distance first."""
    n = len(reals.images)
    held = found.distances.shape[1] > n
    columns, images, name = (
        (found.distances[:, n:], reals.heldout[reals.queries], "held-out") if held else (found.distances, reals.images, "training")
    )
    order = columns.amin(dim=0).argsort().tolist()
    count = min(RECALL_ROWS, len(order))
    rows = []
    for query in [order[(i + 1) * len(order) // count - 1] for i in range(count)]:  # evenly spread, with the largest distance last
        distances, index = columns[:, query].topk(min(RECALL_SAMPLES, samples.count), largest=False)
        number = reals.queries[query] if held else query
        pictures = [_picture(images[query], f"{name} image {number}")]
        pictures += [
            _picture(image, f"sample {i}, at {d:.2f}")
            for i, d, image in zip(index.tolist(), distances.tolist(), samples.pick(index.tolist()))
        ]
        rows.append(Row(pictures, f"{name} image {number}: {distances[0]:.2f}"))
    return rows


def _strips(found: Strips) -> list[Row]:
    """Return interpolations evenly spread from the smallest to the largest jump ratio, every other frame."""
    order = found.jump_ratios.argsort().tolist()
    chosen = [order[i * (len(order) - 1) // (STRIPS - 1)] for i in range(STRIPS)]
    return [
        Row(
            [_picture(frame, f"frame {2 * i}") for i, frame in enumerate(found.images[strip][::2])],
            f"longest step {found.jump_ratios[strip]:.1f} times the mean",
        )
        for strip in chosen
    ]


def _backtracked(each: Backtrack, reals: Reals) -> list[Row]:
    images = (reals.heldout if each.name == "heldout" else reals.images)[each.index]
    order = each.found.distances.argsort().tolist()
    return [
        Row(
            [_picture(images[i], "image"), _picture(each.found.reconstructions[i], "reconstruction")],
            f"{each.found.distances[i]:.2f} (nearest training image {each.to_nearest[i]:.2f})",
        )
        for i in order
    ]


def _bars(document: dict) -> list[tuple[str, list[tuple[str, str, float]]]]:
    """Return for every metric with a bar chart: label, printed value and share of the maximum, for each comparison."""
    charts = []
    for name, number in document["metrics"].items():
        if not number_of(name).chart or number["value"] is None:
            continue
        beside = {column: document["calibration"].get(key) for column, key in report.BESIDE.items()}
        values = {"these samples": number["value"]} | {column: each["values"].get(name) for column, each in beside.items() if each}
        values = {label: value for label, value in values.items() if value is not None}
        greatest = max(*values.values(), 1e-12) if number["interval"] is None else 1.0
        charts.append(
            (
                number["printed_as"],
                [(label, report.printed_value(name, value), max(value, 0) / greatest) for label, value in values.items()],
            )
        )
    return charts


def _histogram(distances: _Distances) -> Chart:
    end = float(torch.quantile(torch.cat([distances.samples, distances.images]), 0.99)) or 1.0
    counts = {
        label: torch.histc(values.float().clamp(max=end), BINS, 0, end) / len(values)
        for label, values in (("samples", distances.samples), ("training images, to their nearest other", distances.images))
    }
    top = float(max(each.max() for each in counts.values())) or 1.0
    series = []
    for label, shares in counts.items():
        corners = [(0.0, 0.0)]
        for i, share in enumerate(shares.tolist()):
            corners += [(i / BINS, share / top), ((i + 1) / BINS, share / top)]
        series.append((label, _points([*corners, (1.0, 0.0)])))
    return Chart(
        "Distance to the nearest training image, in units of the copying threshold", series, ("0", f"{end:.1f}"), ("0", f"{top:.0%}")
    )


def _curves(run: Path) -> list[Chart]:
    """Return the training curves of a run that have at least two points in metrics.jsonl."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    charts = []
    for title, kind, names in CURVES:
        series = {name: [(row["step"], row[name]) for row in rows if row["kind"] == kind and row.get(name) is not None] for name in names}
        points = [point for each in series.values() for point in each]
        if len(points) < 2 * len(names):
            continue
        last, low, high = max(step for step, _ in points) or 1, min(y for _, y in points), max(y for _, y in points)
        scale = (high - low) or 1.0
        charts.append(
            Chart(
                title,
                [
                    (name.replace("_", " "), _points([(step / last, (y - low) / scale) for step, y in each]))
                    for name, each in series.items()
                ],
                ("0", f"step {last}"),
                (f"{low:.3g}", f"{high:.3g}"),
            )
        )
    return charts


def _points(points: list[tuple[float, float]]) -> str:
    """Return points of the unit square as text for an SVG of 300 by 120."""
    return " ".join(f"{300 * x:.1f},{120 * (1 - y):.1f}" for x, y in points)


def _picture(image: Tensor, text: str) -> Picture:
    """Return a uint8 image (3, H, W) as a picture of the page."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = MAX_SIDE / max(picture.size)
    if scale < 1:
        picture = picture.resize([math.ceil(side * scale) for side in picture.size], Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return Picture("data:image/png;base64," + base64.b64encode(file.getvalue()).decode(), *picture.size, text)
