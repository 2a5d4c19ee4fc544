"""What only a real GPU shows. Without one all of this is skipped; tests/imle/test_step_on_device.py shows the rest without a GPU."""

import json

import pytest
import test_methods
import torch
from PIL import Image
from test_trainer import images, train, trainer

import methods
from data import READER, Record
from errors import UserError
from models import inversion
from models.precision import PRECISIONS
from sampling.exports import write_export
from sampling.latents import Latents
from sampling.page import packed, weights
from sampling.pictures import write_mix
from sampling.projection import project
from sampling.styles import mean_style, truncated
from training import checkpoint

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ("cpu", "cuda")
EXACT = {"precision": "fp32", "epochs": 20, "batch_size": 4, "learning_rate": 3e-3}
ROUNDING = 1e-4  # relative, of losses after some steps


def saved(made, path):
    """Save a trainer's checkpoint and return its path."""
    made.data = Record("images", [f"{number}.png" for number in range(made.n)], [], READER)._asdict()
    checkpoint.save(made.state(), path)
    return path


def resumed(path, **sections):
    """Return a trainer that goes on from a checkpoint."""
    made = trainer(**sections)
    made.load_state(methods.load(path))
    return made


def assert_same(losses, others):
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(others), rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("perceptual", ["pixels", "effnet-lite0"])
def test_a_pool_has_the_matches_that_it_has_on_a_cpu(perceptual):
    found = {}
    for device in DEVICES:
        method = trainer(device=device, loss={"perceptual": perceptual}, train=EXACT).method
        found[device] = method.refresher.refresh(method.embed_latents, 0)
    assert torch.equal(found["cuda"].latents, found["cpu"].latents)
    torch.testing.assert_close(found["cuda"].distance.cpu(), found["cpu"].distance, rtol=1e-5, atol=0)


def test_exports_from_a_gpu_are_those_from_a_cpu(tmp_path):
    import onnxruntime

    path = saved(trainer(train=EXACT), tmp_path / "last.pt")
    files = []
    for device in DEVICES:
        sampler = methods.open_sampler(path, device)
        for name in ("x.onnx", "model.safetensors"):
            (tmp_path / device).mkdir(exist_ok=True)
            write_export(sampler, tmp_path / device / name)
        latents = sampler.latents([0, 1]).numpy()
        images = onnxruntime.InferenceSession(tmp_path / device / "x.onnx").run(None, {"latents": latents})[0]
        files.append(((tmp_path / device / "model.safetensors").read_bytes(), images))
    (ours, images), (theirs, others) = files
    assert ours == theirs and abs(images - others).max() <= 1e-4


def test_a_sampler_draws_the_images_that_it_draws_on_a_cpu(tmp_path):
    made = trainer(train=EXACT)
    train(made, 10)
    path = saved(made, tmp_path / "last.pt")
    ours, theirs = (methods.open_sampler(path, device).images(range(20)).int() for device in DEVICES)
    assert (ours - theirs).abs().max() <= 1  # a value near the middle between two bytes may be rounded to either
    assert (ours != theirs).float().mean() < 1e-3


def test_steered_pictures_are_those_of_a_cpu(tmp_path, monkeypatch):
    for name, value in (("NUM_LATENTS", 8), ("STARTS", 2), ("SCREENING", 2), ("STEPS", 4)):
        monkeypatch.setattr(inversion, name, value)
    path = saved(trainer(train=EXACT), tmp_path / "last.pt")
    face = methods.open_sampler(path).images([3])[0]
    found = {}
    for device in DEVICES:
        sampler, out = methods.open_sampler(path, device), tmp_path / device
        out.mkdir()
        project(sampler, {"me.png": face}, out)
        steered = truncated(sampler, 0.5)
        write_mix(Latents(steered, tmp_path / "cpu" / "latents.pt"), list(range(9)), [10, "me.png"], out)
        with Image.open(out / "mix.png") as sheet:
            found[device] = torch.cat([steered.images(range(20)).flatten().int(), torch.tensor(list(sheet.tobytes()))])
    assert (found["cuda"] - found["cpu"]).abs().max() <= 1
    latents = [torch.load(tmp_path / device / "latents.pt", weights_only=True)["latents"] for device in DEVICES]
    torch.testing.assert_close(*latents, rtol=1e-2, atol=1e-2)


def test_a_page_of_a_gpu_has_the_weights_of_one_of_a_cpu(tmp_path):
    path = saved(trainer(train=EXACT), tmp_path / "last.pt")
    found = {}
    for device in DEVICES:
        generator = methods.open_sampler(path, device).generator
        found[device] = packed(generator, weights(generator) | {"mean": mean_style(generator)})
    (ours, data), (theirs, other) = found.values()
    mean = ours["tensors"].pop("mean")["offset"]  # the last, and the only one that a device computes
    assert mean == theirs["tensors"].pop("mean")["offset"] and ours == theirs
    assert data[:mean] == other[:mean] and len(data) == len(other)


