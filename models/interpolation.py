"""Paths between latents."""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Return the points at shares `t` (B, 1) of the great arcs from `a` to `b`, (B, latent_dim), lengths interpolated too.

    Share 0 is `a` and share 1 is `b` to the last bit. A straight line between two normal latents passes through lengths
    that training never saw (Shoemake 1985); it is taken only where there is no one arc: between latents in the same or
    in opposite directions, and from or to zero.
    """
    lengths = [each.norm(dim=1, keepdim=True) for each in (a, b)]
    cosine = (a * b).sum(dim=1, keepdim=True) / (lengths[0] * lengths[1])  # NaN where a length is 0
    angle = torch.arccos(cosine.clamp(-1, 1))  # (B, 1)
    sine = torch.sin(angle)
    arc = (torch.sin((1 - t) * angle) * a / lengths[0] + torch.sin(t * angle) * b / lengths[1]) / sine * torch.lerp(*lengths, t)
    least = (8 * torch.finfo(a.dtype).eps) ** 0.5  # an arc of less differs from its chord by less than rounding
    points = torch.where(sine > least, arc, torch.lerp(a, b, t))
    return torch.where(t == 0, a, torch.where(t == 1, b, points))  # the arc misses its ends by a rounding


def loop(latents: Tensor, frames: int) -> Tensor:
    """Return `frames` latents on a closed path through `latents` (k, latent_dim), evenly spaced in time.

    A frame whose time is that of one of `latents` is this latent to the last bit.
    """
    ticks = torch.arange(frames, device=latents.device) * len(latents)  # of which `frames` lead from latent to latent
    here = ticks // frames
    shares = (ticks % frames / frames).to(latents.dtype)  # from whole numbers, so that 0 is not missed by a rounding
    return slerp(latents[here], latents[(here + 1) % len(latents)], shares[:, None])
