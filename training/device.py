"""Where to compute."""

import torch
from torch import Tensor

from errors import UserError
from training import processes


def choose_device(name: str | None) -> torch.device:
    """Return the device `name` (cpu, cuda, cuda:1 ...), or the best there is for None; of several processes each its own.

    Raises UserError when this machine does not have it.
    """
    name = processes.own_device(name)
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()  # "meta" can be asked for, but holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not to be had here ({str(error).splitlines()[0]}); use cpu, cuda or cuda:N") from None
    return device


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`; a GPU copies them from pinned memory while the host goes on."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