def test_a_checkpoint_of_a_gpu_loads_on_a_cpu(tmp_path):
    made = trainer(device="cuda", train=EXACT)
    train(made, 5)
    path = saved(made, tmp_path / "last.pt")
    here = resumed(path, train=EXACT)
    assert {tensor.device.type for tensor in (here.method.losses, *here.method.sampled().values())} == {"cpu"}
    assert_same(train(here, 3), train(made, 3))
    assert methods.open_sampler(path, "cpu").images(range(3)).shape == (3, 3, 16, 16)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_is_stopped_and_resumed_has_the_losses_of_one_that_is_not(optimizer, graph, tmp_path):
    settings = {"device": "cuda", "train": EXACT | {"optimizer": optimizer, "clip": 2.0, "cuda_graph": graph}}
    straight, first = trainer(**settings), trainer(**settings)
    losses = train(straight, 9)
    assert_same(train(first, 5), losses[:5])
    assert_same(train(resumed(saved(first, tmp_path / "last.pt"), **settings), 4), losses[5:])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"train": {"optimizer": "muon", "clip": 2.0}},
        {"train": {"micro_batch": 2}},
        {"loss": {"stage_weight": 0.5}},
        {"loss": {"cache_gb": 0}},
        {"imle": {"perturbation": 0.1}},
    ],
    ids=str,
)
def test_a_graph_of_a_step_has_the_losses_of_the_step(change, precision):
    """Seven images in batches of four; a refresh every two epochs changes the matches that the graph reads."""

    def losses(graph):
        made = trainer(
            pixels=images(7),
            device="cuda",
            **{**change, "train": EXACT | change.get("train", {}) | {"precision": precision, "cuda_graph": graph}},
        )
        return train(made, 9)

    assert_same(losses(True), losses(False))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_of_fastgan_ends_where_its_steps_do(precision, tmp_path):
    """Its steps draw random numbers and move running statistics; a graph's warm-up must do neither, in a run that goes on either."""
    runs = {
        graph: test_methods.made("fastgan", "cuda", precision=precision, learning_rate=1e-4, cuda_graph=graph) for graph in (False, True)
    }
    again = test_methods.made("fastgan", "cuda", precision=precision, learning_rate=1e-4, cuda_graph=True)
    for step in range(7):
        for made in (*runs.values(), again):
            if made is again and step == 4:
                again = test_methods.made("fastgan", "cuda", precision=precision, learning_rate=1e-4, cuda_graph=True)
                again.load_state(methods.load(saved(made, tmp_path / "last.pt")))
                made = again
            made.advance()
    plain, graph, again = (
        {
            (part, name): weight.float()
            for part in ("painter", "critic")
            for name, weight in made.method.state_dict()[part]["network"].items()
        }
        | {("losses",): torch.stack([made.method.losses, made.method.logits])}
        for made in (*runs.values(), again)
    )
    torch.testing.assert_close(graph, plain, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(again, graph, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains(precision, graph):
    made = trainer(device="cuda", train={"precision": precision, "cuda_graph": graph}, imle={"refresh_epochs": 10})
    history = train(made, 60)
    made.check(weights=True)
    assert sum(history[-1]) < 0.6 * sum(history[1])
    assert all(parameter.dtype == torch.float32 for parameter in made.method.learner.network.parameters())


@pytest.mark.parametrize("method", ["imle", "imle rgba", "imle grey", "fastgan", "score-sde", "crdi"])
def test_every_method_trains_and_its_samples_are_those_of_a_cpu(method, monkeypatch):
    monkeypatch.setitem(test_methods.TINY, "crdi", [*test_methods.TINY["crdi"], "crdi.prior=emoji-32"])
    made = test_methods.made(method, "cuda")
    for _ in range(4):
        made.advance()
    made.check(weights=True)
    state = checkpoint.snapshot(made.state())
    ours, theirs = (methods.open_drawing(state, torch.device(device)).draw(list(range(9))).clamp(-1, 1).cpu() for device in DEVICES)
    assert (ours - theirs).abs().mean() < 1e-3


def test_compiled_networks_have_the_losses_of_plain_ones():
    """Ten images in batches of four: the last batch of an epoch is filled up, because a compiled network has one shape."""
    plain, compiled = (train(trainer(pixels=images(10), device="cuda", train=EXACT | {"compile": compile}), 6) for compile in (False, True))
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(plain), rtol=1e-3, atol=0)


@pytest.mark.parametrize("steps, job", [(0, "the pool"), (1, "a training step")])
def test_too_little_memory_is_one_line_and_the_run_can_go_on(steps, job):
    made = trainer(
        pixels=images(side=64),
        device="cuda",
        data={"resolution": 64},
        model={"channels": [64] * 5, "blocks": [2] * 5},
        train={"cuda_graph": False},  # a graph keeps its memory, so that a later step asks for little
    )
    train(made, steps)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.0)
    try:
        with pytest.raises(UserError) as told:
            made.advance()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert str(told.value).startswith(f"out of memory for {job}: ") and "\n" not in str(told.value)
    assert made.step == steps
    train(made, 2)
    made.check(weights=True)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_compute_what_one_does(job, command, smoke, tmp_path):
    settings = ["--device", "cuda", "train.precision=fp32", "train.batch_size=7", "train.epochs=2", "loss.stage_weight=0.5"]
    one = command("train.py", *smoke, "--run", tmp_path / "1", *settings)
    assert one.returncode == 0, one.stderr
    for process in job(2, *smoke, "--run", tmp_path / "2", *settings):
        assert process.result().returncode == 0, process.output("stderr")
    losses = []
    for run in ("1", "2"):
        rows = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if row["kind"] == "train"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
