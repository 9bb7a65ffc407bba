"""In which precision distances are computed, and what that costs in error."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def decode(images: Tensor) -> Tensor:
    """Images as numbers: uint8 becomes float32 value/255, half precision becomes float32, the rest stays."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images if images.dtype in (torch.float32, torch.float64) else images.to(torch.float32)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply matrices as their types say: no autocast, TF32 or reduced sums, whatever a trainer has set."""
    before = torch.get_float32_matmul_precision()
    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced
