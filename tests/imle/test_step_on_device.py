"""A step neither waits for a GPU nor mixes devices: shown without a GPU, on torch's meta device.

Tensors on the meta device have shapes but no values, so whatever reads a value fails: item, bool, a copy to the CPU, nonzero, a
boolean mask. `OneDevice` refuses what the meta device lets pass. Three things are not shown: autocast, which has no meta device; what
is done only if the device is called cuda; and torch.tensor with a device, for which the host waits. tests/test_cuda.py and
test_trainer.py show them on a GPU. A refresh may wait; it is not part of this.
"""

import pytest
import test_methods
import torch
from torch.optim import optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import methods
from imle.settings import Config
from methods import from_dict
from training.settings import facts
from training.trainer import Trainer

META = torch.device("meta")
CHOICES = {key: known.choices for key, _, known in facts(Config) if known.choices}
LEVERS = [
    *({"train": {"optimizer": name}} for name in CHOICES["train.optimizer"]),
    *({"loss": {"perceptual": name}} for name in CHOICES["loss.perceptual"]),
    *({"imle": {"match": name}} for name in CHOICES["imle.match"]),
    {"train": {"clip": 2.0}},
    {"train": {"micro_batch": 3}},
    {"train": {"mapping_rate": 0.1}},
    {"loss": {"stage_weight": 0.5}},
    {"loss": {"cache_gb": 0}},
    {"loss": {"cache_gb": 0, "perceptual": "effnet-lite0"}},
    {"imle": {"perturbation": 0.1}},
    {
        "train": {"optimizer": "muon", "clip": 2.0, "micro_batch": 3, "mapping_rate": 0.1},
        "loss": {"stage_weight": 0.5, "cache_gb": 0},
        "imle": {"perturbation": 0.1},
    },
]


class OneDevice(TorchDispatchMode):
    """Refuse operators on tensors of two devices, and copies from the CPU that the host waits for.

    A CPU tensor without dimensions is allowed, as torch allows it: its value travels with the operator's arguments.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        if func is torch.ops.aten._to_copy.default:
            assert args[0].device == found.device or kwargs.get("non_blocking"), f"{func} makes the host wait"
        elif func is torch.ops.aten.copy_.default:
            assert args[0].device == args[1].device or args[2:] == (True,), f"{func} makes the host wait"
        else:
            tensors = [leaf for leaf in tree_leaves([args, kwargs]) if isinstance(leaf, torch.Tensor)]
            assert len({tensor.device for tensor in tensors if tensor.dim() or tensor.is_meta}) < 2, f"{func} mixes devices"
        return found


@pytest.fixture(autouse=True)
def meta_accepted(monkeypatch):
    """Make torch.autocast accept the meta device, on which it does nothing, and fused optimisers, which have kernels for it."""
    autocast, fused = torch.autocast, optimizer._get_fused_kernels_supported_devices
    monkeypatch.setattr(torch, "autocast", lambda kind, **settings: autocast("cpu" if kind == "meta" else kind, **settings))
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: [*fused(), "meta"])


def trainer(*changes: dict) -> Trainer:
    """Return a trainer on the meta device, of seven images of 16 pixels in batches of four."""
    values: dict = {
        "data": {"resolution": 16},
        "model": {"latent_dim": 8, "style_dim": 16, "mapping_layers": 1, "channels": [16, 16, 8], "blocks": [1, 1, 1]},
        "loss": {"perceptual": "pixels"},
        "train": {"batch_size": 4},
    }
    for section, settings in ((section, settings) for change in changes for section, settings in change.items()):
        values[section] = values.get(section, {}) | settings
    images = torch.zeros(7, 3, 16, 16, dtype=torch.uint8)
    config = from_dict(values)
    return Trainer(config, methods.make(config, images, device=META, pretrained=False), len(images), data={}, device=META)


def pull(made: Trainer, steps: int = 3) -> None:
    """Take steps without new matches; the third is the next epoch's."""
    with OneDevice():
        for step in range(steps):
            made.method.pull(made.batch(step), step)


@pytest.mark.parametrize("precision", CHOICES["train.precision"])
@pytest.mark.parametrize("lever", LEVERS, ids=str)
def test_a_step_reads_nothing_from_its_device_and_mixes_no_devices(lever, precision):
    made = trainer(lever, {"train": {"precision": precision}})
    pull(made)
    assert made.method.losses.is_meta and made.method.latents.is_meta
    assert all(weight.is_meta and weight.grad.is_meta for weight in made.method.learner.network.parameters())


@pytest.mark.parametrize("precision", CHOICES["train.precision"])
def test_a_step_of_fastgan_reads_nothing_from_its_device_and_mixes_no_devices(precision, monkeypatch):
    monkeypatch.setitem(test_methods.TINY, "fastgan", [*test_methods.TINY["fastgan"], "fastgan.augment=[colour,translation,cutout]"])
    made = test_methods.made("fastgan", "meta", precision=precision)
    with OneDevice():
        for step in range(3):
            made.method.step(made.batch(step), step)
    assert made.method.losses.is_meta and all(weight.grad.is_meta for weight in made.method.critic.network.parameters())


WAITS = {
    "item": lambda values: values * values.sum().item(),
    "a decision": lambda values: values * 2 if values.sum() > 0 else values,
    "a copy to the CPU": lambda values: values * values.cpu().mean(),
    "numpy": lambda values: values * values.detach().numpy().mean(),
    "a list": lambda values: values * values.tolist()[0],
    "a boolean mask": lambda values: values[values > 0],
    "nonzero": lambda values: values[values.nonzero()[:, 0]],
    "a copy from the CPU": lambda values: values + torch.ones(len(values)).to(values.device),
    "a copy in place": lambda values: values + torch.empty_like(values).copy_(torch.ones(len(values))),
}
MIXES = {
    "a sum": lambda values: values + torch.ones(len(values)),
    "a product of matrices": lambda values: values[None] @ torch.ones(len(values), 1),
    "an index": lambda values: values[torch.arange(len(values))],
    "a convolution": lambda values: torch.nn.functional.conv1d(values[None, None], torch.ones(1, 1, 1))[0, 0],
}
ALLOWED = {
    "a copy that the host does not wait for": lambda values: values + torch.ones(len(values)).to(values.device, non_blocking=True),
    "a CPU tensor without dimensions": lambda values: values + torch.ones(()),
    "a filled mask": lambda values: values.masked_fill(values > 0, 1.0),
    "work on the CPU": lambda values: values * torch.ones(3).sum().item(),
}


def pull_with(spoil) -> None:
    """Take a step whose losses pass through `spoil`."""
    made = trainer()
    loss = made.method.loss
    made.method.loss = lambda *batch: tuple(map(spoil, loss(*batch)))
    pull(made, 1)


@pytest.mark.parametrize("name", [*WAITS, *MIXES])
def test_a_step_that_waits_or_mixes_devices_is_found(name):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError, AssertionError)) as told:
        pull_with((WAITS | MIXES)[name])
    assert any(words in str(told.value) for words in ("meta", "makes the host wait", "mixes devices")), told.value


@pytest.mark.parametrize("name", ALLOWED)
def test_a_step_may(name):
    pull_with(ALLOWED[name])
