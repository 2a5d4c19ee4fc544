"""DINOv2's ViT-L/14: image features learned without labels, for inference alone (Oquab et al. 2023).

The module names equal those of Facebook's dinov2_vitl14_pretrain.pth, so that it loads without renaming.
"""

import warnings
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.weights import WEIGHTS

PATCH = 14  # pixels along each side of one patch
GRID_EXCESS = 0.1  # patches by which the published models overstate a grid's sides when they stretch embeddings to it
NORM_EPSILON = 1e-6


class Attention(nn.Module):
    """Attend from every token to every token, in `heads` parts of the channels (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, C / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """Multiply each channel by a learned factor of its own (Touvron et al. 2021)."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Transformer block that normalises before each of its two residuals. Tokens: float (B, N, width)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(width, 4 * width), gelu=nn.GELU(), fc2=nn.Linear(4 * width, width)))
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DinoV2(nn.Module):
    """Give images' class tokens. Images: float (B, 3, H, W) in ImageNet's deviations from its mean, H and W in whole patches."""

    def __init__(self, *, width: int = 1024, depth: int = 24, heads: int = 16, side: int = 518):
        super().__init__()
        self.grid = side // PATCH  # patches along each side of the images that the position embeddings were learned on
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file; of use in training alone
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, PATCH, PATCH)))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token after the last norm (B, width)."""
        patches = self.patch_embed(images)  # (B, width, rows, columns)
        x = torch.cat((self.cls_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        x = x + self.positions(*patches.shape[2:])
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the embeddings (1, 1 + rows * columns, width) of the class token and of the places in a grid, row by row.

        Where the grid is not the learned one they are taken bicubically, as in Facebook's published models: not
        antialiased, and with the excess, which at 224 pixels is up to a fifth of a learned place up and to the left.
        """
        if rows == columns == self.grid:
            return self.pos_embed
        learned = self.pos_embed[:, 1:].unflatten(1, (self.grid, self.grid)).permute(0, 3, 1, 2)
        scale = tuple((side + GRID_EXCESS) / self.grid for side in (rows, columns))
        taken = F.interpolate(learned, scale_factor=scale, mode="bicubic", align_corners=False, antialias=False)
        return torch.cat((self.pos_embed[:, :1], taken.flatten(2).transpose(1, 2)), dim=1)


def load(path: Path) -> DinoV2:
    """Return the frozen network with the weights of Facebook's file, on the CPU.

    Raises UserError for a file that is missing, damaged, of another network, or would run code when loaded.
    """
    with torch.device("meta"):  # 1.2 GB of random numbers would be made only to be thrown away
        network = DinoV2()
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch says of files that are refused anyway
            state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state, strict=True, assign=True)
        if any(parameter.dtype != torch.float32 for parameter in network.parameters()):
            raise TypeError("rounded weights are others than the published")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); put the file from {WEIGHTS['dinov2'].url} there") from None
    except Exception:  # there is no end to what a damaged or hostile file can raise
        fault = "not DINOv2's ViT-L/14, or damaged; nothing in it was run"
        raise UserError(f"{path}: {fault}; put the file from {WEIGHTS['dinov2'].url} there") from None
    return network.eval().requires_grad_(False)
