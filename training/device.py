"""The device to compute on."""

import torch
from torch import Tensor

from errors import UserError
from training import processes


def choose_device(name: str | None) -> torch.device:
    """Return the device `name` (cpu, cuda, cuda:1 ...); None is cuda if there is a GPU, else cpu. Each process gets its own GPU.

    A GPU becomes torch's current one. Raises UserError if this machine does not have the device, or for other kinds of device.
    """
    name = processes.own_device(name)
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda":
            torch.cuda.init()
            torch.cuda.set_device(device.index or 0)  # else torch would open a context, hundreds of MB, on GPU 0 too
            torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not available here ({str(error).splitlines()[0]}); use cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: only cpu and cuda are supported, because the search needs float64; use cpu, cuda or cuda:N")
    return device


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return `values` on `device`; the copy to a GPU uses pinned memory and does not block the host."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
