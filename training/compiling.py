"""torch.compile for the networks of a step: static shapes, and its failure as a UserError."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from errors import UserError


def compiled(network: Callable) -> Callable:
    """Return `network` compiled for the shapes of its arguments, again for every other shape; by itself torch would then slow down."""
    return torch.compile(network, dynamic=False)


@contextmanager
def telling_of_compilation() -> Iterator[None]:
    """Turn a failed compilation into a UserError; torch compiles in the first step."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch._dynamo.exc.TorchDynamoException):
            raise
        reason = " ".join(str(error).split("\n\n")[0].split())[:200]  # without the advice to torch's developers
        raise UserError(f"train.compile: the networks cannot be compiled here ({reason}); set train.compile=false") from None
