"""The multi-stage loss: what heads see, what they are held to, and that nobody but training knows them."""

import pytest
import torch
import torch.nn.functional as F
from test_trainer import images, train, trainer

from errors import UserError
from methods import load_config, open_sampler
from models.generator import Generator
from models.pixels import to_float, to_uint8
from models.stages import Staged, make_heads, shrunk, stage_maps
from training import checkpoint

DATA = {"fingerprint": "abc", "names": ["a.png"], "heldout": []}


def staged(**changes) -> Staged:
    torch.manual_seed(0)
    shape = {"latent_dim": 8, "style_dim": 16, "mapping_layers": 1, "channels": [16, 12, 8], "blocks": [2, 1, 2], "start": (4, 6)}
    generator = Generator(**{**shape, **changes})
    return Staged(generator, make_heads(generator))


def test_a_stage_is_a_projection_of_what_leaves_the_last_block_of_its_resolution():
    network, z, seen = staged(), torch.randn(3, 8), {}
    for number, block in enumerate(network.generator.blocks):
        block.register_forward_hook(lambda module, inputs, output, number=number: seen.update({number: output}))
    stages = network(z)
    assert [tuple(stage.shape[1:]) for stage in stages] == [(3, 4, 6), (3, 8, 12), (3, 16, 24)]
    for stage, head, number in zip(stages, network.heads, (1, 2)):
        torch.testing.assert_close(stage, torch.einsum("oc,bhwc->bohw", head.weight[:, :, 0, 0], seen[number]) + head.bias[:, None, None])
    assert torch.equal(stages[-1], network.generator(z))


def test_stage_maps_are_mean_squared_errors_of_images_made_smaller():
    drawn, target = [torch.rand(2, 3, 4, 6), torch.rand(2, 3, 8, 12)], torch.rand(2, 3, 16, 24)
    small = shrunk(target, drawn)
    for level, factor in zip(small, (4, 2)):
        blocks = target.reshape(2, 3, 16 // factor, factor, 24 // factor, factor).mean(dim=(3, 5))
        torch.testing.assert_close(level, blocks)
    errors = [F.mse_loss(a, b, reduction="none").mean(dim=(1, 2, 3)) for a, b in zip(drawn, small)]
    found = sum((a - b).square().sum(dim=(1, 2, 3)) for a, b in zip(stage_maps(drawn), stage_maps(small)))
    torch.testing.assert_close(found, sum(errors))


@pytest.mark.parametrize("weight", [0.25, 2.0])
def test_the_gradient_is_that_of_the_distance_and_the_weighted_stages(weight):
    made = trainer(loss={"stage_weight": weight}, train={"learning_rate": 0.0})
    made.method.latents.normal_(generator=torch.Generator().manual_seed(0))
    index = made.batch(0)
    made.method.pull(index, 0)
    reported = made.method.losses[index]
    found = [p.grad.clone() for p in made.method.learner.network.parameters()]
    made.method.learner.optimizer.zero_grad()
    *stages, image = made.method.learner.network(made.method.latents[index])
    targets = to_float(made.method.targets.images[index])
    # The image counts with 1 as the perceptual distance and with pixel_weight as itself.
    distance = (1 + made.config.loss.pixel_weight) * F.mse_loss(image, targets)
    errors = [F.mse_loss(stage, F.avg_pool2d(targets, 16 // stage.shape[-1])) for stage in stages]
    (distance + weight * sum(errors) / len(errors)).backward()
    torch.testing.assert_close(reported.mean(), distance.detach())  # what is told is the distance alone
    for ours, p in zip(found, made.method.learner.network.parameters()):
        torch.testing.assert_close(ours, p.grad, rtol=1e-4, atol=1e-6)


def test_the_generator_begins_the_same_with_heads_and_without():
    plain, headed = trainer(), trainer(loss={"stage_weight": 1.0})
    for ours, theirs in zip(plain.method.generator.parameters(), headed.method.generator.parameters()):
        assert torch.equal(ours, theirs)
    assert plain.method.learner.network is plain.method.generator
    names = [{name.split(".")[0] for name in made.state()["method"]["learner"]["network"]} for made in (plain, headed)]
    assert "heads" not in names[0] and names[1] == {"generator", "heads"}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_heads_learn_and_are_in_the_checkpoint_but_not_in_what_is_sampled(optimizer, tmp_path):
    made = trainer(loss={"stage_weight": 1.0}, train={"optimizer": optimizer})
    before = [p.detach().clone() for p in made.method.learner.network.heads.parameters()]
    train(made, 5)
    assert not any(torch.equal(a, b) for a, b in zip(before, made.method.learner.network.heads.parameters()))
    made.data = DATA
    path = tmp_path / "x.pt"
    checkpoint.save(made.state(), path)
    sampler = open_sampler(path)
    assert torch.equal(sampler.images([0, 1, 2]), to_uint8(made.method.draw([0, 1, 2])))
    sampler.export(tmp_path / "export.pt")
    assert torch.equal(open_sampler(tmp_path / "export.pt").images([0]), sampler.images([0]))
    assert not any("heads" in name for name in checkpoint.load(tmp_path / "export.pt")["sampled"])

    other = trainer(loss={"stage_weight": 1.0}, train={"optimizer": optimizer})
    other.load_state(checkpoint.load(path))
    assert train(made, 5) == train(other, 5)
    assert all(torch.equal(a, b) for a, b in zip(made.method.learner.network.parameters(), other.method.learner.network.parameters()))


def test_a_head_that_breaks_stops_the_run():
    made = trainer(loss={"stage_weight": 1.0})
    train(made, 1)
    with torch.no_grad():
        made.method.learner.network.heads[0].weight[0, 0] = float("inf")
    with pytest.raises(UserError, match="a weight is not finite at step 1"):
        made.save("last")
    with pytest.raises(UserError, match="the loss or its gradient is not finite at step 1"):
        made.advance()


def test_all_of_it_compiles_as_one_graph():
    network, z = staged(), torch.randn(2, 8)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert all(torch.equal(a, b) for a, b in zip(compiled(z), network(z), strict=True))


def test_a_single_resolution_has_no_stages():
    words = ["model.channels=[8]", "model.blocks=[1]", "data.resolution=8"]
    load_config(None, words)
    with pytest.raises(UserError, match="^loss.stage_weight: needs a resolution below the final one"):
        load_config(None, [*words, "loss.stage_weight=0.1"])


def test_rectangles_have_stages_too():
    pixels = F.interpolate(images().float(), size=(16, 24)).to(torch.uint8)
    made = trainer(pixels=pixels, data={"resolution": [16, 24]}, loss={"stage_weight": 1.0})
    assert torch.tensor(train(made, 2)).isfinite().all()
