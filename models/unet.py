"""The U-Net of the diffusion models: diffusers' UNet2DModel, which equals Song et al.'s NCSN++. The only file that imports diffusers."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from errors import UserError

HEAD = 32  # channels of an attention head
GROUPS = 8  # of GroupNorm
BLOCKS = 2  # residual blocks of a level
ATTENTION = 8  # pixels a side: the largest map with attention


def architecture(side: int, channels: list[int], *, exploding: bool) -> dict[str, Any]:
    """Return the settings of a U-Net for square images; `channels` are its widths from the full resolution down.

    With `exploding` it takes standard deviations of noise and returns scores, as NCSN++; else times from 0 to 999, and noise, as DDPM.
    """
    attends = [side >> level <= ATTENTION for level in range(len(channels))]
    settings: dict[str, Any] = {
        "sample_size": side,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": list(channels),
        "layers_per_block": BLOCKS,
        "down_block_types": ["AttnDownBlock2D" if attended else "DownBlock2D" for attended in attends],
        "up_block_types": ["AttnUpBlock2D" if attended else "UpBlock2D" for attended in reversed(attends)],
        "attention_head_dim": HEAD,
        "norm_num_groups": GROUPS,
    }
    return settings | ({"time_embedding_type": "fourier", "center_input_sample": True} if exploding else {})


def make_unet(settings: dict[str, Any]) -> nn.Module:
    """Return a U-Net with random weights. Raises UserError without diffusers."""
    return _class()(**settings)


def read_published(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the settings and weights of a model that diffusers saved. Raises UserError for a folder of something else."""
    unet = _class()
    try:
        settings = unet.load_config(folder)
        kept = {name: value for name, value in settings.items() if not name.startswith("_")}
        return kept, unet.from_pretrained(folder, local_files_only=True).state_dict()
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: not a UNet2DModel that diffusers can read ({reason})") from None


def _class() -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError:
        raise UserError(
            "this method needs diffusers, which is not installed: pip install -r baselines/requirements.txt (./train.sh does it by itself)"
        ) from None
    return UNet2DModel
