"""FastGAN: its networks and losses against small oracles, and that it fits one batch."""

import copy

import pytest
import torch
from torch import Tensor, nn

import methods
from baselines import fastgan
from baselines.fastgan import FastGan, hinge
from errors import UserError
from methods import load_config
from models.fastgan import Discriminator, Excitation, Generator, Noise, Pair, cut, second_side, shrunk
from models.perceptual import load_embedding, squared_distance
from training import processes
from training.settings import to_dict

TINY = [
    "method=fastgan",
    "data.resolution=32",
    "fastgan.latent_dim=8",
    "fastgan.width=4",
    "fastgan.perceptual=pixels",
    "train.batch_size=4",
]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def made(*words: str, n: int = 4, side: int = 32) -> FastGan:
    pixels = torch.randint(256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return methods.make(load_config(None, [*TINY, *words]), pixels, device=torch.device("cpu"))


# --- the networks


def test_sizes_at_256_pixels_are_those_of_the_paper():
    generator, discriminator = Generator(256, 64, 256), Discriminator(256, 64)
    assert round(count(generator) / 1e6, 1) == 29.1 and round(count(discriminator) / 1e6, 1) == 11.5
    assert generator.widths == {4: 1024, 8: 512, 16: 256, 32: 128, 64: 128, 128: 64, 256: 32}
    assert set(generator.excitations) == {"64", "128", "256"} and set(discriminator.excitations) == {"8", "16", "32"}


@pytest.mark.parametrize("side", fastgan.SIDES)
def test_every_size_has_its_shapes(side):
    generator, discriminator, second = Pair(Generator(side, 4, 6)), Discriminator(side, 4), second_side(side)
    images, seconds = generator(torch.randn(2, 6))
    assert images.shape == (2, 3, side, side) and seconds.shape == (2, 3, second, second)
    assert images.abs().max() <= 1 and seconds.abs().max() <= 1
    logits, maps, small = discriminator(images, seconds)
    assert logits.shape == (2, 50)
    decoded = discriminator.reconstructed(maps, small, (torch.tensor(0), torch.tensor(1)))
    assert [image.shape for image in decoded] == 3 * [(2, 3, second, second)]


def test_an_excitation_multiplies_channels_by_gates():
    excitation = Excitation(5, 7).eval()
    looked_at, x = torch.randn(2, 5, 8, 8), torch.randn(2, 7, 32, 32)
    _, first, _, second, _ = excitation.gates
    for row in range(2):
        pooled = torch.stack([looked_at[row, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean(dim=(1, 2)) for i in range(4) for j in range(4)])
        hidden = torch.einsum("pc,ocp->o", pooled, first.weight.flatten(2))
        gate = torch.sigmoid(second.weight[:, :, 0, 0] @ (hidden * torch.sigmoid(hidden)))
        torch.testing.assert_close(excitation(looked_at, x)[row], x[row] * gate[:, None, None], rtol=1e-4, atol=1e-5)


def test_noise_is_one_map_for_all_channels_and_absent_when_sampling():
    noise, x = Noise(), torch.zeros(2, 5, 8, 8)
    nn.init.constant_(noise.strength, 0.5)
    added = noise(x)
    assert torch.equal(added, added[:, :1].expand_as(added)) and 0.3 < added[:, 0].std() < 0.7
    assert not torch.equal(added[0], added[1])
    assert noise.eval()(x) is x


def test_a_quadrant_is_cut_from_maps_and_images_alike():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    for row in (0, 1):
        for column in (0, 1):
            expected = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            assert torch.equal(cut(x, (torch.tensor(row), torch.tensor(column))), expected)


def test_every_convolution_has_a_spectral_norm_of_one():
    generator = Generator(32, 4, 6)
    for _ in range(2000):  # power iterations
        generator(torch.randn(2, 6))
    generator.eval()
    convolutions = [module for module in generator.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
    assert len(convolutions) == 7
    for module in convolutions:
        matrix = (module.weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else module.weight).flatten(1)
        assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(1, abs=1e-3)


# --- the losses


def test_the_hinge_counts_what_is_below_its_margin(monkeypatch):
    monkeypatch.setattr(torch, "rand_like", lambda logits: torch.tensor([[0.0, 1.0, 0.5, 0.5]]).expand_as(logits))  # margins .8 1 .9 .9
    logits = torch.tensor([[0.5, 0.5, 2.0, -1.0], [0.8, 1.0, 0.9, 0.9]])
    assert hinge(logits).tolist() == pytest.approx([(0.3 + 0.5 + 0 + 1.9) / 4, 0], abs=1e-6)
    assert hinge(-logits)[0].item() == pytest.approx((1.3 + 1.5 + 2.9 + 0) / 4)  # of drawn images


def test_margins_lie_between_their_bounds():
    margins = torch.cat([hinge(torch.zeros(1000, 1)) for _ in range(3)])
    assert 0.8 <= margins.min() < 0.81 and 0.99 < margins.max() <= 1


def test_the_critic_s_loss_is_two_hinges_and_three_reconstructions(monkeypatch):
    method = made("fastgan.augment=[]")
    method.critic.network.eval()
    method.painter.network.eval()
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)  # all margins 0.8
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.tensor([1, 0]))  # the lower left quadrant
    real, z = torch.rand(2, 3, 32, 32), torch.randn(2, 8)
    found, reported = method.critic_loss(real, z)
    drawn, second = method.painter.network(z)
    small = shrunk(real, 16)
    logits, maps, last = method.critic.network(real, small)
    fake, _, _ = method.critic.network(drawn, second)
    whole, part, again = method.critic.network.reconstructed(maps, last, (torch.tensor(1), torch.tensor(0)))
    errors = [(a - b).square().mean(dim=(1, 2, 3)) for a, b in ((whole, small), (part, real[:, :, 16:, :16]), (again, small))]
    expected = (0.8 - logits).relu().mean(dim=1) + (0.8 + fake).relu().mean(dim=1) + sum(errors)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(found, reported)


def test_the_painter_s_loss_is_minus_the_logits_and_leaves_the_critic_no_gradient():
    method = made("fastgan.augment=[]")
    method.critic.network.eval()
    method.painter.network.eval()
    z = torch.randn(3, 8)
    logits, _, _ = method.critic.network(*method.painter.network(z))
    torch.testing.assert_close(method.painter_loss(z)[0], -logits.mean(dim=1))
    method = made()
    method.step(torch.arange(4), 0)
    kept = [parameter.grad.clone() for parameter in method.critic.network.parameters()]
    method.painter.step((z,), method.painter_loss, 1)
    assert not all(torch.equal(a.grad, b) for a, b in zip(method.critic.network.parameters(), kept))  # without the switch
    method.critic.network.requires_grad_(False)
    kept = [parameter.grad.clone() for parameter in method.critic.network.parameters()]
    method.painter.step((z,), method.painter_loss, 2)
    assert all(torch.equal(a.grad, b) for a, b in zip(method.critic.network.parameters(), kept))


@pytest.mark.parametrize("name", ["pixels", "effnet-lite0"])
def test_reconstructions_are_compared_in_the_network_that_is_asked_for(name):
    method, (a, b) = made(f"fastgan.perceptual={name}"), torch.rand(2, 2, 3, 16, 16)
    embedding = load_embedding(name)
    torch.testing.assert_close(method.distance(a, b), squared_distance(embedding(a), embedding(b)))


def test_it_fits_one_batch():
    """The critic reconstructs four images, and samples come nearer to them than at the start."""
    method = made(
        "train.learning_rate=2e-3", "train.schedule=constant", "train.warmup_steps=0", "train.ema_decay=0.9", "fastgan.augment=[]"
    )

    def reconstruction() -> float:
        critic, real = copy.deepcopy(method.critic.network), method.images.float() / 127.5 - 1
        small = shrunk(real, 16)
        with torch.no_grad():
            _, maps, last = critic(real, small)
            whole, _, _ = critic.reconstructed(maps, last, (torch.tensor(0), torch.tensor(0)))
        return (whole - small).square().mean().item()

    def nearest() -> float:
        """Return the mean squared error of samples to their nearest image."""
        drawn = method.draw(list(range(16))).flatten(1)
        real = method.images.float().flatten(1) / 127.5 - 1
        return torch.cdist(drawn, real).square().amin(dim=1).mean().item() / drawn.shape[1]

    before = reconstruction(), nearest()
    for step in range(150):
        method.step(torch.arange(4), step)
    assert reconstruction() < 0.5 * before[0] and nearest() < before[1]


# --- sampling, and what is refused


def test_the_average_s_statistics_are_those_of_its_own_maps():
    method = made()
    for step in range(5):
        method.step(torch.arange(4), step)
    method.settle()
    generator, seen = method.painter.ema.module, []
    norm = generator.start[1]
    norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    latents = torch.cat([torch.randn(64, 8) for _ in range(40)])
    with torch.no_grad():
        generator(latents)
    (maps,) = seen
    torch.testing.assert_close(norm.running_mean, maps.mean(dim=(0, 2, 3)), rtol=0, atol=0.1)
    torch.testing.assert_close(norm.running_var, maps.var(dim=(0, 2, 3)), rtol=0.2, atol=0.01)
    assert not generator.training and all(module.momentum == 0.1 for module in generator.modules() if isinstance(module, nn.BatchNorm2d))


def test_settling_changes_no_later_step():
    one, other = made(), made()
    for step in range(4):
        one.step(torch.arange(4), step)
        other.step(torch.arange(4), step)
        one.settle()
    for a, b in zip(flat(one.state_dict()), flat(other.state_dict()), strict=True):
        assert torch.equal(a, b)


def flat(state: object) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [leaf for part in parts for leaf in flat(part)]


@pytest.mark.parametrize(
    "word, error",
    [
        ("data.resolution=48", r"^data.resolution: FastGAN draws squares of 32, 64, 128, 256, 512 pixels, not 48 x 48$"),
        ("data.resolution=[64,32]", "not 64 x 32$"),
        ("fastgan.augment=[colour,mirror]", "^fastgan.augment: 'mirror' is not one of colour, translation, cutout$"),
        ("fastgan.perceptual=effnet-lite2", "^fastgan.perceptual: .*effnet-lite2"),
        ("train.micro_batch=2", "^train.micro_batch: batch norm needs the whole batch"),
    ],
)
def test_settings_that_do_not_make_sense_are_refused(word, error):
    with pytest.raises(UserError, match=error):
        load_config(None, [*TINY, word])


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(UserError, match="^method: fastgan trains in one process"):
        made()


def test_16_bit_maps_train():
    method = made("train.precision=bf16")
    method.step(torch.arange(4), 0)
    assert method.losses.isfinite().all() and method.losses.dtype == torch.float32


# --- starting from another run


@pytest.mark.parametrize(
    "theirs, ours, export, fates",
    [
        (32, 32, False, {"level 32": "taken", "to_rgb": "taken", "discriminator": "taken"}),
        (32, 32, True, {"level 32": "taken", "to_rgb": "taken", "discriminator": "new"}),
        (32, 64, False, {"level 32": "taken", "level 64": "new", "to_rgb": "new", "discriminator": "new"}),
        (64, 32, False, {"level 32": "taken", "to_rgb": "new", "discriminator": "new"}),
    ],
)
def test_levels_are_taken_at_any_size_and_the_discriminator_at_its_own(theirs, ours, export, fates):
    source, method = (made(f"data.resolution={side}", f"seed={seed}", side=side) for seed, side in enumerate((theirs, ours)))
    state = {"config": to_dict(source.config), "sampled": source.sampled(), "method": source.state_dict()}
    if export:
        del state["method"]
    new = copy.deepcopy(method.discriminator.state_dict())
    assert method.start(state) == {"start": "taken", "level 8": "taken", "level 16": "taken"} | fates
    z = torch.randn(2, 8)
    for network in (method.generator, method.painter.ema.module):
        maps = [each.eval().maps(z) for each in (network, source.painter.ema.module)]
        for side, level, expected in zip((4, 8, 16, 32), *maps):
            torch.testing.assert_close(level, expected, msg=str(side))
    expected = source.discriminator.state_dict() if fates["discriminator"] == "taken" else new
    assert all(torch.equal(weight, expected[name]) for name, weight in method.discriminator.state_dict().items())
    second = torch.equal(method.painter.network.to_rgb.weight, source.painter.network.to_rgb.weight) if theirs == ours else False
    assert second == (fates["discriminator"] == "taken")
