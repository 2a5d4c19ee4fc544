"""The recursive token mapper: a latent as a few tokens, which one shared block refines over and over, in place of the MLP.

RTM (Esmaeilzadeh et al. 2026, arXiv 2605.15309), after the tiny recursive model of Jolicoeur-Martineau (2025, arXiv
2510.04871), whose two states it keeps: `low` is worked out in cycles from the latent's tokens, `high` gathers it once a
step, and only the last step has a gradient. Ours alone: both states begin at zero, the residual is the recursion's own
(a block that returned its input too would double the states in every cycle), the norms have no gain, which the layers
behind them can take over, and one more norm before the read-out keeps styles at one scale however long the recursion.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-6


def rms_norm(x: Tensor) -> Tensor:
    """Scale the last dimension to a mean square of 1 (Zhang & Sennrich 2019)."""
    return F.rms_norm(x, x.shape[-1:], eps=NORM_EPSILON)


def linear(inputs: int, outputs: int, *, bias: bool) -> nn.Linear:
    """Return a layer that keeps the scale of its inputs."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(inputs))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class SwiGLU(nn.Module):
    """Mix the last dimension through a gated layer of twice its width (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, size: int):
        super().__init__()
        self.spread = linear(size, 4 * size, bias=False)
        self.gather = linear(2 * size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.spread(x).chunk(2, dim=-1)
        return self.gather(F.silu(gate) * value)


class Mixer(nn.Module):
    """Return what to add to tokens (B, tokens, token_dim): mixed over the tokens, then over the channels of each."""

    def __init__(self, tokens: int, token_dim: int):
        super().__init__()
        self.over_tokens, self.over_channels = SwiGLU(tokens), SwiGLU(token_dim)

    def forward(self, x: Tensor) -> Tensor:
        update = self.over_tokens(rms_norm(x).mT).mT
        return update + self.over_channels(rms_norm(x + update))


class TokenMapper(nn.Module):
    """Map latents z (B, latent_dim) to styles w (B, style_dim)."""

    def __init__(self, latent_dim: int, style_dim: int, *, tokens: int, token_dim: int, cycles: int, steps: int):
        super().__init__()
        self.tokens, self.cycles, self.steps = tokens, cycles, steps
        self.embed = linear(latent_dim, tokens * token_dim, bias=True)
        self.mixer = Mixer(tokens, token_dim)
        self.read_out = linear(tokens * token_dim, style_dim, bias=True)

    def forward(self, z: Tensor) -> Tensor:
        latent = self.embed(rms_norm(z)).unflatten(1, (self.tokens, -1))  # (B, tokens, token_dim)
        low = high = torch.zeros_like(latent)
        for _ in range(self.steps):
            low, high = low.detach(), high.detach()
            for _ in range(self.cycles):
                low = low + self.mixer(low + high + latent)
            high = high + self.mixer(high + low)
        return self.read_out(rms_norm(high).flatten(1))
