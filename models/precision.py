"""Full precision where it matters: TF32 changes one match in six, and gives an image set a distance to itself.

PyTorch has two sets of switches for this and refuses their mixture; the project uses `fp32_precision` alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def true_fp32(device: torch.device) -> Iterator[None]:
    """Compute float32 in float32: no TF32, no bfloat16, no autocast; what was set before is restored."""
    leaves = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    before = [leaf.fp32_precision for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for leaf, precision in zip(leaves, before):
            leaf.fp32_precision = "none"  # reads as what it inherits; pinning that would cut it off
            if leaf.fp32_precision != precision:  # from later changes of torch.backends.fp32_precision
                leaf.fp32_precision = precision
