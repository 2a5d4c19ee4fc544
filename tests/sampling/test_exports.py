"""Exports for elsewhere: ONNX, safetensors with a model card, and the lines of Python in the README."""

import errno
import json
import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors.torch
import torch
import yaml

from errors import UserError
from methods import load_config, open_sampler
from models.generator import Generator
from sampling import exports
from sampling.exports import write_export
from training import checkpoint
from training.drawing import generate
from training.settings import to_dict

ROOT = Path(__file__).parents[2]
SCORING = ["--features", "effnet-lite0", "--metrics", "sharpness", "--num-samples", 20, "--device", "cpu"]
DOCUMENTS = ("README.md", "docs/runs.md")
FILES = ["README.md", "config.json", "model.safetensors", "samples.png"]


@pytest.fixture(scope="module")
def hub(command, smoke_run, tmp_path_factory):
    """Return the folder of an export of the smoke run."""
    folder = tmp_path_factory.mktemp("exports") / "new" / "hub"
    result = command("sample.py", smoke_run, "--export", folder / "model.safetensors", "--device", "cpu")
    assert result.returncode == 0 and "fill in its licence" in result.stdout and "64/64 images for samples.png\n" in result.stderr, result
    return folder


@pytest.fixture(scope="module")
def scored(command, smoke_run, tmp_path_factory):
    """Return a copy of the smoke run with scores."""
    run = shutil.copytree(smoke_run, tmp_path_factory.mktemp("scored") / "smoke")
    result = command("evaluate.py", run, *SCORING)
    assert result.returncode == 0, result.stderr
    return run


def header(card: str) -> dict:
    """Return the YAML header of a card."""
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


# --- safetensors


def test_a_folder_for_the_hub_is_whole_and_names_no_path_of_this_machine(hub, smoke_run):
    assert sorted(path.name for path in hub.iterdir()) == FILES
    for path in hub.iterdir():
        assert str(smoke_run.parent).encode() not in path.read_bytes() and str(ROOT).encode() not in path.read_bytes(), path
    assert (hub / "samples.png").read_bytes() == (smoke_run / "samples" / "step-0000036.png").read_bytes()
    settings = to_dict(load_config(hub / "config.json"))
    assert settings == open_sampler(smoke_run).config | {"data": settings["data"]} and settings["data"]["path"] == "fluent_faces"


def test_the_one_file_is_enough_and_every_command_takes_it(hub, smoke_run, scored, command, tmp_path):
    alone = Path(shutil.copy(hub / "model.safetensors", tmp_path / "mine.safetensors"))
    assert torch.equal(open_sampler(alone).images(range(9)), open_sampler(smoke_run).images(range(9)))
    result = command("evaluate.py", alone, "--data", ROOT / "data" / "fluent_faces", *SCORING)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "mine-evaluation" / "effnet-lite0" / "metrics.json").read_text())
    assert found["metrics"] == json.loads((scored / "evaluation" / "effnet-lite0" / "metrics.json").read_text())["metrics"]
    assert command("sample.py", alone, "--export", tmp_path / "again.pt").returncode == 0
    assert torch.equal(open_sampler(tmp_path / "again.pt").images([5]), open_sampler(smoke_run).images([5]))


def test_an_export_to_a_folder_replaces_nothing(hub, smoke_run, tmp_path):
    for name in FILES:
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(
            UserError, match=f"^{folder / name}: is there already, .* give it a new folder: --export NEW/model.safetensors$"
        ):
            write_export(open_sampler(smoke_run), folder / "model.safetensors")
        assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == "mine"


