"""The exponential moving average of the generator: what is sampled, scored and exported."""

import copy

import torch
from torch import nn


class Ema:
    """Average a module's parameters over about 1 / (1 - decay) steps, and copy its buffers."""

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards `module`; over the first steps by more, so that the start is soon forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)
        for ours, theirs in zip(self.module.buffers(), module.buffers()):
            ours.copy_(theirs)
