"""The precision of the networks: float32 exactly, float32 with TF32 products, or 16-bit maps.

TF32, on NVIDIA GPUs from Ampere on, rounds the factors of a product to 10 bits and is several times as fast. It serves
training. Samples, scores and the comparison of features are computed in true float32: with TF32 products one match in six
changes, and a set of images has a distance above 0 to itself.

PyTorch has two kinds of switches for this and refuses to mix them; the project uses only `fp32_precision`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

SIXTEEN_BITS = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("tf32", "fp32", *SIXTEEN_BITS)
LOSS_SCALE = {"fp16": 2.0**12}  # smaller gradients would vanish in fp16

ON_GPU = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
CUDNN = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
ON_CPU = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)


@contextmanager
def true_fp32(device: torch.device) -> Iterator[None]:
    """Compute float32 in float32: no TF32, no bfloat16, no autocast. On exit the earlier settings are restored."""
    with products("ieee", (*ON_GPU, *ON_CPU)), torch.autocast(device.type, enabled=False):
        yield


def computing(precision: str) -> AbstractContextManager:
    """Compute float32 as one of `PRECISIONS` asks: in true float32 for fp32, otherwise with TF32 products on a GPU."""
    return products("ieee" if precision == "fp32" else "tf32", ON_GPU)


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Compute the convolutions of a network that knows nothing of precision in 16 bits, if `precision` has 16 bits."""
    kind = SIXTEEN_BITS.get(precision)
    return torch.autocast(device.type, dtype=kind) if kind else nullcontext()


@contextmanager
def products(kind: str, leaves: tuple) -> Iterator[None]:
    """Compute float32 products of the backends `leaves` as `kind`, "ieee" or "tf32"."""
    before = [leaf.fp32_precision for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.fp32_precision = kind
        yield
    finally:
        for leaf, precision in zip(leaves, before):
            leaf.fp32_precision = "none"  # inherits torch.backends.fp32_precision again
            if leaf.fp32_precision != precision:  # set it only if it was not inherited: a set value ignores later changes there
                leaf.fp32_precision = precision
