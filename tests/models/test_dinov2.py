"""DINOv2 against timm, which shares no code with ours, on random weights; the real ones are 1.2 GB and stay where they are."""

import math
import pickle

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from errors import UserError
from models import dinov2
from models.dinov2 import DinoV2
from models.weights import WEIGHTS

WIDTH, DEPTH, HEADS = 64, 3, 4
LEARNED, PLACES = 37, 16  # patches along a side of 518 and of 224 pixels


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def ours():
    """A small network in float64 in which every parameter is drawn, so that nothing is zero, one, or like its neighbour."""
    network = DinoV2(width=WIDTH, depth=DEPTH, heads=HEADS).double().eval().requires_grad_(False)
    for number, parameter in enumerate(network.parameters()):
        inputs = parameter[0].numel() if parameter.dim() in (2, 4) else 1
        parameter.copy_(drawn(*parameter.shape, seed=number) / math.sqrt(inputs))
    return network


def timm_twin(ours, size):
    """timm's network of the same shape for images of one size, with our parameters but the position embeddings."""
    theirs = VisionTransformer(
        img_size=size, patch_size=14, embed_dim=WIDTH, depth=DEPTH, num_heads=HEADS, init_values=1.0, num_classes=0, global_pool="token"
    )
    theirs = theirs.double().eval().requires_grad_(False)
    for block in theirs.blocks:
        assert block.attn.fused_attn in (True, False)
        block.attn.fused_attn = False  # softmax written out, where ours calls PyTorch's one function
    state = ours.state_dict()
    del state["mask_token"], state["pos_embed"]
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["pos_embed"], [])
    return theirs


def resampling_matrix():
    """The weights (16, 37) of learned places in new ones, by hand: Keys' cubic with a = -0.75, the border repeated.

    New place i lies at (i + 1/2) * 37 / 16.1 - 1/2 among the learned ones.
    """
    matrix = torch.zeros(PLACES, LEARNED, dtype=torch.float64)
    for i in range(PLACES):
        centre = (i + 0.5) * 37 / 16.1 - 0.5
        for place in range(math.floor(centre) - 1, math.floor(centre) + 3):
            t = abs(centre - place)
            weight = 1.25 * t**3 - 2.25 * t**2 + 1 if t <= 1 else -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            matrix[i, min(max(place, 0), LEARNED - 1)] += weight
    return matrix


def test_features_equal_timm_where_positions_are_as_learned(ours):
    theirs, images = timm_twin(ours, 518), drawn(1, 3, 518, 518, seed=100)
    theirs.pos_embed.copy_(ours.pos_embed)
    torch.testing.assert_close(ours(images), theirs(images), rtol=1e-9, atol=1e-9)


def test_features_equal_timm_at_224_pixels(ours):
    theirs, images = timm_twin(ours, 224), drawn(2, 3, 224, 224, seed=101)
    matrix, grid = resampling_matrix(), ours.pos_embed[0, 1:].view(LEARNED, LEARNED, WIDTH)
    theirs.pos_embed[0, 0] = ours.pos_embed[0, 0]
    theirs.pos_embed[0, 1:] = torch.einsum("ip,jq,pqc->ijc", matrix, matrix, grid).reshape(-1, WIDTH)
    found = ours(images)
    torch.testing.assert_close(found, theirs(images), rtol=1e-9, atol=1e-9)
    assert (found[0] - found[1]).abs().max() > 0.01
    torch.testing.assert_close(ours(images[1:]), found[1:])  # an image's features are its own


def test_float32_is_enough(ours):
    """What is computed in practice, in float32, differs from float64 by rounding alone."""
    images = drawn(1, 3, 224, 224, seed=102)
    single = DinoV2(width=WIDTH, depth=DEPTH, heads=HEADS)
    single.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(single(images.float()).double(), ours(images), rtol=1e-4, atol=1e-5)


def with_positions(values):
    """A network with the embeddings (37, 37, C) in its learned places and a class token's own that is like none of them."""
    network = DinoV2(width=values.shape[-1], depth=0, heads=1).double().requires_grad_(False)
    network.pos_embed.copy_(torch.cat((torch.full((1, values.shape[-1]), -7.0), values.reshape(LEARNED**2, -1)))[None])
    return network


def test_the_class_token_keeps_its_embedding_and_learned_places_theirs():
    network = with_positions(drawn(LEARNED, LEARNED, 8, seed=103))
    assert torch.equal(network.positions(LEARNED, LEARNED), network.pos_embed)
    assert torch.equal(network.positions(PLACES, PLACES)[:, 0], network.pos_embed[:, 0])
    assert network.positions(PLACES, PLACES).shape == (1, 1 + PLACES**2, 8)


def test_equal_embeddings_stay_equal():
    places = with_positions(torch.full((LEARNED, LEARNED, 2), 3.0)).positions(PLACES, PLACES)[0, 1:]
    torch.testing.assert_close(places, torch.full((PLACES**2, 2), 3.0, dtype=torch.float64))


