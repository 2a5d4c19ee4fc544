"""The generator: shapes, the published size, a gradient for every parameter, independence of the batch."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from imle.drawing import build_generator, generate
from methods import load_config
from models.generator import AdaIN, Generator
from training.settings import to_dict


def small(**changes) -> Generator:
    torch.manual_seed(0)
    shape = {"latent_dim": 16, "style_dim": 24, "mapping_layers": 3, "channels": [32, 32, 16, 8], "blocks": [2, 1, 2, 1]}
    return Generator(**{**shape, **changes})


@pytest.mark.parametrize("start, size", [((4, 4), (32, 32)), ((4, 6), (32, 48)), ((2, 2), (16, 16))])
def test_images_have_the_resolution_that_the_start_and_the_levels_give(start, size):
    generator = small(start=start)
    assert generator.resolution == size
    assert generator(torch.randn(3, 16)).shape == (3, 3, *size)


@pytest.mark.parametrize("name", ["smoke-32", "fluent-faces-64"])
def test_every_parameter_receives_a_gradient(name):
    torch.manual_seed(0)
    generator = build_generator(to_dict(load_config(f"configs/{name}.yaml")))
    images = generator(torch.randn(4, generator.latent_dim))
    (images * torch.randn_like(images)).sum().backward()
    gradients = {name: p.grad.abs().max().item() for name, p in generator.named_parameters()}
    largest = max(gradients.values())
    # A gradient that vanishes in theory comes out as rounding, some 1e-7 of the others.
    assert not [name for name, gradient in gradients.items() if gradient < 1e-5 * largest]


def test_the_paper_recipe_has_the_published_shape():
    generator = build_generator(to_dict(load_config("configs/paper-256.yaml")))
    assert sum(p.numel() for p in generator.parameters()) == 33_054_979
    assert len(generator.blocks) == 24
    with FlopCounterMode(display=False) as counter:
        generator(torch.randn(1, 1024))
    assert counter.get_total_flops() / 2e9 == pytest.approx(31.6, abs=0.05)  # the published GMACs


def test_adain_equals_its_definition():
    torch.manual_seed(0)
    norm, x, w = AdaIN(5, 7), torch.randn(3, 5, 6, 4), torch.randn(3, 7)
    scale, shift = norm.affine(w).chunk(2, dim=1)
    mean, var = x.mean(dim=(2, 3), keepdim=True), x.var(dim=(2, 3), correction=0, keepdim=True)
    expected = (x - mean) / (var + 1e-2).sqrt() * scale[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(norm(x, w), expected)


def test_styles_keep_their_scale_through_a_deep_mapping_network():
    torch.manual_seed(0)
    styles = small(mapping_layers=8, style_dim=256).mapping(torch.randn(64, 16))
    assert 0.2 < styles.std().item() < 5


def test_a_sample_does_not_depend_on_its_batch():
    generator = small(channels=[64, 48, 32, 16], blocks=[1, 1, 1, 1]).eval()
    latents = torch.randn(21, 16)
    together = generate(generator, latents)
    for size in (1, 3, 8, 13):
        apart = torch.cat([generate(generator, part) for part in latents.split(size)])
        assert torch.equal(together, apart), size
