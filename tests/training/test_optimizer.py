"""The optimisers: Muon against torch's, which matrices it takes, and what a checkpoint of it holds."""

import copy

import pytest
import torch
from torch.utils._pytree import tree_map_only

from models.generator import Generator
from training.optimizer import MuonAdamW, adamw, bucket, load_adamw, make_optimizer, matrices, orthogonal, set_learning_rate
from training.settings import Train


def generator(seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    return Generator(latent_dim=8, style_dim=16, mapping_layers=3, channels=[64, 48], blocks=[2, 1])


def with_gradients(network: Generator, seed: int) -> Generator:
    drawn = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=drawn))  # in the weight's layout
    return network


@pytest.mark.parametrize("shape", [(3, 20, 50), (2, 20, 100), (1, 16, 16)])
def test_orthogonal_has_equal_singular_values_in_the_directions_of_the_matrix(shape):
    stack = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values, given = torch.linalg.svdvals(orthogonal(stack)), torch.linalg.svdvals(stack)
    assert values.max() < 1.3
    assert (values.median(1).values > 0.5).all()  # the quintic leaves them scattered about 1, the smallest still on the way
    assert (values.median(1).values / values.amax(1) > given.median(1).values / given.amax(1)).all()
    u, _, v = torch.linalg.svd(stack, full_matrices=False)
    inside = u.mT @ orthogonal(stack) @ v.mT
    assert (inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


def test_muon_steps_as_torchs_does():
    ours, theirs = generator(), generator()
    settings = Train(optimizer="muon", learning_rate=0.02, weight_decay=0.1)
    optimizer = make_optimizer(ours, settings)
    flat = [torch.nn.Parameter(matrix.detach().flatten(1).clone()) for matrix in matrices(theirs)]
    library = torch.optim.Muon(flat, lr=0.02, weight_decay=0.1, momentum=0.95, ns_steps=3, adjust_lr_fn="match_rms_adamw")
    for seed in range(4):
        with_gradients(ours, seed), with_gradients(theirs, seed)
        for view, matrix in zip(flat, matrices(theirs)):
            view.grad = matrix.grad.flatten(1)
        optimizer.step(), library.step()
    for view, matrix in zip(flat, matrices(ours)):
        moved = (view - matrix.flatten(1)).norm() / (0.02 * 0.2 * max(view.shape) ** 0.5 * min(view.shape) ** 0.5)
        assert moved < 0.05  # of one step; torch iterates in bfloat16


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_muon_moves_a_weight_the_same_way_whatever_its_layout(weight_decay):
    networks = [generator(), generator()]
    for parameter in networks[0].parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous()
    convolutions = [[p for p in network.parameters() if p.dim() == 4 and p.shape[-1] == 3] for network in networks]
    assert all(p.is_contiguous() for p in convolutions[0]) and not any(p.is_contiguous() for p in convolutions[1])
    before = [p.detach().clone() for p in convolutions[1]]
    for network in networks:
        made = make_optimizer(with_gradients(network, 3), Train(optimizer="muon", weight_decay=weight_decay))
        made.step()
    for old, plain, last in zip(before, *convolutions, strict=True):
        assert torch.equal(plain, last) and ((last - old).abs() > 1e-5).double().mean() > 0.9


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_moments_of_another_layout_are_paired_with_their_weights(optimizer):
    """Checkpoints of earlier revisions hold the moments of 3x3 convolutions in the order of their indices."""
    settings, networks = Train(optimizer=optimizer), [generator(), generator()]
    first = make_optimizer(with_gradients(networks[0], 0), settings)
    first.step()
    networks[1].load_state_dict(networks[0].state_dict())
    state = tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(memory_format=torch.contiguous_format), first.state_dict())
    second = make_optimizer(networks[1], settings)
    second.load_state_dict(state) if optimizer == "muon" else load_adamw(second, state)
    for network, made in zip(networks, (first, second)):
        with_gradients(network, 1), made.step()
    assert all(torch.equal(a, b) for a, b in zip(networks[0].parameters(), networks[1].parameters()))


def test_muon_takes_the_convolutions_and_adamw_the_rest():
    network, reference = generator(), generator()
    before = copy.deepcopy(network)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    taken = {names[id(matrix)] for matrix in matrices(network)}
    assert {name for name, _ in network.named_parameters() if "convs" in name and name.endswith("weight")} <= taken
    assert not any("norm" in name or "mapping" in name or name.endswith("bias") or name in ("constant", "to_rgb.weight") for name in taken)
    settings = Train(optimizer="muon")
    make_optimizer(with_gradients(network, 3), settings).step()
    adamw(dict(with_gradients(reference, 3).named_parameters()), settings).step()
    for (name, ours), theirs, old in zip(network.named_parameters(), reference.parameters(), before.parameters()):
        assert not torch.equal(ours, old)
        assert torch.equal(ours, theirs) == (name not in taken)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_mapping_network_learns_at_its_own_rate(optimizer):
    whole, less = generator(), generator()
    before = copy.deepcopy(whole)
    for network, share in ((whole, 1.0), (less, 0.25)):
        made = make_optimizer(with_gradients(network, 3), Train(optimizer=optimizer, mapping_rate=share, weight_decay=0.0))
        set_learning_rate(made, 0.5)
        assert made.param_groups[0]["lr"] == 0.5 and made.param_groups[-1]["lr"] == 0.5 * share
        made.step()
    for (name, old), one, other in zip(before.named_parameters(), whole.parameters(), less.parameters()):
        share = 0.25 if name.startswith("mapping.") else 1.0
        torch.testing.assert_close(other - old, share * (one - old), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_loaded_optimiser_goes_on_to_the_last_bit(share):
    network = generator()
    optimizer = make_optimizer(network, Train(optimizer="muon", mapping_rate=share))
    with_gradients(network, 0), optimizer.step()
    other = copy.deepcopy(network)
    loaded = make_optimizer(other, Train(optimizer="muon", mapping_rate=share))
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with_gradients(network, 1), with_gradients(other, 1)
    optimizer.step(), loaded.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters()))


def test_nothing_changes_once_a_gradient_was_not_finite():
    network = generator()
    optimizer = MuonAdamW(network, Train(optimizer="muon", weight_decay=0.1))
    with_gradients(network, 0), optimizer.step()
    before, momenta = copy.deepcopy(network), [stack.momentum.clone() for stack in optimizer.stacks]
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    optimizer.found_inf.fill_(1.0)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), before.parameters()))
    assert all(torch.equal(stack.momentum, old) for stack, old in zip(optimizer.stacks, momenta))


def test_gradients_are_forgotten():
    network = with_gradients(generator(), 0)
    make_optimizer(network, Train(optimizer="muon")).zero_grad()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_zeros_that_fill_a_matrix_up_change_nothing_of_it():
    stack = torch.randn(1, 12, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)  # sums of other lengths
    filled = torch.nn.functional.pad(stack, (0, 50, 0, 20))
    assert torch.allclose(orthogonal(filled)[:, :12, :30], orthogonal(stack), rtol=0, atol=1e-12)
    assert orthogonal(filled)[:, 12:].abs().max() == orthogonal(filled)[:, :, 30:].abs().max() == 0


@pytest.mark.parametrize("side, least", [(1, 2), (2, 2), (3, 8), (8, 8), (9, 32), (32, 32), (33, 128), (288, 512), (512, 512)])
def test_buckets(side, least):
    assert bucket(side) == least
