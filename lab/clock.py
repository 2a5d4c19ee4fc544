"""The seconds that an experiment counts."""

import time

import torch


def now(device: torch.device) -> float:
    """Return the seconds so far: of this process on a CPU, of the clock on a GPU, which first finishes its work."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.monotonic()


def told(device: torch.device, workers: int) -> str:
    """Return what `now` counts, where so many runs are trained at a time."""
    if device.type == "cpu":
        return "one core of a CPU"
    return f"one {torch.cuda.get_device_name(device)}" + (f", which {workers} runs shared" if workers > 1 else "")