def test_a_ramp_stays_a_ramp_at_the_right_places():
    """Embeddings that tell their own row and column tell where the new places are: at 37 / 16.1 steps, not 37 / 16.

    This cubic bends a ramp by up to 0.05 of a step between two places; the two rules come to differ by 0.22.
    """
    rows, columns = torch.meshgrid(torch.arange(37.0), torch.arange(37.0), indexing="ij")
    places = with_positions(torch.stack((rows, columns), dim=-1)).positions(PLACES, PLACES)[0, 1:].view(PLACES, PLACES, 2)
    inner = slice(1, PLACES - 1)  # the border is repeated beyond itself, where the ramp is none
    centres = ((torch.arange(16.0) + 0.5) * 37 / 16.1 - 0.5)[inner].double()
    torch.testing.assert_close(places[inner, inner, 0], centres[:, None].expand(14, 14), rtol=0, atol=0.06)
    torch.testing.assert_close(places[inner, inner, 1], centres[None].expand(14, 14), rtol=0, atol=0.06)


def test_a_grid_need_not_be_square():
    rows, columns = torch.meshgrid(torch.arange(37.0), torch.arange(37.0), indexing="ij")
    places = with_positions(torch.stack((rows, columns), dim=-1)).positions(5, 9)[0, 1:].view(5, 9, 2)
    assert places[:, 4, 0].diff().min() > 7 and places[0, :, 1].diff().min() > 4  # 37 / 5.1 and 37 / 9.1 learned places apart


# the file

SHAPES = {
    "cls_token": (1, 1, 1024),
    "pos_embed": (1, 1370, 1024),
    "mask_token": (1, 1024),
    "patch_embed.proj.weight": (1024, 3, 14, 14),
    "blocks.23.attn.qkv.bias": (3072,),
    "blocks.0.ls1.gamma": (1024,),
    "blocks.23.mlp.fc1.weight": (4096, 1024),
}


@pytest.fixture(scope="module")
def published():
    """The names and shapes of the full network; a file of it is small, as each tensor is one number seen many times."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in DinoV2().state_dict().items()}
    return {name: torch.tensor(float(number)).expand(shape) for number, (name, shape) in enumerate(shapes.items())}


def test_names_and_shapes_are_those_of_the_published_network(published):
    """Facebook's file is timm's state dict and the mask token, which timm leaves out when it reads that file."""
    with torch.device("meta"):
        theirs = timm.create_model("vit_large_patch14_dinov2", pretrained=False, num_classes=0)
    shapes = {name: tuple(tensor.shape) for name, tensor in published.items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()} | {"mask_token": (1, 1024)}
    assert shapes.items() >= SHAPES.items()
    assert sum(tensor.numel() for tensor in published.values()) == sum(p.numel() for p in theirs.parameters()) + 1024
    assert {module.eps for module in theirs.modules() if isinstance(module, torch.nn.LayerNorm)} == {dinov2.NORM_EPSILON}
    with torch.device("meta"):
        network = DinoV2()
    assert [block.attn.heads for block in network.blocks] == [block.attn.num_heads for block in theirs.blocks]


def test_a_file_that_fits_is_loaded_frozen(published, tmp_path):
    torch.save(published, tmp_path / "weights.pth")
    network = dinov2.load(tmp_path / "weights.pth")
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu" and tensor.flatten()[-1] == published[name].flatten()[0], name
    assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())


def refusal(path):
    with pytest.raises(UserError) as caught:
        dinov2.load(path)
    message = str(caught.value)
    assert message.isascii() and "\n" not in message
    assert message.startswith(f"{path}: ") and message.endswith(f"; put the file from {WEIGHTS['dinov2'].url} there")
    return message


FOREIGN = {
    "a tensor too few": lambda state: {name: tensor for name, tensor in state.items() if name != "mask_token"},
    "a tensor too many": lambda state: state | {"register_tokens": torch.zeros(1, 4, 1024)},
    "another shape": lambda state: state | {"pos_embed": torch.zeros(1, 257, 1024)},
    "half precision": lambda state: state | {"norm.weight": torch.ones(1024).half()},
    "no tensor": lambda state: state | {"norm.weight": "ones"},
    "names that are numbers": lambda state: dict(enumerate(state.values())),
    "wrapped": lambda state: {"teacher": state},
    "no names": lambda state: list(state.values()),
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_a_foreign_file_is_refused(change, published, tmp_path):
    torch.save(change(published), tmp_path / "weights.pth")
    assert "not DINOv2's ViT-L/14" in refusal(tmp_path / "weights.pth")


def test_a_damaged_file_is_refused(published, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(published, path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], whole[:-30], b"<html>not found</html>"):
        path.write_bytes(content)
        assert "damaged" in refusal(path)


def test_a_missing_file_is_told(tmp_path):
    assert "cannot be read (No such file" in refusal(tmp_path / "nowhere.pth")
    assert "cannot be read (Is a directory" in refusal(tmp_path)


class Payload:
    """Touches a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state))], ids=["packed", "plain"])
def test_a_file_that_would_run_code_is_refused(write, published, tmp_path):
    touched, path = tmp_path / "touched", tmp_path / "weights.pth"
    write({"norm.weight": Payload(touched)}, path)
    assert "nothing in it was run" in refusal(path)
    assert not touched.exists()
    with open(path, "rb") as file:  # the payload does work where it is let
        torch.load(file, weights_only=False) if write is torch.save else pickle.load(file)
    assert touched.exists()
