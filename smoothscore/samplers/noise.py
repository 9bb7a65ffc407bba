"""The noise of a walk: every sample draws from a generator of its own."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from smoothscore.errors import UserError


def generators(seeds: Sequence[int] | None, batch: int, device: torch.device) -> list[torch.Generator]:
    """One generator per sample; None draws the seeds from torch's global generator.

    Raises:
        UserError: the number of seeds is not the batch.
    """
    if seeds is None:
        seeds = torch.randint(2**62, (batch,), device="cpu").tolist()
    if len(seeds) != batch:
        raise UserError(f"{len(seeds)} seeds were given for a batch of {batch}: give one per sample.")
    return [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]


def sample_noise(
    generators: list[torch.Generator], image_shape: tuple[int, ...], dtype: torch.dtype
) -> Iterator[Tensor]:
    """Yield unit noise [B, *S] without end, each sample from its own generator, several draws at a time.

    The first draw comes alone, since a deterministic sampler needs no other; then up to 16 together, which spreads
    the cost of calling B generators. How many depends only on the size of one sample: a generator's values depend on
    how many are asked for at once, and a sample must not depend on its batch.
    """
    together = 1
    while True:
        block = torch.empty(len(generators), together, *image_shape, device=generators[0].device)
        for row, generator in zip(block, generators, strict=True):
            torch.randn(row.shape, generator=generator, out=row)
        yield from block.to(dtype).unbind(1)
        together = min(max(1, 2**14 // math.prod(image_shape)), 16)
