"""Diffusions of images into noise, and denoising score matching (Song et al., ICLR 2021, arXiv 2011.13456).

All are dx = f(t) x dt + g(t) dw for t from 0 to 1, so x(t) is normal given x(0): alpha(t) x(0) + sigma(t) eps with eps ~ N(0, I).
A denoiser predicts eps; the score is -eps / sigma(t). Times are tensors of any shape.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EARLIEST = 1e-5  # the least time of training and likelihoods (appendix C): at 0 the score has a pole


class Diffusion(Protocol):
    """The coefficients of a diffusion at times t in (0, 1]."""

    def f(self, t: Tensor) -> Tensor:
        """Return the drift's factor on x."""

    def g2(self, t: Tensor) -> Tensor:
        """Return the squared diffusion coefficient."""

    def alpha(self, t: Tensor) -> Tensor:
        """Return the factor on x(0) in x(t)."""

    def sigma(self, t: Tensor) -> Tensor:
        """Return the standard deviation of x(t) given x(0)."""


@dataclass(frozen=True)
class VarianceExploding:
    """The limit of NCSN: noise is added, and the image stays (equation 9; schedule of appendix C)."""

    least: float = 0.02  # for images in [-1, 1]: twice the paper's, which has them in [0, 1]
    most: float = 100.0

    def f(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def g2(self, t: Tensor) -> Tensor:
        return self.sigma(t).square() * (2 * math.log(self.most / self.least))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.least * (self.most / self.least) ** t


@dataclass(frozen=True)
class VariancePreserving:
    """The limit of DDPM: the image fades as noise comes in (equation 11; schedule of appendix C)."""

    least: float = 0.1
    most: float = 20.0

    def beta(self, t: Tensor) -> Tensor:
        """Return the rate at which the image fades."""
        return self.least + t * (self.most - self.least)

    def integral(self, t: Tensor) -> Tensor:
        """Return the integral of `beta` from 0 to t."""
        return t * self.least + t.square() / 2 * (self.most - self.least)

    def f(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2

    def g2(self, t: Tensor) -> Tensor:
        return self.beta(t)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.integral(t))).sqrt()


class SubVariancePreserving(VariancePreserving):
    """Less noise than the variance-preserving diffusion at every time, with better likelihoods (equation 12)."""

    def g2(self, t: Tensor) -> Tensor:
        return self.beta(t) * -torch.expm1(-2 * self.integral(t))

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.integral(t))


KINDS = ("vp", "ve", "subvp")


def diffusion_of(kind: str, sigma_max: float) -> Diffusion:
    """Return the diffusion of one of KINDS; `sigma_max` is ve's most noise, for pixels in [0, 1]."""
    if kind == "ve":
        return VarianceExploding(most=2 * sigma_max)
    return VariancePreserving() if kind == "vp" else SubVariancePreserving()


def noised(diffusion: Diffusion, images: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Return x(t) of `images` (B, 3, H, W) at times t (B,) with the noise `eps` (B, 3, H, W)."""
    return wide(diffusion.alpha(t)) * images + wide(diffusion.sigma(t)) * eps


def score_matching(diffusion: Diffusion, predicted: Tensor, eps: Tensor, t: Tensor, likelihood: bool) -> Tensor:
    """Return the denoising losses (B,) of a denoiser's `predicted` noise: equation 7, per number of an image.

    The weight lambda(t) is sigma(t)^2, or with `likelihood` g(t)^2, which makes the mean over t a bound on the likelihood
    (Song et al. 2021, arXiv 2101.09258, theorem 1).
    """
    errors = (predicted - eps).square().flatten(1).mean(dim=1)
    return errors * diffusion.g2(t) / diffusion.sigma(t).square() if likelihood else errors


def wide(t: Tensor) -> Tensor:
    """Return numbers (B,) as (B, 1, 1, 1)."""
    return t[:, None, None, None]
