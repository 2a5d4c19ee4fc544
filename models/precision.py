"""True float32: with TF32 one match in six changes, and a set of images has a distance above 0 to itself.

PyTorch has two kinds of switches for this and refuses to mix them; the project uses only `fp32_precision`.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def true_fp32(device: torch.device) -> Iterator[None]:
    """Compute float32 in float32: no TF32, no bfloat16, no autocast. On exit the earlier settings are restored."""
    leaves = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    before = [leaf.fp32_precision for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for leaf, precision in zip(leaves, before):
            leaf.fp32_precision = "none"  # inherits torch.backends.fp32_precision again
            if leaf.fp32_precision != precision:  # set it only if it was not inherited: a set value ignores later changes there
                leaf.fp32_precision = precision
