"""A checkpoint's state as one safetensors file: the tensors by name, everything else as JSON in the file's header."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errors import UserError

SUFFIX = ".safetensors"
ENTRY = "state"  # of the header's metadata; one entry alone, because the library writes several in any order
TENSOR = "$tensor"  # {TENSOR: name} stands in the JSON for the tensor of that name


def packed(state: dict) -> bytes:
    """Return the content of a file for nested dicts and lists of tensors, numbers and texts.

    A tensor's name is its place in `state`, with dots. Raises UserError without the package safetensors.
    """
    tensors: dict[str, Tensor] = {}

    def plain(part: Any, *place: str) -> Any:
        if isinstance(part, Tensor):
            name = ".".join(place)
            assert name not in tensors, name
            tensors[name] = part.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            return {TENSOR: name}
        if isinstance(part, dict):
            return {key: plain(value, *place, key) for key, value in part.items()}
        return [plain(value, *place, str(i)) for i, value in enumerate(part)] if isinstance(part, (list, tuple)) else part

    text = json.dumps(plain(state))
    return library().torch.save(tensors, {ENTRY: text})


def unpacked(path: Path) -> Any:
    """Return the state in a file that `packed` made, on the CPU; None for another safetensors file.

    Raises UserError without the package safetensors, OSError if the file cannot be read, and any error if it is damaged.
    """
    open(path, "rb").close()  # the library's own error does not say why it cannot read a file
    with library().safe_open(path, framework="pt") as file:

        def tensor_or_dict(part: dict) -> Any:
            return file.get_tensor(part[TENSOR]).clone() if part.keys() == {TENSOR} else part  # the original lies in the mapped file

        return json.loads((file.metadata() or {}).get(ENTRY, "null"), object_hook=tensor_or_dict)


def library() -> Any:
    """Return the package safetensors. Raises UserError if it is not installed."""
    try:
        import safetensors.torch
    except ImportError:
        raise UserError(f"{SUFFIX} files need safetensors, which is not installed: pip install -r sampling/requirements.txt") from None
    return safetensors
