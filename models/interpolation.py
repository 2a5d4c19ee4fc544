"""Paths between latents."""

import torch
from torch import Tensor


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Interpolate spherically between `a` and `b` (B, latent_dim) at `t` (B, 1) in [0, 1]; lengths are interpolated linearly.

    t = 0 gives `a` and t = 1 gives `b`, bitwise. A straight line between two normal latents passes through shorter latents,
    which training never uses, so spherical interpolation is the default (Shoemake 1985). The line is used only where the
    arc is not unique: for parallel and opposite latents, and for zero.
    """
    lengths = [each.norm(dim=1, keepdim=True) for each in (a, b)]
    cosine = (a * b).sum(dim=1, keepdim=True) / (lengths[0] * lengths[1])  # NaN where a length is 0
    angle = torch.arccos(cosine.clamp(-1, 1))  # (B, 1)
    sine = torch.sin(angle)
    arc = (torch.sin((1 - t) * angle) * a / lengths[0] + torch.sin(t * angle) * b / lengths[1]) / sine * torch.lerp(*lengths, t)
    least = (8 * torch.finfo(a.dtype).eps) ** 0.5  # a shorter arc differs from its chord by less than rounding
    points = torch.where(sine > least, arc, torch.lerp(a, b, t))
    return torch.where(t == 0, a, torch.where(t == 1, b, points))  # `points` has rounding errors at the ends


def loop(latents: Tensor, frames: int) -> Tensor:
    """Return `frames` latents on a closed path through `latents` (k, latent_dim), evenly spaced in time.

    A frame at the time of one of `latents` equals it bitwise.
    """
    ticks = torch.arange(frames, device=latents.device) * len(latents)  # `frames` ticks from one latent to the next
    here = ticks // frames
    shares = (ticks % frames / frames).to(latents.dtype)  # from whole numbers, so that 0 is exact
    return slerp(latents[here], latents[(here + 1) % len(latents)], shares[:, None])
