"""The exponential moving average (EMA) of the generator. Samples, scores and exports use the EMA."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Average a module's parameters over about 1 / (1 - decay) steps, and copy its buffers."""

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards `module`; the first steps count more, so that the initial weights are soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if weights := list[Tensor](self.module.parameters()):  # torch._foreach_lerp_ takes no empty list
            torch._foreach_lerp_(weights, list(module.parameters()), 1 - decay)
        for ours, theirs in zip(self.module.buffers(), module.buffers()):
            ours.copy_(theirs)
