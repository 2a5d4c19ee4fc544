"""Clip gradients that are far longer than usual, each weight's by itself (AdaGC: Wang et al. 2025, arXiv 2502.11034).

While one latent's image flies off, the mapping network's gradient is ten times as long as before, and the optimiser's
momentum goes on in its direction for ten steps: the images of all latents break, and take hundreds of steps to mend.
"""

import torch
from torch import Tensor, nn

from training.optimizer import gradient_of

MEMORY = 0.95  # of the usual norms


class Clipping:
    """Keep each gradient within `factor` times the running mean of its own norms, as they were after clipping."""

    def __init__(self, parameters: list[nn.Parameter], factor: float):
        self.parameters, self.factor = parameters, factor
        self.usual = torch.zeros(len(parameters), device=parameters[0].device)  # 0 before the first gradient

    @torch.no_grad()
    def clip(self, norms: Tensor) -> None:
        """Scale the gradients, which have `norms` (P,), in place, without waiting for a GPU."""
        self.usual = torch.where(self.usual == 0, norms, self.usual)
        kept = torch.minimum(norms, self.factor * self.usual)
        scales = torch.where(norms > kept, kept / norms, 1.0)
        torch._foreach_mul_([gradient_of(parameter) for parameter in self.parameters], list(scales.unbind()))  # type: ignore[arg-type]
        self.usual = self.usual.lerp(kept, 1 - MEMORY)
