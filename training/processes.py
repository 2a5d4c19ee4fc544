"""Several processes at work on one run, under torchrun: who this one is, and what they tell each other.

A process by itself is the main one of one, and nothing here does or costs anything. All else is built on `rank`,
`count` and `all_gather`. Tensors on a GPU travel by nccl, those on a CPU by gloo, so that what the host has to know at
once never waits for a GPU.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from errors import UserError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # what it tells its workers in their environment
PATIENCE = timedelta(minutes=30)  # with one that neither ends nor answers; the main one may be drawing and scoring


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Tell whether this is the process that prints and writes."""
    return rank() == 0


def all_gather(values: Tensor) -> Tensor:
    """Return the `values` of all processes, of one shape in all, as (count, *shape)."""
    if count() == 1:
        return values[None]
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(count())]
    dist.all_gather(parts, values)
    return torch.stack(parts)


def all_sum(values: Tensor) -> Tensor:
    """Return the sum of all processes' `values`, to the last bit the same in all."""
    return all_gather(values).sum(dim=0)


def all_cat(rows: Tensor) -> Tensor:
    """Return the rows (any, ...) of all processes, one process after the other."""
    lengths = all_gather(torch.tensor(len(rows))).tolist()
    filled = torch.cat([rows, rows.new_zeros(max(lengths) - len(rows), *rows.shape[1:])])
    return torch.cat([part[:length] for part, length in zip(all_gather(filled), lengths)])


def any_of(flag: bool) -> bool:
    """Tell whether `flag` is true in any process; all of them learn the same."""
    return bool(all_gather(torch.tensor(flag)).any())


def share(start: int, stop: int, size: int) -> tuple[int, int]:
    """Return this process's part of range(start, stop): whole chunks of `size` counted from `start`, about as many in all."""
    chunks = -(-(stop - start) // size)
    first, last = (min(start + size * (chunks * r // count()), stop) for r in (rank(), rank() + 1))
    return first, last


def parallel(network: nn.Module) -> nn.Module:
    """Return `network`, which has no buffers, so that its gradients are averaged over the processes."""
    return DistributedDataParallel(network, gradient_as_bucket_view=True) if count() > 1 else network


def no_sync(network: nn.Module, more: bool) -> AbstractContextManager:
    """Add up the gradients of a `parallel` network in this process alone, as long as `more` of the batch follows."""
    return network.no_sync() if more and isinstance(network, DistributedDataParallel) else nullcontext()


def check_agreement(facts: dict[str, str]) -> None:
    """Raise UserError in all processes unless all were given the same `facts`, a text each."""
    own = [bytearray(hashlib.sha256(text.encode(errors="backslashreplace")).digest()) for text in facts.values()]
    digests = all_gather(torch.stack([torch.frombuffer(digest, dtype=torch.uint8) for digest in own]))  # (count, facts, 32)
    differs = digests.ne(digests[0]).any(dim=2)  # (count, facts)
    if differs.any():
        names = [name for name, found in zip(facts, differs.any(dim=0)) if found]
        others = ", ".join(str(number) for number in differs.any(dim=1).nonzero()[:, 0].tolist())
        raise UserError(
            f"process {others} of {count()} differs from process 0 in {' and '.join(names)}: all must be given the same "
            "command, and find the same images and the same --run folder at the same place"
        )


def own_device(name: str | None) -> str | None:
    """Return the name of the device that this process takes where `name` was asked for: a GPU of its own, under torchrun.

    Raises UserError if there are fewer GPUs here than processes.
    """
    on_gpus = name.startswith("cuda") if name else torch.cuda.is_available()
    if not _several() or not on_gpus:
        return name
    if name not in (None, "cuda"):
        raise UserError(f"--device {name}: several processes take a GPU each; say --device cuda, or nothing")
    local, num = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= num:
        raise UserError(
            f"--device {name or 'cuda'}: more processes than GPUs here ({num}); start at most one for each, or say --device cpu"
        )
    return f"cuda:{local}"


@contextmanager
def process_group(device: torch.device, kept: Callable[[], str]) -> Iterator[None]:
    """Belong to torchrun's processes; raise UserError, with what `kept` then says, where another one ends before this."""
    if not _several():
        yield
        return
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's errors name its source files
            raise
        raise UserError(f"another process of this job ended or is out of reach; {kept()}") from None
    dist.destroy_process_group()


def _several() -> bool:
    return all(name in os.environ for name in TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1
