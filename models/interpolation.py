"""Paths between latents."""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the points at shares `t` (B, 1) of the great arcs from `a` to `b`, (B, latent_dim), lengths interpolated too.

    A straight line between two normal latents passes through lengths that training never saw (Shoemake 1985).
    """
    lengths = [each.norm(dim=1, keepdim=True).clamp(min=1e-12) for each in (a, b)]
    cosine = (a * b).sum(dim=1, keepdim=True) / (lengths[0] * lengths[1])
    angle = torch.arccos(cosine.clamp(-1, 1))  # (B, 1)
    arc = (torch.sin((1 - t) * angle) * a / lengths[0] + torch.sin(t * angle) * b / lengths[1]) / torch.sin(angle)
    return torch.where(angle < 1e-4, torch.lerp(a, b, t), arc * torch.lerp(*lengths, t))


def loop(latents: Tensor, frames: int) -> Tensor:
    """Return `frames` latents on a closed path through `latents` (k, latent_dim), evenly spaced in time."""
    places = torch.arange(frames) / frames * len(latents)  # (frames,)
    here = places.long()
    return slerp(latents[here], latents[(here + 1) % len(latents)], (places - here)[:, None])
