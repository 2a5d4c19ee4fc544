"""The table of metrics: each name stands there alone, and what the commands print and skip is read off its rows."""

import ast
import math
import re
from pathlib import Path

import pytest
import torch

from metrics import measure, report
from metrics.cache import Cache
from metrics.evaluation import Evaluator
from metrics.images import Images
from metrics.interface import Comparison, Measurement, Reals, Sets, Value
from metrics.measure import NUMBERS, PROTOCOLS
from metrics.table import GENERATOR, METRICS, Metric, Number

ROOT = Path(__file__).parents[2]
EFFNET = PROTOCOLS["default", "effnet-lite0"]
NAMES = {*METRICS} | {number.name for metric in METRICS.values() for number in metric.numbers}
# A network's name, a stage of the progress bar, and the results of `prdc.prdc`, which measures outside evaluations as well.
ELSEWHERE = {"backtracking.py": {"backtracking"}, "features.py": {"dinov2"}, "prdc.py": {"precision", "recall", "density", "coverage"}}


@pytest.mark.parametrize("path", [*sorted((ROOT / "metrics").glob("*.py")), ROOT / "evaluate.py"], ids=lambda path: path.name)
def test_names_of_metrics_are_spelled_in_the_table_alone(path):
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    spelled = NAMES & {word for text in texts for words in [text, *re.findall(r"\w+(?:,\w+)+", text)] for word in words.split(",")}
    assert spelled <= (NAMES if path.name == "table.py" else ELSEWHERE.get(path.name, set()))


def test_metrics_know_no_method():
    methods = [path.stem for path in ROOT.iterdir() if path.name in ("imle", "baselines")]
    assert methods
    for path in sorted((ROOT / "metrics").iterdir()):
        if path.suffix in (".py", ".jinja") and path.name != "cache.py":  # which hashes all source
            words = path.read_text().replace("rs-imle.evaluation", "")  # the schema carries the project's name
            assert not any(method in words for method in methods), path


def test_names_in_all_protocols_belong_to_one_number_each():
    for protocol in PROTOCOLS.values():
        names = [name for key in protocol.metrics for name in METRICS[key].named(protocol)]
        assert len(names) == len(set(names)) and all(name in NUMBERS for name in names)


@pytest.fixture
def brightness(monkeypatch):
    """Add a row: the mean brightness of the samples over that of the real images, by thumbnails."""

    def ratio(seen: Comparison) -> list[Value]:
        return [Value(float(seen.fake.mean() / seen.real.mean()), error=0.5)]

    row = Metric("light", ratio, "thumbnail", (Number("brightness", "higher", scale=10, digits=1, chart=True),))
    monkeypatch.setitem(METRICS, "light", row)
    monkeypatch.setitem(NUMBERS, "brightness", row.numbers[0])


def test_a_row_is_all_that_a_number_needs_to_be_measured_and_printed(brightness):
    sets = Sets({"thumbnail": torch.full((4, 768), 100.0)}, {"thumbnail": torch.full((5, 768), 150.0)})
    measured = measure.measure(sets, EFFNET, ["light"])
    assert measured == {"brightness": Measurement(1.5, "higher", 4, 5, error=0.5, network="thumbnail")}
    assert measure.networks_of(EFFNET, ["light"]) == ["thumbnail"] and measure.weights_of(EFFNET, ["light"], True) == []
    line = report.table(measured, {}).splitlines()[1]
    assert line.split()[:6] == ["brightness", "(x10)", "15.0", "+-", "5.0", "higher"]


def test_a_function_with_too_few_values_is_an_error_of_ours():
    with pytest.raises(ValueError, match="zip"):
        measure.measurements(METRICS["fid"], [Value(1.0)], EFFNET, num_real=1, num_fake=1)


def test_numbers_of_the_generator_are_skipped_with_the_reason_where_there_is_none(tmp_path, monkeypatch):
    images = torch.zeros(3, 3, 16, 16, dtype=torch.uint8)
    wrapped = Images.of_tensor("images", images)
    keys = [key for key, metric in METRICS.items() if metric.source == GENERATOR]
    evaluator = Evaluator(EFFNET, keys, device="cpu", cache=Cache(tmp_path), num_backtracked=1)
    measured = evaluator([wrapped], Reals(images, images[:0], wrapped, None, None), "a diffusion model can invert any image").measured
    assert len(measured) == len(keys) == 3
    assert all(each.value is None and each.num_fake == 0 and each.better == "lower" for each in measured.values())
    warnings = report.warnings_of(measured)
    assert sum("was not computed: a diffusion model can invert any image" in each for each in warnings) == 3


def test_a_number_of_an_older_version_is_still_printed():
    assert report.printed_name("forgotten", 10) == "forgotten" and report.printed_value("forgotten", math.pi) == "3.14"
