"""sample.py --page: the generator in a browser draws what sample.py draws, and asks for nothing.

Node runs generator.js alone, a headless Chromium the page; a test that needs one that is not installed is skipped, and says so.
"""

import base64
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, Browser
from PIL import Image
from torch import nn

from errors import UserError
from imle.drawing import build_generator
from methods import open_sampler
from models.generator import Generator
from models.interpolation import slerp
from sampling import page
from sampling.page import packed, weights, write_page
from sampling.styles import mean_style
from training import checkpoint

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
ENGINE = Path(page.__file__).with_name("generator.js")
FILE = "<!--<script>\"'&amp; {{weights}} \u00fc\udcff"  # a run may have any name, even bytes that no character has
NAME = FILE.replace("\udcff", "?")
HOLDS = """
const { model, data, ...given } = JSON.parse(require("fs").readFileSync(0));
const generator = new Generator(model, Uint8Array.from(atob(data), letter => letter.charCodeAt(0)).buffer);
console.log(JSON.stringify(run(generator, given)));
"""


def computed(script: str, model: dict, data: str, **given: object) -> list:
    """Return what `script`, a function of a generator and the values given, returns in node."""
    program = f"{ENGINE.read_text()}\nconst run = {script};\n{HOLDS}"
    line = [NODE, "-e", program]
    result = subprocess.run(line, input=json.dumps({"model": model, "data": data, **given}), capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def parts(path: Path) -> tuple[dict, str]:
    """Return the facts of a page and its weights, as its own script reads them."""
    text = path.read_text(encoding="utf-8")
    facts, data = (re.search(rf'id="{name}">(.*?)</script>', text, re.S)[1] for name in ("data", "weights"))
    return json.loads(facts), data


@torch.no_grad()
def rounded(**shape: object) -> Generator:
    """Return a random generator in float64 whose weights already have the values that a page rounds them to."""
    torch.manual_seed(0)
    generator = Generator(latent_dim=5, style_dim=7, mapping_layers=2, **shape).double()
    for name, tensor in [*generator.named_parameters(), *generator.named_buffers()]:
        if name.endswith(("bias", "strengths")):
            nn.init.normal_(tensor)  # at the start most are 0
        scale = tensor.abs().max() / 32767
        tensor.copy_((tensor / scale).round() * scale)
    return generator


SHAPES = [
    {"channels": [16, 16, 12, 8], "blocks": [2, 1, 2, 1]},
    {"channels": [10, 7, 3], "blocks": [1, 1, 2], "noise": True, "start": (4, 6)},
    {"channels": [9], "blocks": [1], "start": (3, 1)},
    {"channels": [4, 22], "blocks": [1, 1], "noise": True, "start": (1, 1), "outputs": 4},
    {"channels": [5, 6], "blocks": [1, 1], "outputs": 1},
]


@needs_node
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_engine_computes_the_generator(shape):
    generator, z = rounded(**shape), torch.randn(2, 5, dtype=torch.float64)
    mean = torch.randn(7)
    model, data = packed(generator, weights(generator) | {"latents": torch.zeros(1, 5), "mean": mean})
    scale = model["tensors"]["mean"]["scale"]
    mean = (mean.double() / scale).round() * scale
    script = "(generator, { z }) => z.flatMap(latent => [1, 0.3].map(truncation => generator.image(generator.style(latent, truncation))))"
    found = computed(script, model, base64.b64encode(data).decode(), z=z.tolist())
    styles = torch.stack([mean + truncation * (w - mean) for w in generator.mapping(z) for truncation in (1, 0.3)])
    for image, expected in zip(found, generator.synthesise(styles), strict=True):
        assert (image["height"], image["width"]) == generator.resolution == tuple(expected.shape[1:])
        values = torch.tensor(list(image["data"].values()), dtype=torch.float64).view(*expected.shape[1:], -1).permute(2, 0, 1)
        assert (values - expected).norm() < 1e-5 * expected.norm()


@needs_node
def test_gelu_and_interpolation_are_those_of_torch():
    generator = rounded(channels=[4], blocks=[1])
    model, data = packed(generator, weights(generator) | {"latents": torch.zeros(1, 5), "mean": torch.zeros(7)})
    x = torch.cat([torch.linspace(-8, 8, 4001), torch.tensor([0.0, 1e3, -1e3, 6, -6])]).double()
    a, b = torch.randn(2, 5, dtype=torch.float64)
    pairs = [(a, b), (a, a), (a, -a), (a, 3 * b), (a, torch.zeros(5).double())]
    shares = [0.0, 0.25, 0.5, 1.0]
    script = "(_, { x, pairs, shares }) => [Array.from(gelu(x)), pairs.flatMap(([a, b]) => shares.map(t => Array.from(slerp(a, b, t))))]"
    given = {"x": x.tolist(), "pairs": [[u.tolist(), v.tolist()] for u, v in pairs], "shares": shares}
    values, path = computed(script, model, base64.b64encode(data).decode(), **given)
    assert (torch.tensor(values, dtype=torch.float64) - nn.functional.gelu(x)).abs().max() < 2e-7
    expected = torch.cat([slerp(u[None], v[None], torch.tensor([[t]]).double()) for u, v in pairs for t in shares])
    torch.testing.assert_close(torch.tensor(path, dtype=torch.float64), expected, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def rectangle(smoke_run, tmp_path_factory):
    """Return an export of an untrained generator of 32 x 48 pixels, with noise, under a name that a page must escape."""
    return untrained(smoke_run, tmp_path_factory.mktemp("rectangle") / f"{FILE}.pt", resolution=[32, 48])


@pytest.fixture
def rgba(smoke_run, tmp_path):
    return untrained(smoke_run, tmp_path / "rgba.pt", channels="rgba")


@pytest.fixture
def grey(smoke_run, tmp_path):
    return untrained(smoke_run, tmp_path / "grey.pt", channels="grey")


def untrained(smoke_run: Path, path: Path, **data: object) -> Path:
    """Write an export of an untrained generator with noise and these settings of the section data."""
    state = checkpoint.load(smoke_run / "checkpoints" / "last.pt")
    state["config"]["data"] |= data
    state["config"]["model"]["noise"] = True
    torch.manual_seed(0)
    generator = build_generator(state["config"])
    strengths = {f"blocks.{i}.strengths": torch.randn(len(block.strengths)) for i, block in enumerate(generator.blocks)}
    state["sampled"] = generator.state_dict() | strengths
    checkpoint.save({key: state[key] for key in ("config", "data", "step", "selected_by", "sampled") if key in state}, path)
    return path


@needs_node
@pytest.mark.parametrize("source", ["smoke_run", "rectangle", "rgba", "grey", "rs", "adaptive"])
def test_the_pictures_are_those_of_sample_py(source, request, tmp_path):
    """Also of runs of an earlier revision."""
    old = Path(__file__).parents[1] / "imle" / "old_runs"
    sampler = open_sampler(old / source if source in ("rs", "adaptive") else request.getfixturevalue(source))
    write_page(sampler, tmp_path / "page.html")
    facts, data = parts(tmp_path / "page.html")
    script = """(generator, { seeds, size }) => seeds.map(seed =>
        Array.from(pixels(generator.image(generator.style(generator.latents.data.subarray(seed * size, seed * size + size))))))"""
    seeds = [0, 7, 255]
    found = computed(script, facts["model"], data, seeds=seeds, size=sampler.drawing.latent_dim)
    height, width = sampler.resolution
    assert (facts["height"], facts["width"]) == (height, width)
    images = torch.tensor(found).view(3, height, width, 4).permute(0, 3, 1, 2)
    if sampler.channels == "rgba":
        images[:, :3] = images[:, :3] * images[:, 3:] // 255  # samples are premultiplied, pictures of a canvas are not
        assert images[:, 3].unique().numel() > 100
    else:
        assert (images[:, 3] == 255).all()
    images = images[:, : 4 if sampler.channels == "rgba" else 3]
    assert (images - sampler.images(seeds).int()).abs().max() <= 2


# --- the page in a browser


@pytest.fixture(scope="module")
def shown(rectangle, tmp_path_factory):
    """Return a browser that shows the page of the rectangular generator, from a file, with all pictures drawn; and the sampler."""
    folder = tmp_path_factory.mktemp("shown # %41 \u00fc")
    write_page(open_sampler(rectangle), folder / "page.html")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    try:
        browser.ask("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=1, mobile=True)
        browser.open((folder / "page.html").as_uri())
        yield browser, open_sampler(rectangle)
    finally:
        browser.close()


def drawn(browser: Browser, canvas: str) -> torch.Tensor:
    """Return the pixels (3, H, W) of a canvas, once nothing waits to be drawn."""
    browser.value(
        """new Promise(done => { (function look() {
            if (waiting.some(set => set.size) || idle.length < workers) setTimeout(look, 20); else done();
        })(); })""".replace("workers", "Math.max(1, Math.min(4, navigator.hardwareConcurrency - 1))")
    )
    data = browser.value(f"{canvas}.toDataURL()").partition(",")[2]
    return torch.from_numpy(np.array(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))).permute(2, 0, 1)


def apart(a: torch.Tensor, b: torch.Tensor) -> int:
    """Return the largest difference of two uint8 images, in levels."""
    return (a.int() - b.int()).abs().max().item()


@needs_chromium
def test_the_page_shows_the_seeds_and_their_mixture(shown):
    browser, sampler = shown
    assert apart(drawn(browser, "$('wall').children[7].firstChild"), sampler.images([7])[0]) <= 2
    a, b, c, d = sampler.latents([0, 1, 2, 3])[:, None]
    half = torch.tensor([[0.5]])
    assert apart(drawn(browser, "$('picture')"), sampler.decode(slerp(slerp(a, b, half), slerp(c, d, half), half))[0]) <= 2
    browser.value("$('corner2').click(); $('another').click(); $('wall').children[7].click()")
    assert apart(drawn(browser, "$('picture')"), sampler.images([71])[0]) <= 2
    assert browser.value("[corners.join(), active, $('pad').ariaValueText].join(' ')") == "0,1,71,3 3 100% seed 71"
    browser.value("$('another').click(); $('another').click(); $('another').click()")
    assert browser.value("$('seeds').textContent") == "Seeds 0 to 63"


@needs_chromium
def test_a_finger_and_the_keys_move_the_point(shown):
    browser, _ = shown
    browser.value("scrollTo(0, 0)")
    box = browser.value("(box => [box.left, box.top, box.width, box.height])($('pad').getBoundingClientRect())")

    def touch(kind: str, x: float, y: float) -> None:
        points = [{"x": box[0] + x * box[2], "y": box[1] + y * box[3]}] if kind != "touchEnd" else []
        browser.ask("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", 0.5, 0.5)
    touch("touchMove", 0.7, 0.3)  # the middles of the pictures at the edges are the ends: (0.7 * 5 - 0.5) / 4
    touch("touchEnd", 0, 0)
    assert browser.value("[point.x.toFixed(2), point.y.toFixed(2)].join()") == "0.75,0.25"
    assert browser.value("scrollY") == 0
    touch("touchStart", 0.99, 0.01)
    touch("touchEnd", 0, 0)
    assert browser.value("[point.x, point.y].join()") == "1,0"
    for key in ("ArrowLeft", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowUp", "ArrowUp"):
        browser.value("$('pad').focus()")
        browser.ask("Input.dispatchKeyEvent", type="keyDown", key=key)
    assert browser.value("[point.x, point.y].join()") == "0.95,0"
    assert browser.value("$('pad').ariaValueText") == "5% seed 0, 95% seed 1"


@needs_chromium
def test_truncation_pulls_all_pictures_to_the_mean_style(shown):
    browser, sampler = shown
    slide = "(value => { $('truncation').value = value; $('truncation').dispatchEvent(new Event('input')); })"
    browser.value(f"{slide}(0)")
    mean = mean_style(sampler.generator)[None]
    with torch.no_grad():
        expected = sampler._bytes(sampler.generator.synthesise(mean))[0]
    assert apart(drawn(browser, "$('picture')"), expected) <= 2
    assert apart(drawn(browser, "$('wall').children[9].firstChild"), drawn(browser, "document.querySelector('#pad canvas')")) == 0
    browser.value(f"{slide}(1)")
    assert apart(drawn(browser, "$('wall').children[9].firstChild"), sampler.images([9])[0]) <= 2


@needs_chromium
def test_the_picture_is_saved_under_a_name_that_says_what_it_is(shown):
    browser, sampler = shown
    browser.value("$('corner0').click(); $('wall').children[12].click()")
    drawn(browser, "$('picture')")
    name, data = browser.value(
        """new Promise(done => {
            const made = URL.createObjectURL;
            let blob;
            URL.createObjectURL = each => made(blob = each);
            HTMLAnchorElement.prototype.click = async function () {
                done([this.download, btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())))]);
            };
            $('save').click();
        })"""
    )
    assert name == "_!--_script_'&amp;_{{weights}}_\u00fc_-seed-12.png"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.size) == ("PNG", (48, 32))
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    assert apart(pixels, sampler.images([12])[0]) <= 2
    browser.value("move(0.25, 1); truncation = 0.7")
    assert browser.value("nameOfPicture()").endswith("-at-0.25-1.00-truncation-0.70.png")
    browser.value("truncation = 1")


@needs_chromium
def test_the_page_asks_for_nothing_and_complains_of_nothing(shown):
    browser, _ = shown
    assert browser.value("document.title") == f"Explore {NAME}"
    assert browser.value("document.querySelector('h1').textContent") == NAME
    assert browser.value("document.documentElement.scrollWidth") == 360  # of the phone
    assert browser.value("[...document.querySelectorAll('button, label')].every(each => each.getBoundingClientRect().height >= 24)")
    assert browser.value("$('alert').textContent") == "" and browser.complaints == []
    [own, *others] = browser.requests
    assert own.startswith("file://") and all(each.startswith("blob:") for each in others)
    browser.value("fetch('http://127.0.0.1:9/').catch(() => 0)")  # the page's own rule refuses it, and the console says so
    browser.value("0")
    assert "Content Security Policy" in json.dumps(browser.complaints)


# --- the command


def test_the_command_writes_the_page_alone(command, smoke_run, tmp_path):
    result = command("sample.py", smoke_run, "--page", tmp_path / "explore.html", "--device", "cpu")
    assert result.returncode == 0 and result.stdout.startswith(f"{tmp_path / 'explore.html'}: 0.1 MB"), result
    assert [path.name for path in tmp_path.iterdir()] == ["explore.html"]
    facts, data = parts(tmp_path / "explore.html")
    assert (facts["name"], facts["images"], facts["step"], facts["parameters"]) == ("smoke", 90, 36, 13_771)
    assert len(base64.b64decode(data)) == 2 * (13_771 + 256 * 32 + 32)  # weights, latents, the mean style


def test_a_page_that_cannot_be_written_is_one_line(command, smoke_run, tmp_path):
    (tmp_path / "page.html").write_text("before")
    for words, options in ((["--page", tmp_path / "none" / "x.html"], {}), (["--page", tmp_path / "page.html"], {"file_limit": 500})):
        result = command("sample.py", smoke_run, *words, **options)
        assert result.returncode == 2 and "cannot be written" in result.stderr and result.stderr.count("\n") == 1, result
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"] and (tmp_path / "page.html").read_text() == "before"


def test_a_generator_without_styles_has_no_page(smoke_run, tmp_path):
    sampler = open_sampler(smoke_run)
    sampler.drawing = sampler.drawing._replace(generator=None, why="a diffusion model draws in many steps")
    with pytest.raises(UserError, match="--page: .* has no styles to steer: a diffusion model draws in many steps"):
        write_page(sampler, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_broken_weights_make_no_page(smoke_run, tmp_path):
    sampler = open_sampler(smoke_run)
    sampler.drawing.generator.to_rgb.bias[1] = float("nan")
    with pytest.raises(UserError, match="weights that are not finite"):
        write_page(sampler, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())
