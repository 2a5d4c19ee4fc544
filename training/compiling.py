"""torch.compile for the networks of a step, and what is told where this machine cannot."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from errors import UserError


@contextmanager
def telling_of_compilation() -> Iterator[None]:
    """Turn a failure to compile, which comes with the first step, into a UserError."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise
        reason = " ".join(str(error).split("\n\n")[0].split())[:200]  # without the advice to torch's developers
        raise UserError(f"train.compile: the networks cannot be compiled here ({reason}); set train.compile=false") from None
