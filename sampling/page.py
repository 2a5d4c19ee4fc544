"""A page that runs a generator in the browser: one HTML file that needs no network and no server."""

import base64
import html
import json
import re
from pathlib import Path

import torch
from torch import Tensor

from atomic import write_text
from errors import UserError
from models.generator import Generator
from sampling.styles import mean_style, style_based
from training.drawing import Sampler

NUM_SEEDS = 256  # whose latents are on the page: a browser cannot repeat torch's random numbers
HERE = Path(__file__).parent


def write_page(sampler: Sampler, path: Path) -> None:
    """Write the page to `path`, whole or not at all. Raises UserError if the method has no such generator, or `path` cannot be written."""
    generator = style_based(sampler, "--page")
    tensors = weights(generator) | {"latents": sampler.latents(list(range(NUM_SEEDS))), "mean": mean_style(generator)}
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise UserError(f"{sampler.checkpoint_path}: has weights that are not finite; use another checkpoint")
    model, data = packed(generator, tensors)
    name, (height, width) = sampler.name, sampler.resolution
    facts = {
        "name": name,
        "images": len(sampler.data.names),
        "channels": sampler.channels,
        "height": height,
        "width": width,
        "step": sampler.step,
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "model": model,
    }
    parts = {
        "name": html.escape(name),
        "facts": json.dumps(facts).replace("<", "\\u003c"),  # else a name could end the script that holds it
        "weights": base64.b64encode(data).decode(),
        "engine": (HERE / "generator.js").read_text(encoding="utf-8"),
    }
    template = (HERE / "explore.html").read_text(encoding="utf-8")
    page = re.sub(r"\{\{(\w+)\}\}", lambda slot: parts[slot[1]], template)
    try:
        write_text(path, page)
    except OSError as error:
        raise UserError(f"--page {path}: cannot be written ({error.strerror or error}); choose another place") from None


def weights(generator: Generator) -> dict[str, Tensor]:
    """Return the generator's tensors by name as generator.js takes them: maps (height, width, channels), matrices (outputs, inputs)."""
    tensors = {}
    for name, tensor in generator.state_dict().items():
        if tensor.ndim == 4:  # a convolution (outputs, inputs, 3, 3) has its inputs last, the constant (1, C, H, W) its channels
            tensor = tensor.permute(0, 2, 3, 1)
        tensors[name] = tensor[0] if name == "constant" else tensor
    noise = {f"blocks.{i}.noise": block.noise for i, block in enumerate(generator.blocks) if block.noise is not None}
    return tensors | noise


def packed(generator: Generator, tensors: dict[str, Tensor]) -> tuple[dict, bytes]:
    """Return what generator.js reads: a description of the generator, and the tensors as 16-bit whole numbers.

    Each tensor has its own scale. Rounding changes a weight by at most 1/65534 of its tensor's largest.
    """
    entries: dict[str, dict] = {}
    data = bytearray()
    for name, tensor in tensors.items():
        tensor = tensor.cpu().double()
        scale = float(tensor.abs().max()) / 32767 or 1.0  # 1 for zeros
        entries[name] = {"shape": list(tensor.shape), "offset": len(data), "scale": scale}
        data += (tensor / scale).round().to(torch.int16).contiguous().numpy().astype("<i2").tobytes()
    return {"tensors": entries, "upsample": [block.upsample for block in generator.blocks]}, bytes(data)
