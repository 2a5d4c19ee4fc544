"""Truncation and style mixing: what is computed, and that an image still depends on its seed alone."""

import argparse

import pytest
import torch
from torch import nn

from errors import UserError
from imle.drawing import build_generator
from methods import load_config, open_sampler
from sampling.styles import mean_style, mixing, psi, style_based, truncated
from training.settings import to_dict


@pytest.fixture
def sampler(smoke_run):
    return open_sampler(smoke_run)


def largest_difference(a, b):
    return (a.int() - b.int()).abs().max().item()


@pytest.mark.parametrize("psi", [0.0, 0.7, 1.5])
def test_truncation_moves_every_style_towards_the_mean_and_changes_nothing_else(psi, sampler):
    before = {name: value.clone() for name, value in sampler.generator.state_dict().items()}
    images, generator = sampler.images([3, 8]), sampler.generator
    seen = []
    steered = truncated(sampler, psi)
    for block in steered.generator.blocks:
        block.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    steered.images([3])
    mean, own = mean_style(generator), generator.mapping(sampler.latents([3]))
    assert len(seen) == len(generator.blocks)
    for style in seen:
        torch.testing.assert_close(style, mean + psi * (own - mean))
    assert torch.equal(sampler.images([3, 8]), images) and sampler.generator is generator
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_without_truncation_the_sampler_is_the_same_object(sampler):
    assert truncated(sampler, 1.0) is sampler


def test_truncated_images_depend_on_their_seed_alone_and_so_do_films(sampler):
    steered = truncated(sampler, 0.5)
    whole = steered.images(range(9))
    assert torch.equal(torch.cat([steered.images([8]), steered.images([3, 0], batch_size=1)]), whole[[8, 3, 0]])
    assert torch.equal(steered.decode(steered.latents([4])), whole[[4]])
    assert not torch.equal(whole, sampler.images(range(9)))


def test_less_truncation_is_less_variety(sampler):
    spread = [truncated(sampler, psi).images(range(8)).float().std(dim=0).mean().item() for psi in (0, 0.5, 1)]
    assert spread[0] == 0 < spread[1] < spread[2]


def test_a_mix_has_the_coarse_styles_of_one_and_the_fine_ones_of_the_other(sampler):
    """The smoke recipe has maps of 4, 8, 16 and 32 pixels, with a block each."""
    generator, seen = sampler.generator, []
    for block in generator.blocks:
        block.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    latents = sampler.latents([3, 8])
    mixing(generator)(latents[None])
    coarse, fine = generator.mapping(latents)
    assert [torch.allclose(style[0], coarse, atol=1e-5) for style in seen] == [True, True, False, False]
    assert [torch.allclose(style[0], fine, atol=1e-5) for style in seen] == [False, False, True, True]


def test_a_mix_of_a_latent_with_itself_is_its_sample(sampler):
    latents = sampler.latents([5, 6])
    mixes = sampler.decode(torch.stack([latents, latents], dim=1), mixing(sampler.generator))
    assert largest_difference(mixes, sampler.images([5, 6])) <= 1


def test_a_mix_is_truncated_too(sampler):
    steered = truncated(sampler, 0.0)
    mix = steered.decode(sampler.latents([1, 2])[None], mixing(steered.generator))
    assert largest_difference(mix, steered.images([7])) <= 1 < largest_difference(mix, sampler.images([7]))


def test_a_mix_depends_on_its_two_latents_alone(sampler):
    a, b = sampler.latents([1, 2, 3]), sampler.latents([4, 5, 6])
    pairs, network = torch.stack([a, b], dim=1), mixing(sampler.generator)
    assert torch.equal(sampler.decode(pairs, network)[1], sampler.decode(pairs[[1]], network)[0])


def test_a_generator_of_one_resolution_gives_all_styles_to_the_first():
    config = to_dict(load_config(None, ["model.channels=[8]", "model.blocks=[2]", "data.resolution=8", "model.latent_dim=4"]))
    generator = build_generator(config)
    latents = torch.randn(1, 2, 4)
    torch.testing.assert_close(mixing(generator)(latents), generator(latents[:, 0]))


def test_a_generator_without_styles_is_refused_in_one_line(sampler):
    sampler.drawing = sampler.drawing._replace(generator=nn.Linear(2, 2))
    with pytest.raises(UserError, match="^--mix: .*last.pt has no styles to steer: its generator maps latents to images without styles$"):
        style_based(sampler, "--mix")
    with pytest.raises(UserError, match="^--truncation: "):
        truncated(sampler, 0.5)


def test_the_word_after_truncation_is_a_number_from_0_to_2():
    assert [psi(word) for word in ("0", "0.7", "1", "2")] == [0, 0.7, 1, 2]
    for word in ("-0.1", "2.1", "nan", "inf", "", "much", "0,7"):
        with pytest.raises(argparse.ArgumentTypeError, match="is not a number from 0"):
            psi(word)
