"""Exports: the small file for sample.py, an ONNX file for other programs, and a folder for a model hub; the suffix chooses."""

import copy
import json
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from atomic import write_text, written
from errors import UserError
from models.pixels import CHANNELS
from models.precision import CUDNN, products
from sampling.card import SHEET, card, last_part
from training import checkpoint, portable
from training.drawing import Sampler
from training.sheets import grid, save_png

CHANNELS_TOLD = {
    "rgb": "channels are red, green, blue",
    "rgba": "channels are red, green, blue, each multiplied by the opacity, then the opacity; in all of them -1 is 0",
    "grey": "the channel is the brightness",
}
OPSET = 18  # of ONNX: the exporter writes it without conversion, and onnxruntime-web knows it


def write_export(sampler: Sampler, path: Path) -> None:
    """Write an export of the kind that the suffix of `path` names, and print what it is.

    Raises UserError if it cannot be written, if a package is missing, or if the method has nothing of this kind.
    """
    writers: dict[str, Callable[[Sampler, Path], str]] = {".onnx": write_onnx, portable.SUFFIX: write_folder}
    told = writers.get(path.suffix.lower(), write_checkpoint)(sampler, path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {told}")


def write_checkpoint(sampler: Sampler, path: Path) -> str:
    """Write the file that sample.py reads like a run."""
    sampler.export(path)
    return f"sampled like a run: python sample.py {path} --out DIR"


def write_onnx(sampler: Sampler, path: Path) -> str:
    """Write the generator as an ONNX file: latents (batch, latent_dim) to images (batch, C, H, W), float32, not clipped."""
    sampler.spare(path)
    height, width = sampler.resolution
    generator, latent_dim = copy.deepcopy(sampler.generator).cpu(), sampler.drawing.latent_dim
    assert latent_dim is not None
    facts = {
        "name": sampler.name,
        "resolution": f"{height}x{width}",
        "latent_dim": str(latent_dim),
        "sampling": "latents are standard normal",
        "channels": CHANNELS_TOLD[sampler.channels],
    }
    content = _onnx(generator, latent_dim, facts)
    try:
        with written(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from None
    images = f"images (batch, {CHANNELS[sampler.channels]}, {height}, {width}) in about [-1, 1]"
    return f"for onnxruntime: latents (batch, {latent_dim}), standard normal -> {images}; {CHANNELS_TOLD[sampler.channels]}"


def _onnx(generator: torch.nn.Module, latent_dim: int, facts: dict[str, str]) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError:
        raise UserError(".onnx files need onnx and onnxscript, which are not installed: pip install -r sampling/requirements.txt") from None
    print("converting the generator to ONNX", file=sys.stderr)
    # The exporter warns about its own parts. It reads an old switch of cuDNN, which fails unless the new ones are as torch sets them.
    with warnings.catch_warnings(action="ignore"), products("tf32", CUDNN):
        program: Any = torch.onnx.export(
            generator,
            (torch.zeros(2, latent_dim),),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["latents"],
            output_names=["images"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output):
        part.ClearField("metadata_props")  # the exporter notes paths of this machine here
    for field in ("metadata_props", "value_info"):
        model.graph.ClearField(field)
    onnx.helper.set_model_props(model, facts)
    return model.SerializeToString()


def write_folder(sampler: Sampler, path: Path) -> str:
    """Write a safetensors file that sample.py reads like a run, and beside it config.json, README.md (a model card) and samples.png.

    The file alone has all that sampling needs. Of absolute paths the files have the last part only. Raises UserError if one of them
    exists.
    """
    portable.library()  # before the drawing, which can take long
    sheet, settings, readme = (path.with_name(name) for name in (SHEET, "config.json", "README.md"))
    files = (path, sheet, settings, readme)
    for file in files:
        if file.exists():
            raise UserError(f"{file}: is there already, and this export replaces nothing; give it a new folder: --export NEW/{path.name}")
    content = _without_paths(sampler.content)
    text = json.dumps(content["config"], indent=2) + "\n"
    images = grid(_drawn(sampler, 64), 8)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(content, path)
        save_png(images, sheet)
        write_text(settings, text)
        write_text(readme, card(sampler, path.name))
    except BaseException as error:
        for file in files:
            with suppress(OSError):
                file.unlink()
        if isinstance(error, OSError):
            raise UserError(f"{path.parent}: cannot be written in ({error.strerror}); make room or choose another place") from None
        raise
    return f"sampled like a run; with {SHEET}, config.json and README.md, a model card: fill in its licence"


def _without_paths(part: Any) -> Any:
    """Return nested dicts and lists in which every text that is an absolute path is the last part of it."""
    if isinstance(part, dict):
        return {key: _without_paths(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_without_paths(value) for value in part]
    return last_part(part) if isinstance(part, str) and (part.startswith("/") or PureWindowsPath(part).is_absolute()) else part


def _drawn(sampler: Sampler, count: int) -> torch.Tensor:
    """Return uint8 images (count, C, H, W) of the first seeds."""
    images: list[torch.Tensor] = []
    for batch in sampler.batches(range(count), 8):
        images += batch
        print(f"\r{len(images)}/{count} images for {SHEET}", end="" if len(images) < count else "\n", file=sys.stderr)
    return torch.stack(images)
