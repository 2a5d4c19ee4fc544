"""The generator: its definition, shapes, the published size, memory, 16 bits, gradients, independence of the batch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from imle.drawing import build_generator
from methods import load_config
from models.generator import NORM_EPSILON, AdaIN, Generator
from models.perceptual import Embedding, LpipsVgg, vgg16_trunk
from models.stages import Staged, make_heads
from training.drawing import generate
from training.optimizer import make_optimizer
from training.settings import Train, to_dict
from training.start import take


def small(**changes) -> Generator:
    torch.manual_seed(0)
    shape = {"latent_dim": 16, "style_dim": 24, "mapping_layers": 3, "channels": [32, 32, 16, 8], "blocks": [2, 1, 2, 1]}
    generator = Generator(**{**shape, **changes})
    for block in generator.blocks:
        if block.strengths is not None:
            nn.init.normal_(block.strengths)  # at the start they are 0
    return generator


@pytest.mark.parametrize("start, size", [((4, 4), (32, 32)), ((4, 6), (32, 48)), ((2, 2), (16, 16))])
def test_images_have_the_resolution_that_the_start_and_the_levels_give(start, size):
    generator = small(start=start)
    assert generator.resolution == size
    assert generator(torch.randn(3, 16)).shape == (3, 3, *size)


def test_a_style_per_block_changes_the_blocks_it_is_given_to_alone():
    generator = small()
    w, other = generator.mapping(torch.randn(2, 1, 16)[:, 0]).split(1)
    alike = w[:, None].repeat(1, len(generator.blocks), 1)
    assert torch.equal(generator.synthesise(w), generator.synthesise(alike))
    seen = []
    for block in generator.blocks:
        block.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    mixed = alike.clone()
    mixed[:, 3:] = other
    generator.synthesise(mixed)
    assert [torch.equal(style, w) for style in seen] == [True] * 3 + [False] * 3
    assert [torch.equal(style, other) for style in seen] == [False] * 3 + [True] * 3


@pytest.mark.parametrize("name", ["smoke-32", "fluent-faces-64", "fluent-faces-128"])
def test_every_parameter_receives_a_gradient(name):
    torch.manual_seed(0)
    generator = build_generator(to_dict(load_config(f"configs/{name}.yaml")))
    images = generator(torch.randn(4, generator.latent_dim))
    (images * torch.randn_like(images)).sum().backward()
    gradients = {name: p.grad.abs().max().item() for name, p in generator.named_parameters()}
    largest = max(gradients.values())
    # A gradient that vanishes in theory comes out as rounding, some 1e-7 of the others.
    assert not [name for name, gradient in gradients.items() if gradient < 1e-5 * largest]


ALL = {"mapping": "taken", "constant": "taken", "level 4": "taken", "level 8": "taken", "level 16": "taken", "level 32": "taken"}
LARGER = {"channels": [32, 32, 16, 8, 8], "blocks": [2, 1, 2, 1, 1]}


@pytest.mark.parametrize(
    "theirs, ours, fates",
    [
        ({}, {}, ALL | {"to_rgb": "taken"}),
        ({}, LARGER, ALL | {"level 64": "new", "to_rgb": "new"}),
        (LARGER, {}, ALL | {"to_rgb": "new"}),
        ({}, {"blocks": [3, 1, 1, 1]}, ALL | {"level 4": "2 of 3 blocks taken", "to_rgb": "taken"}),
        ({}, {"latent_dim": 9}, ALL | {"mapping": "new", "to_rgb": "taken"}),
        ({}, {"channels": [32, 32, 16, 12]}, ALL | {"level 32": "new", "to_rgb": "new"}),
        ({}, {"channels": [32, 32, 12, 8]}, ALL | {"level 16": "new", "level 32": "new", "to_rgb": "taken"}),
        ({}, {"channels": [48, 32, 16, 8]}, ALL | {"constant": "new", "level 4": "new", "level 8": "new", "to_rgb": "taken"}),
        ({}, {"noise": True}, ALL | {"noise": "new", "to_rgb": "taken"}),
        ({"noise": True}, {"noise": True} | LARGER, ALL | {"level 64": "new", "noise": "6 of 7 blocks taken", "to_rgb": "new"}),
        ({"noise": True}, {}, ALL | {"to_rgb": "taken"}),
        ({}, {"start": (4, 6)}, ALL | {"constant": "new", "to_rgb": "taken"}),
        (
            {},
            {"start": (8, 8), "channels": [32, 16, 8], "blocks": [1, 2, 1]},
            {"mapping": "taken", "constant": "new", "level 8": "taken", "level 16": "taken", "level 32": "taken", "to_rgb": "taken"},
        ),
        (
            {},
            {"start": (6, 6), "channels": [32, 32], "blocks": [1, 1]},
            {"mapping": "taken", "constant": "new", "level 6": "new", "level 12": "new", "to_rgb": "new"},
        ),
    ],
)
def test_weights_are_taken_level_by_level_where_they_fit(theirs, ours, fates):
    source, generator = small(**theirs), small(**ours)
    for weight in source.parameters():
        weight.data.add_(1)
    before = copy.deepcopy(generator).parts()
    assert take(generator.parts(), source.parts()) == fates
    for place, weights in generator.parts().items():
        if fates[place[0]] in ("taken", "new"):
            expected = (source.parts() if fates[place[0]] == "taken" else before)[place]
            assert all(torch.equal(weight, expected[name]) for name, weight in weights.items()), place


def test_a_larger_generator_computes_the_levels_that_it_took_as_before():
    source, larger, z = small(), small(**LARGER, noise=True), torch.randn(2, 16)
    for block in larger.blocks:
        nn.init.zeros_(block.strengths)
    source.blocks[-1].convs[-1].bias.data.normal_()
    assert not torch.allclose(next(larger.levels(z)), next(source.levels(z)))
    take(larger.parts(), source.parts())
    *ours, _, images = larger.levels(z)
    *theirs, drawn = source.levels(z)
    assert len(ours) == len(theirs) == 3
    for level, expected in zip(ours, theirs):
        torch.testing.assert_close(level, expected)
    assert images.shape[-1] == 2 * drawn.shape[-1]
    smaller = small()
    take(smaller.parts(), larger.parts())
    for level, expected in zip(smaller.levels(z), theirs):
        torch.testing.assert_close(level, expected)


def test_noise_differs_between_blocks_and_is_in_no_checkpoint():
    generator, again, without = small(noise=True), small(noise=True), small()
    maps = [block.noise for block in generator.blocks]
    assert [tuple(noise.shape[:2]) for noise in maps] == [(4, 4), (4, 4), (8, 8), (16, 16), (16, 16), (32, 32)]
    assert not torch.equal(maps[0], maps[1]) and all(torch.equal(a, b.noise) for a, b in zip(maps, again.blocks))
    assert abs(maps[-1].mean()) < 0.1 and 0.9 < maps[-1].std() < 1.1
    assert set(generator.state_dict()) - set(without.state_dict()) == {f"blocks.{i}.strengths" for i in range(6)}
    fresh = Generator(latent_dim=16, style_dim=24, mapping_layers=3, channels=[32, 8], blocks=[1, 1], noise=True)
    images = fresh(z := torch.randn(2, 16))
    for block in fresh.blocks:
        block.noise.zero_()
    assert torch.equal(fresh(z), images)  # strengths begin at 0


class Plain(Generator):
    """The generator as its definition says, with maps (B, C, H, W) and every operation at the block's own resolution.

    This is how revisions before 3f0f047 computed it.
    """

    def levels(self, z, dtype=None):
        w, x = self.mapping(z), self.constant.expand(len(z), -1, -1, -1)
        for block in self.blocks:
            if block.upsample:
                yield x.permute(0, 2, 3, 1)
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = self.block(block, x, w)
        yield F.conv2d(x, self.to_rgb.weight, self.to_rgb.bias)

    @staticmethod
    def block(block, x, w):
        x = x if isinstance(block.resize, nn.Identity) else F.conv2d(x, block.resize.weight)
        scale, shift = block.norm.affine(w)[:, :, None, None].chunk(2, dim=1)
        x = h = torch.addcmul(shift, F.group_norm(x, x.shape[1], eps=NORM_EPSILON), scale)
        for number, conv in enumerate(block.convs):
            h = F.conv2d(F.gelu(h), conv.weight, conv.bias, padding=conv.padding)
            if number == 1 and block.strengths is not None:
                h = h + block.strengths[:, None, None] * block.noise[:, :, 0]
        return x + h


def adain(norm, x, w):
    """AdaIN of maps (B, C, H, W) by its definition."""
    scale, shift = norm.affine(w).chunk(2, dim=1)
    mean, var = x.mean(dim=(2, 3), keepdim=True), x.var(dim=(2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-2).sqrt() * scale[:, :, None, None] + shift[:, :, None, None]


def plain(generator: Generator) -> Generator:
    """Return a copy of the generator that computes as the definition says."""
    made = copy.deepcopy(generator)
    made.__class__ = Plain
    return made


SHAPES = [
    {},
    {"channels": [16], "blocks": [1]},
    {"channels": [16, 8], "blocks": [1, 2]},
    {"start": (4, 6)},
    {"blocks": [1, 1, 1, 1]},
    {"noise": True, "start": (4, 6)},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("network", ["generator", "with heads"])
def test_images_and_gradients_are_those_of_the_definition(shape, network):
    ours = small(**shape).double()
    theirs, z = plain(ours), torch.randn(3, 16, dtype=torch.float64)
    if network == "with heads":
        ours, theirs = (Staged(each, make_heads(each).double()) for each in (ours, theirs))
        theirs.heads.load_state_dict(ours.heads.state_dict())
    found = []
    for each in (ours, theirs):
        latents, drawn = z.clone().requires_grad_(), torch.Generator().manual_seed(1)
        images = [each(latents)] if network == "generator" else each(latents)
        sum((image * torch.randn(image.shape, generator=drawn, dtype=torch.float64)).sum() for image in images).backward()
        found.append([*images, latents.grad, *(p.grad for p in each.parameters())])
    for mine, exact in zip(*found, strict=True):
        assert (mine - exact).norm() <= 1e-12 * exact.norm()


def test_fifty_steps_have_the_losses_of_the_definition():
    """In float64 nothing but rounding is left of the order of operations."""
    torch.manual_seed(0)
    ours = small().double()
    theirs, target = plain(ours), torch.rand(8, 3, 32, 32, dtype=torch.float64)
    latents = torch.randn(8, 16, dtype=torch.float64)
    losses = []
    for each in (ours, theirs):
        optimizer = make_optimizer(each, Train(optimizer="muon", learning_rate=1e-2))
        losses.append([])
        for _ in range(50):
            optimizer.zero_grad()
            loss = F.mse_loss(each(latents), target)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0][-1] < 0.5 * losses[0][0]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("dtype, error", [(torch.bfloat16, 0.05), (torch.float16, 0.007)])
def test_maps_of_sixteen_bits_change_the_image_by_their_rounding(dtype, error):
    generator, z = small(), torch.randn(4, 16)
    exact, image = generator(z), generator(z, dtype)
    assert image.dtype == torch.float32
    assert 0 < (image - exact).norm() < error * exact.norm()
    seen = []
    for block in generator.blocks[:-1]:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    image = generator(z, dtype)
    image.sum().backward()
    assert {*seen} == {dtype} and all(p.grad.dtype == torch.float32 for p in generator.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_large_mean_costs_adain_no_digits(dtype):
    torch.manual_seed(0)
    norm, x, w = AdaIN(5, 7), torch.randn(3, 8, 8, 5), torch.randn(3, 7)
    x = (64 + x).to(dtype)  # the standard deviation is 1/64 of the mean
    expected = adain(norm.double(), x.double().permute(0, 3, 1, 2), w.double()).permute(0, 2, 3, 1)
    found = norm.float()(x, w)
    assert found.dtype == dtype
    assert (found - expected).norm() < 2 * torch.finfo(dtype).eps * expected.norm() + 1e-4


@pytest.mark.parametrize("spread", [1e-3, 1, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_adain_of_sixteen_bits_is_right_for_maps_of_any_spread(dtype, spread):
    """Training with Muon lets maps grow: their squares overflow in fp16 beyond 256."""
    torch.manual_seed(0)
    norm, x, w = AdaIN(5, 7), spread * torch.randn(3, 8, 8, 5), torch.randn(3, 7)
    direction = torch.randn(x.shape)
    results = []
    for maps, kind in ((x.to(dtype).float(), torch.float64), (x, dtype)):
        maps = maps.to(kind).requires_grad_()
        images = norm.to(torch.promote_types(kind, torch.float32))(maps, w.to(norm.affine.weight.dtype))
        grads = torch.autograd.grad((images * direction.to(kind)).sum(), [maps, *norm.parameters()])
        results.append([each.double() for each in (images, *grads)])
        norm.float()
    for expected, found in zip(*results):
        assert (found - expected).norm() < 4 * torch.finfo(dtype).eps * expected.norm()


def saved_bytes(network, z, constants) -> int:
    """Return the bytes of the storages that a forward pass keeps for the backward pass, beside those of `constants`."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = network(z)  # while it lives, no storage is used twice
    beside = {tensor.untyped_storage()._cdata for tensor in constants}
    assert result and kept
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in beside)


