"""Stop before an update that is not finite, without making a GPU wait for the host at every step."""

from typing import Any

import torch
from torch import Tensor


class Diverged(Exception):
    """A loss, gradient or weight was not finite; nothing has been updated or saved since."""

    def __init__(self, what: str, step: int):
        super().__init__(f"{what} is not finite at step {step}")


class Guard:
    """Keep a fused optimiser from updating, from the first step on whose loss or gradient is not finite."""

    def __init__(self, optimizer: Any, device: torch.device):
        """Watch over a fused torch.optim.Optimizer, or one that heeds `found_inf` as they do."""
        self.found = torch.zeros((), dtype=torch.float32, device=device)  # 1 from that step on; AdamW asks for float32
        self.step = torch.zeros((), dtype=torch.int64, device=device)  # the last one that began with 0 in `found`
        self.at_once = device.type == "cpu"  # on a CPU reading the flag needs no synchronisation
        optimizer.found_inf = self.found  # what GradScaler sets: while it is 1, step() changes neither weights nor state

    def watch(self, total: Tensor, step: int) -> None:
        """Take in a number () that is finite only if the step's loss and gradient are. Raises Diverged on a CPU."""
        self.step.masked_fill_(self.found == 0, step)
        torch.maximum(self.found, (~total.isfinite()).float(), out=self.found)
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raise Diverged if a step was not finite; the host waits for the device."""
        if bool(self.found):
            raise Diverged("the loss or its gradient", int(self.step))
