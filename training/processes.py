"""Several processes that train one run under torchrun: rank, count and collectives.

Without torchrun the process is rank 0 of 1, and nothing here costs time. The other functions are built on `rank`, `count`
and `all_gather`. GPU tensors use nccl and CPU tensors gloo, so that a decision of the host never waits for a GPU.
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

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK")  # environment variables that torchrun sets
PATIENCE = timedelta(minutes=30)  # time to wait for a process that neither ends nor answers; the main one may be scoring samples


def rank() -> int:
    """Return the rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is the main process, which prints and writes."""
    return rank() == 0


def all_gather(values: Tensor) -> Tensor:
    """Return the `values` of all processes, (count, *shape); the shape must be the same in all."""
    if count() == 1:
        return values[None]
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(count())]
    dist.all_gather(parts, values)
    return torch.stack(parts)


def all_sum(values: Tensor) -> Tensor:
    """Return the sum of all processes' `values`, bitwise equal in all of them."""
    return all_gather(values).sum(dim=0)


def all_cat(rows: Tensor) -> Tensor:
    """Return the rows (any, ...) of all processes, concatenated by rank."""
    lengths = all_gather(torch.tensor(len(rows))).tolist()
    filled = torch.cat([rows, rows.new_zeros(max(lengths) - len(rows), *rows.shape[1:])])
    return torch.cat([part[:length] for part, length in zip(all_gather(filled), lengths)])


def any_of(flag: bool) -> bool:
    """Return whether `flag` is True in any process; the answer is the same in all."""
    return bool(all_gather(torch.tensor(flag)).any())


def share(start: int, stop: int, size: int) -> tuple[int, int]:
    """Return (first, last), this process's part of range(start, stop).

    The range is cut into chunks of `size` from `start`; every process gets whole chunks, about equally many.
    """
    chunks = -(-(stop - start) // size)
    first, last = (min(start + size * (chunks * r // count()), stop) for r in (rank(), rank() + 1))
    return first, last


def parallel(network: nn.Module) -> nn.Module:
    """Return `network` wrapped so that its gradients are averaged over the processes; it must have no buffers."""
    return DistributedDataParallel(network, gradient_as_bucket_view=True) if count() > 1 else network


def no_sync(network: nn.Module, more: bool) -> AbstractContextManager:
    """Accumulate the gradients of a `parallel` network without averaging them, as long as `more` micro-batches follow."""
    return network.no_sync() if more and isinstance(network, DistributedDataParallel) else nullcontext()


def check_agreement(facts: dict[str, str]) -> None:
    """Raise UserError in all processes unless `facts` (name -> text) are the same in all."""
    own = [bytearray(hashlib.sha256(text.encode(errors="backslashreplace")).digest()) for text in facts.values()]
    digests = all_gather(torch.stack([torch.frombuffer(digest, dtype=torch.uint8) for digest in own]))  # (count, facts, 32)
    differs = digests.ne(digests[0]).any(dim=2)  # (count, facts)
    if differs.any():
        names = [name for name, found in zip(facts, differs.any(dim=0)) if found]
        others = ", ".join(str(number) for number in differs.any(dim=1).nonzero()[:, 0].tolist())
        raise UserError(
            f"process {others} of {count()} differs from process 0 in {' and '.join(names)}: all must be given the same "
            "command, and find the same images and the same --run folder at the same path"
        )


def own_device(name: str | None) -> str | None:
    """Return the device name for this process; under torchrun each process gets its own GPU, otherwise it is `name`.

    Raises UserError if `name` is a single GPU for several processes, or if there are fewer GPUs here than processes.
    """
    on_gpus = name.startswith("cuda") if name else torch.cuda.is_available()
    if not _several() or not on_gpus:
        return name
    if name not in (None, "cuda"):
        raise UserError(f"--device {name}: several processes take a GPU each; give --device cuda, or no --device")
    local, num = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if local >= num:
        raise UserError(
            f"--device {name or 'cuda'}: more processes than GPUs here ({num}); start at most one for each, or give --device cpu"
        )
    return f"cuda:{local}"


@contextmanager
def process_group(device: torch.device, kept: Callable[[], str]) -> Iterator[None]:
    """Join torchrun's process group. Raises UserError, which ends with the text of `kept`, if another process ends first."""
    if not _several():
        yield
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's errors name its source files
            raise
        raise UserError(f"another process of this job ended or cannot be reached; {kept()}") from None
    dist.destroy_process_group()


def _several() -> bool:
    return all(name in os.environ for name in TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1
