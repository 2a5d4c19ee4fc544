"""Running out of memory, told in a line with the setting that mends it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from errors import UserError

CPU_WORDS = ("can't allocate memory", "not enough memory")  # of the RuntimeError that torch's CPU allocator raises


@contextmanager
def memory_for(job: str, remedy: str) -> Iterator[None]:
    """Turn running out of memory, on a GPU or a CPU, into a UserError that says in which job, and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(words in str(error) for words in CPU_WORDS):
            raise UserError(f"out of memory for {job}: {remedy}; what was saved is intact") from None
        raise