@pytest.mark.parametrize("name", ["fewshot-256", "paper-256"])
def test_a_step_at_256_pixels_keeps_a_quarter_less_than_before_and_a_third_less_in_16_bits(name):
    config = load_config(f"configs/{name}.yaml")
    with torch.device("meta"):
        embedding = Embedding(LpipsVgg(vgg16_trunk(), [torch.rand(c) for c in (64, 128, 256, 512, 512)]), config.loss.pixel_weight)
        z = torch.randn(config.train.batch_size, config.model.latent_dim)
    embedding.to("meta").requires_grad_(False)
    generator = build_generator(to_dict(config)).to("meta")
    constants = [*embedding.parameters(), *embedding.buffers()]
    ours, half, before = (
        saved_bytes(lambda z: embedding(each(z, dtype)), z, [*each.parameters(), *constants])
        for each, dtype in ((generator, None), (generator, torch.float16), (plain(generator), None))
    )
    assert ours <= 0.75 * before and half <= 0.7 * ours


def test_adain_equals_its_definition():
    torch.manual_seed(0)
    norm, x, w = AdaIN(5, 7), torch.randn(3, 6, 4, 5), torch.randn(3, 7)
    torch.testing.assert_close(norm(x, w), adain(norm, x.permute(0, 3, 1, 2), w).permute(0, 2, 3, 1))


def test_the_paper_recipe_has_the_published_shape():
    generator = build_generator(to_dict(load_config("configs/paper-256.yaml")))
    assert sum(p.numel() for p in generator.parameters()) == 33_054_979
    assert len(generator.blocks) == 24
    with torch.device("meta"):
        shape = plain(generator).to("meta")
        with FlopCounterMode(display=False) as counter:
            shape(torch.randn(1, 1024))
    assert counter.get_total_flops() / 2e9 == pytest.approx(31.6, abs=0.05)  # the published GMACs


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
