"""Paths between latents."""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Return the point at share `t` of the great arc from `a` to `b`, (latent_dim,), its length interpolated too.

    A straight line between two normal latents passes through lengths that training never saw (Shoemake 1985).
    """
    cosine = torch.dot(a, b) / (a.norm() * b.norm())
    angle = torch.arccos(cosine.clamp(-1, 1))
    if angle < 1e-4:
        return torch.lerp(a, b, t)
    direction = (torch.sin((1 - t) * angle) * a / a.norm() + torch.sin(t * angle) * b / b.norm()) / torch.sin(angle)
    return direction * torch.lerp(a.norm(), b.norm(), t)


def loop(latents: Tensor, frames: int) -> Tensor:
    """Return `frames` latents on a closed path through `latents` (k, latent_dim), evenly spaced in time."""
    path = []
    for frame in range(frames):
        place = frame / frames * len(latents)
        here = int(place)
        path.append(slerp(latents[here], latents[(here + 1) % len(latents)], place - here))
    return torch.stack(path)
