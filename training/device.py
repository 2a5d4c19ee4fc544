"""The device to compute on."""

import torch
from torch import Tensor

from errors import UserError
from training import processes


def choose_device(name: str | None) -> torch.device:
    """Return the device `name` (cpu, cuda, cuda:1 ...); None is cuda if there is a GPU, else cpu. Each process gets its own GPU.

    Raises UserError if this machine does not have the device.
    """
    name = processes.own_device(name)
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()  # fails for "meta", whose tensors hold no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"--device {name}: not available here ({str(error).splitlines()[0]}); use cpu, cuda or cuda:N") from None
    return device


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`; the copy to a GPU uses pinned memory and does not block the host."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
