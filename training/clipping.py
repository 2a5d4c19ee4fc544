"""Clip each weight's gradient if its norm is far above its usual norm (AdaGC: Wang et al. 2025, arXiv 2502.11034).

When the image of a single latent diverges, the mapping network's gradient becomes ten times as long as before. The
optimiser's momentum keeps its direction for ten steps: the images of all latents break, and recover only after hundreds
of steps.
"""

import torch
from torch import Tensor, nn

from training.optimizer import gradient_of

MEMORY = 0.95  # decay of the running mean of the norms


class Clipping:
    """Clip each gradient at `factor` times the running mean of its own clipped norms."""

    def __init__(self, parameters: list[nn.Parameter], factor: float):
        self.parameters, self.factor = parameters, factor
        self.usual = torch.zeros(len(parameters), device=parameters[0].device)  # (P,) running means; 0 before the first gradient

    @torch.no_grad()
    def clip(self, norms: Tensor) -> None:
        """Scale the gradients in place, without host synchronisation; `norms` (P,) are their norms.

        A gradient that is not finite is left alone: the guard skips such a step.
        """
        norms = norms.where(norms.isfinite(), self.usual)
        self.usual = torch.where(self.usual == 0, norms, self.usual)
        kept = torch.minimum(norms, self.factor * self.usual)
        scales = torch.where(norms > kept, kept / norms, 1.0)
        torch._foreach_mul_([gradient_of(parameter) for parameter in self.parameters], list(scales.unbind()))  # type: ignore[arg-type]
        self.usual = self.usual.lerp(kept, 1 - MEMORY)
