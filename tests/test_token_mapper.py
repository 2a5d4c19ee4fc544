"""The recursive token mapper: against the recursion written out, its scale, and what its gradient passes through."""

import inspect

import pytest
import torch
import torch.nn.functional as F

from imle.config import Config, to_dict
from imle.sampling import build_generator, generate
from models.generator import Generator
from models.token_mapper import TokenMapper, rms_norm


def mapper(latent_dim=32, style_dim=64, **changes) -> TokenMapper:
    torch.manual_seed(0)
    return TokenMapper(latent_dim, style_dim, **{"tokens": 4, "token_dim": 16, "cycles": 2, "steps": 3, **changes})


def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(latent_dim=16, style_dim=24, mapping_layers=3, channels=[32, 16], blocks=[1, 2], mapping="tokens", tokens=4, token_dim=8)


def test_it_equals_the_recursion_written_out():
    made, z = mapper(), torch.randn(5, 32)

    def norm(x):
        return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()

    def swiglu(layer, x):
        gate, value = (x @ layer.spread.weight.T).tensor_split(2, dim=-1)
        return (gate * gate.sigmoid() * value) @ layer.gather.weight.T

    def f(x):
        over_tokens = swiglu(made.mixer.over_tokens, norm(x).transpose(1, 2)).transpose(1, 2)
        return over_tokens + swiglu(made.mixer.over_channels, norm(x + over_tokens))

    start = F.linear(norm(z), made.embed.weight, made.embed.bias).reshape(5, 4, 16)
    low, high = torch.zeros_like(start), torch.zeros_like(start)
    for _ in range(3):
        low = low + f(low + high + start)
        low = low + f(low + high + start)
        high = high + f(high + low)
    expected = F.linear(norm(high).reshape(5, -1), made.read_out.weight, made.read_out.bias)
    torch.testing.assert_close(made(z), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("style_dim, settings", [
    (64, {}), (64, {"cycles": 1, "steps": 1}), (64, {"cycles": 6, "steps": 3}), (64, {"steps": 20}), (256, {"tokens": 8, "token_dim": 32}),
    (64, {"tokens": 16}), (64, {"tokens": 1})])  # fmt: skip
def test_styles_vary_about_as_much_as_a_normal_variable(style_dim, settings):
    styles = mapper(style_dim=style_dim, **settings)(3 * torch.randn(512, 32))  # the length of a latent does not count
    assert 0.6 < styles.std(dim=0).median() < 1.4 and styles.std(dim=0).min() > 0.25
    assert styles.mean(dim=0).abs().mean() < 0.6


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_every_parameter_of_it_has_a_gradient(precision):
    made = mapper()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
        styles = made(torch.randn(8, 32))
    (styles * torch.randn_like(styles)).sum().backward()
    gradients = [p.grad.abs().max().item() for p in made.parameters()]
    assert min(gradients) > 1e-3 * max(gradients)


def test_only_the_last_step_has_a_gradient():
    z = torch.randn(4, 32)
    made, called = mapper(), []
    made.mixer.register_full_backward_hook(lambda *_: called.append(1))
    made(z).sum().backward()
    assert len(called) == 3  # two cycles and the outer state, once

    def gradient(steps):
        one = mapper(steps=steps)
        one(z).sum().backward()
        return one.mixer.over_channels.spread.weight.grad

    assert not torch.equal(gradient(1), gradient(2))  # earlier steps are still run


def test_a_latent_of_zeros_is_finite():
    z = torch.zeros(2, 32, requires_grad=True)
    styles = mapper()(z)
    styles.square().sum().backward()
    assert styles.isfinite().all() and z.grad.isfinite().all()
    torch.testing.assert_close(rms_norm(torch.full((1, 4), 3.0)), torch.ones(1, 4))


def test_a_sample_does_not_depend_on_its_batch():
    made, latents = generator().eval(), torch.randn(21, 16)
    together = generate(made, latents)
    for size in (1, 3, 8, 13):
        assert torch.equal(together, torch.cat([generate(made, part) for part in latents.split(size)])), size


def test_a_configuration_from_before_the_switch_gives_the_mlp():
    config = to_dict(Config())
    now = build_generator(config)
    before = {key: value for key, value in config["model"].items() if key != "mapping" and not key.startswith("token")}
    old = build_generator(config | {"model": before})
    assert [(name, p.shape) for name, p in old.named_parameters()] == [(name, p.shape) for name, p in now.named_parameters()]
    defaults = {name: p.default for name, p in inspect.signature(Generator.__init__).parameters.items()}
    for key in config["model"].keys() - before.keys():
        assert config["model"][key] == defaults[key], key


def test_all_of_a_generator_with_it_compiles_as_one_graph():
    made, z = generator(), torch.randn(3, 16)
    assert torch.equal(torch.compile(made, backend="eager", fullgraph=True)(z), made(z))