def test_an_export_to_a_full_disk_leaves_nothing_half_done(smoke_run, monkeypatch, tmp_path):
    def full(path, text):
        assert len(list(path.parent.iterdir())) == 2  # the model and its samples
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(exports, "write_text", full)
    with pytest.raises(UserError, match=f"^{tmp_path}: cannot be written in .No space left on device.; make room or choose another place$"):
        write_export(open_sampler(smoke_run), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_export_to_a_folder_in_a_file_is_told(smoke_run, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"^{tmp_path / 'file'}: cannot be written in .File exists.; make room or choose another place$"):
        write_export(open_sampler(smoke_run), tmp_path / "file" / "model.safetensors")
    assert (tmp_path / "file").read_text() == "mine"


def rewritten(source: Path, target: Path, change) -> None:
    """Write the file with another header: `change` is given its metadata's state and the tensors, and may change both."""
    with safetensors.safe_open(source, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no dict)
        state = json.loads(file.metadata()["state"])
    state = change(state, tensors)
    target.write_bytes(
        safetensors.torch.save(tensors, state if isinstance(state, dict) and "state" in state else {"state": json.dumps(state)})
    )


def without_tensor(state, tensors):
    del tensors["sampled.constant"]
    return state


def without_weight(state, tensors):
    del state["sampled"]["constant"]
    return state


def of_another_shape(state, tensors):
    tensors["sampled.constant"] = torch.zeros(3)
    return state


DAMAGED = "not a checkpoint of this project, or damaged; nothing in it was run"
HOSTILE = {
    "a tensor is missing": (without_tensor, DAMAGED),
    "a weight is missing": (without_weight, "lacks a needed part, or its parts do not fit"),
    "a weight of another shape": (of_another_shape, "lacks a needed part, or its parts do not fit"),
    "no dict": (lambda state, tensors: [1], "a checkpoint of another program"),
    "one tensor": (lambda state, tensors: {"$tensor": "sampled.constant"}, "a checkpoint of another program"),
    "no name of a tensor": (lambda state, tensors: state | {"sampled": {"$tensor": [1]}}, DAMAGED),
    "of tomorrow": (lambda state, tensors: state | {"format": "rs-imle/99"}, "has format rs-imle/99, this version reads"),
    "no JSON": (lambda state, tensors: {"state": "{"}, DAMAGED),
    "deep JSON": (lambda state, tensors: {"state": "[" * 100_000}, DAMAGED),
    "of another program": (lambda state, tensors: {"state": "null"}, "a checkpoint of another program"),
}


@pytest.mark.parametrize("change, told", HOSTILE.values(), ids=HOSTILE)
def test_a_file_with_a_wrong_header_is_told(change, told, hub, tmp_path):
    path = tmp_path / "x.safetensors"
    rewritten(hub / "model.safetensors", path, change)
    with pytest.raises(UserError, match=f"^{path}: {told}"):
        open_sampler(path)


def test_damaged_and_misnamed_files_are_told(hub, smoke_run, command, tmp_path):
    whole = (hub / "model.safetensors").read_bytes()
    files = {
        "cut.safetensors": whole[:-1],
        "header.safetensors": whole[:20],
        "empty.safetensors": b"",
        "huge.safetensors": struct.pack("<Q", 2**63) + whole[8:],
        "torch.safetensors": (smoke_run / "checkpoints" / "last.pt").read_bytes(),
        "portable.pt": whole,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"^{tmp_path / name}: {DAMAGED}$"):
            open_sampler(tmp_path / name)
    with pytest.raises(UserError, match="none.safetensors: cannot be read .No such file or directory.$"):
        checkpoint.load(tmp_path / "none.safetensors")
    result = command("sample.py", tmp_path / "cut.safetensors", "--out", tmp_path / "out")
    assert result.returncode == 2 and result.stderr == f"error: {tmp_path / 'cut.safetensors'}: {DAMAGED}\n"


@pytest.mark.parametrize("package, name", [("safetensors", "x.safetensors"), ("onnx", "x.onnx"), ("onnxscript", "x.onnx")])
def test_a_missing_package_is_told(package, name, smoke_run, hub, monkeypatch, tmp_path):
    sampler = open_sampler(smoke_run)
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    advice = f"{Path(name).suffix} files need .*{package}.* not installed: pip install -r sampling/requirements.txt$"
    with pytest.raises(UserError, match=advice):
        write_export(sampler, tmp_path / "hub" / name)
    assert not (tmp_path / "hub").exists()
    if package == "safetensors":
        with pytest.raises(UserError, match=advice):
            open_sampler(hub / "model.safetensors")


# --- the card


def test_the_card_tells_facts_and_leaves_the_licence_to_the_user(hub, smoke_run):
    card, data = (hub / "README.md").read_text(), open_sampler(smoke_run).data
    assert header(card) == {
        "library_name": "rs-imle",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["rs-imle", "imle"],
    }
    assert "\n# license: " in card and "\n# smoke\n" in card and "(samples.png)" in card
    assert (
        f'Images: 90 from "fluent\\_faces", 10 more were held out; 32 x 32 pixels. Fingerprint of all of them: {data.fingerprint}.' in card
    )
    assert "Method: imle, 36 steps." in card and "has not been scored" in card and "{" not in card


def test_the_card_has_the_scores_of_its_checkpoint_alone(scored, tmp_path):
    run = shutil.copytree(scored, tmp_path / "smoke")
    report = run / "evaluation" / "effnet-lite0" / "metrics.json"
    document = json.loads(report.read_text())
    document["metrics"]["fine_power"] |= {"also_training_loss": ["x"], "value": 1 / 3}
    document["verdict"].append({"tone": "bad", "text": "<b>*Copies* | [all](x)"})
    report.write_text(json.dumps(document))
    (run / "evaluation" / "list").mkdir()
    (run / "evaluation" / "list" / "metrics.json").write_text("[]")
    sampler = open_sampler(run)
    write_export(sampler, tmp_path / "one" / "model.safetensors")
    card = (tmp_path / "one" / "README.md").read_text()
    assert "### effnet-lite0, protocol default\n" in card and "has not been scored" not in card
    assert "20 samples (from seed 0 on) were compared with 90 training images, and with 10 held-out images." in card
    assert "| fine\\_power (trained on) | 0.3333 | +- " in card and "(trained on): the model was" in card
    assert "\n- \\<b\\>\\*Copies\\* \\| \\[all\\](x)\n" in card and str(tmp_path) not in card
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(document["metrics"]) and {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {7}

    document["sampling"]["truncation"] = 0.7
    report.write_text(json.dumps(document))
    write_export(sampler, tmp_path / "truncated" / "model.safetensors")
    assert "20 samples (from seed 0 on, truncation 0.7) were" in (tmp_path / "truncated" / "README.md").read_text()
    document["input"]["sha256"] = "0" * 64
    report.write_text(json.dumps(document))
    write_export(sampler, tmp_path / "two" / "model.safetensors")
    assert "has not been scored" in (tmp_path / "two" / "README.md").read_text()


def test_names_of_the_user_break_neither_header_nor_page(smoke_run, tmp_path):
    state = checkpoint.load(smoke_run / "checkpoints" / "last.pt")
    state["config"]["data"]["path"] = "/home/alice/my `faces`\n---\nlicense: mit\n\udce4 <b>"
    state["step"] = "</td>"
    run = tmp_path / "a\n---\nlicense: mit\n<script>x\\</script>"
    (run.parent / run.name / "checkpoints").mkdir(parents=True)
    checkpoint.save(state, run / "checkpoints" / "last.pt")
    write_export(open_sampler(run), tmp_path / "hub" / 'a";`x`\n```.safetensors')
    card = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    assert sorted(header(card)) == ["library_name", "pipeline_tag", "tags"] and card.count("\n---\n") == 1
    assert "alice" not in card and not re.search(r"^license", card, re.M) and card.count("\n```") == 6
    page = re.sub(r"^```.*?^```$", "", card, flags=re.S | re.M)
    assert not re.search(r"(?<!\\)[<`]", page)
    assert '"my \\`faces\\` --- license: mit   \\<b\\>"' in page
    assert r"# script\>" in page, page


# --- ONNX


@pytest.fixture(scope="module")
def oblong(tmp_path_factory):
    """Return an export of an untrained generator of rectangles with noise of some strength."""
    words = ["data.resolution=[16,24]", "model.latent_dim=5", "model.style_dim=8", "model.mapping_layers=2", "model.noise=true"]
    config = to_dict(load_config(None, [*words, "model.channels=[8,8,4]", "model.blocks=[1,2,1]"]))
    torch.manual_seed(0)
    generator = Generator(**config["model"], start=(4, 6))
    for block in generator.blocks:
        torch.nn.init.normal_(block.strengths)
    path = tmp_path_factory.mktemp("oblong") / "oblong.pt"
    data = {"fingerprint": "none", "names": ["a.png"], "heldout": []}
    checkpoint.save({"config": config, "data": data, "step": 0, "sampled": generator.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def converted(command, oblong, tmp_path_factory):
    """Return the result of the command that writes it as ONNX, and the file."""
    path = tmp_path_factory.mktemp("converted") / "x.ONNX"
    return command("sample.py", oblong, "--export", path), path


def test_onnx_has_its_facts_and_nothing_of_this_machine_and_says_little(oblong, converted):
    sampler, (result, path) = open_sampler(oblong), converted
    assert result.returncode == 0 and result.stderr == "converting the generator to ONNX\n"
    assert result.stdout.startswith(f"{path}: 0.") and result.stdout.endswith(
        "(batch, 3, 16, 24) in about [-1, 1]; channels are red, green, blue\n"
    )
    assert str(ROOT).encode() not in path.read_bytes() and b"pkg.torch" not in path.read_bytes()
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert session.get_modelmeta().custom_metadata_map == {
        "name": "oblong",
        "resolution": "16x24",
        "latent_dim": "5",
        "sampling": "latents are standard normal",
        "channels": "channels are red, green, blue",
    }
    (latents,), (images,) = session.get_inputs(), session.get_outputs()
    assert (latents.name, latents.type, latents.shape[1:]) == ("latents", "tensor(float)", [5])
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(float)", [3, 16, 24])
    assert latents.shape[0] == images.shape[0] == "batch"
    for count in (1, 5):
        given = 3 * sampler.latents(list(range(count)))
        found, ours = session.run(None, {"latents": given.numpy()})[0], generate(sampler.generator, given).numpy()
        assert np.abs(ours).max() > 1.5  # not clipped
        np.testing.assert_allclose(found, ours, rtol=0, atol=1e-4)


def test_an_onnx_export_never_replaces_what_it_is_taken_from(smoke_run, tmp_path):
    path = shutil.copy(smoke_run / "checkpoints" / "last.pt", tmp_path / "x.onnx")
    with pytest.raises(UserError, match="is the checkpoint itself"):
        write_export(open_sampler(path), path)


def test_an_onnx_export_to_nowhere_is_told(smoke_run, monkeypatch, tmp_path):
    monkeypatch.setattr(exports, "_onnx", lambda *parts: b"content")
    with pytest.raises(UserError, match=f"^{tmp_path}/none/x.onnx: cannot be written .No such file or directory.; make room or"):
        write_export(open_sampler(smoke_run), tmp_path / "none" / "x.onnx")


# --- the documents


def test_the_documents_python_runs(smoke_run, converted, tmp_path, monkeypatch):
    (one,), (other,) = (re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S) for name in DOCUMENTS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(smoke_run)
    names: dict = {}
    exec(one, names)
    assert torch.equal(names["images"], open_sampler(smoke_run).images(range(16))) and sum(map(bool, one.splitlines())) == 3
    shutil.copy(converted[1], tmp_path / "mine.onnx")
    exec(other, names)
    assert names["images"].shape == (16, 3, 16, 24) and np.abs(names["images"]).max() > 0.1
