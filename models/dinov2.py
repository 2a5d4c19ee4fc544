"""DINOv2's ViT-L/14: image features learned without labels, for inference only (Oquab et al. 2023).

The module names equal those in Facebook's dinov2_vitl14_pretrain.pth, so that the file loads without renaming.
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
GRID_EXCESS = 0.1  # patches that the published models add to a grid's sides when they interpolate position embeddings
NORM_EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, width) (Vaswani et al. 2017)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, N, C / heads)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LayerScale(nn.Module):
    """Multiply each channel by its own learned factor (Touvron et al. 2021)."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block: attention and MLP, each with a residual. Tokens: float (B, N, width)."""

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
    """Map images to class tokens. Images: float (B, 3, H, W), normalised by ImageNet's mean and deviation; H, W multiples of 14."""

    def __init__(self, *, width: int = 1024, depth: int = 24, heads: int = 16, side: int = 518):
        super().__init__()
        self.grid = side // PATCH  # patches along each side of the images that the position embeddings were learned on
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.grid**2, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # in the file; only DINOv2's own training uses it
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
        """Return the position embeddings (1, 1 + rows * columns, width): the class token's, then the grid's, row by row.

        For a grid other than the learned one they are interpolated bicubically as in Facebook's published models: without
        antialiasing, and with GRID_EXCESS, which at 224 pixels shifts them by up to a fifth of a learned cell up and left.
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
    with torch.device("meta"):  # saves initialising 1.2 GB of weights that the file replaces
        network = DinoV2()
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns about some files that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state, strict=True, assign=True)
        if any(parameter.dtype != torch.float32 for parameter in network.parameters()):
            raise TypeError("weights in another precision are not the published ones")
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); put the file from {WEIGHTS['dinov2'].url} there") from None
    except Exception:  # a damaged or hostile file can raise anything
        fault = "not DINOv2's ViT-L/14, or damaged; nothing in it was run"
        raise UserError(f"{path}: {fault}; put the file from {WEIGHTS['dinov2'].url} there") from None
    return network.eval().requires_grad_(False)
