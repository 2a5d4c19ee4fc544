"""Stop before an update that is not finite, without a host synchronisation at every step."""

from typing import Any

import torch
from torch import Tensor


class Diverged(Exception):
    """A loss, gradient or weight is not finite; nothing has been updated or saved since."""

    def __init__(self, what: str, step: int):
        super().__init__(f"{what} is not finite at step {step}")


class Guard:
    """Stop a fused optimiser's updates from the first step whose loss or gradient is not finite."""

    def __init__(self, optimizer: Any, device: torch.device):
        """Guard a fused torch.optim.Optimizer, or an optimiser that reads `found_inf` in the same way."""
        self.found = torch.zeros((), dtype=torch.float32, device=device)  # 1 from that step on; AdamW requires float32
        self.step = torch.zeros((), dtype=torch.int64, device=device)  # the last step that began with found = 0
        self.at_once = device.type == "cpu"  # on a CPU reading the flag needs no synchronisation
        optimizer.found_inf = self.found  # GradScaler sets this too: while it is 1, step() changes neither weights nor state

    def watch(self, total: Tensor, step: int) -> None:
        """Check step `step` by `total` (), which is finite only if the step's loss and gradient are. Raises Diverged on a CPU."""
        self.step.masked_fill_(self.found == 0, step)
        torch.maximum(self.found, (~total.isfinite()).float(), out=self.found)
        if self.at_once:
            self.check()

    def check(self) -> None:
        """Raise Diverged if a step so far was not finite; the host waits for the device."""
        if bool(self.found):
            raise Diverged("the loss or its gradient", int(self.step))
