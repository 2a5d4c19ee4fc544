"""Out of memory as a UserError of one line, which names the setting to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from errors import UserError

CPU_WORDS = ("can't allocate memory", "not enough memory")  # in the RuntimeErrors of torch's CPU allocator


@contextmanager
def memory_for(job: str, remedy: str) -> Iterator[None]:
    """Turn an out-of-memory error, on a GPU or a CPU, into a UserError that names the `job` and the `remedy`."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in CPU_WORDS):
            raise UserError(f"out of memory for {job}: {remedy}; what was saved is intact") from None
        raise
