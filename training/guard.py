"""Stop before an update that is not finite, without a host synchronisation at every step. Scale the loss of fp16 maps.

Gradients of fp16 maps are multiplied by the loss scale, so that small ones do not vanish. If a large one overflows, the step
changes nothing and the scale is halved (Micikevicius et al. 2018). At a scale of 1 the run stops, as without a scale.
"""

from typing import Any

import torch
from torch import Tensor

GROWTH = 1000  # steps after which a halved scale is doubled


class Diverged(Exception):
    """A loss, gradient or weight is not finite; nothing has been updated or saved since."""

    def __init__(self, what: str, step: int):
        super().__init__(f"{what} is not finite at step {step}")


class Guard:
    """Stop a fused optimiser's updates from the first step whose loss or gradient is not finite."""

    def __init__(self, optimizer: Any, device: torch.device, loss_scale: float = 1.0):
        """Guard a fused torch.optim.Optimizer, or an optimiser that reads `found_inf` in the same way."""
        self.most = loss_scale
        self.scale = torch.full((), loss_scale, device=device)  # multiply the loss by it, and divide the gradients
        self.stopped = torch.zeros((), dtype=torch.bool, device=device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)  # the last step before which the run had not stopped
        self.at_once = device.type == "cpu"  # on a CPU reading the flag needs no synchronisation
        self.found = torch.zeros((), dtype=torch.float32, device=device)  # 1: change nothing; AdamW requires float32
        optimizer.found_inf = self.found  # GradScaler sets this too: while it is 1, step() changes neither weights nor state

    def watch(self, total: Tensor, step: int) -> None:
        """Check step `step` by `total` (), which is finite only if the step's loss and gradient are. Raises Diverged on a CPU."""
        bad = ~total.isfinite()
        self.step.masked_fill_(~self.stopped, step)
        self.stopped |= bad & (self.scale <= 1)
        self.found.copy_(self.stopped | bad)
        if self.most > 1:
            grown = self.scale * 2 if step % GROWTH == 0 else self.scale
            self.scale.copy_(torch.where(bad, self.scale / 2, grown).clamp(1, self.most))
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raise Diverged if a step so far was not finite; the host waits for the device."""
        if bool(self.stopped):
            raise Diverged("the loss or its gradient", int(self.step))
