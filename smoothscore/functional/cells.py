"""K-means: a set divided into cells, each of the points nearest to one middle."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothscore.distances import decode, nearest


def k_means(data: Tensor, cells: int, *, steps: int = 20, seed: int = 0) -> Tensor:
    """Middles of cells by Lloyd's iterations from a k-means++ start, in bounded memory.

    Args:
        data: [M, *S], uint8 (meaning value/255) or floating point; M ≥ cells.
        cells: how many.
        steps: most iterations; fewer where nothing moves any more.
        seed: of the start.

    Returns:
        [cells, *S], float32; a cell that lost all its points keeps its middle.

    Source: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.randint(len(data), (1,), generator=generator))]
    distance_sq = nearest(data, data[chosen]).distance[:, 0].double().square().cpu()
    while len(chosen) < cells:
        # Only where all points coincide with a middle is there no weight to draw by.
        weight = distance_sq if distance_sq.sum() > 0 else torch.ones_like(distance_sq)
        at = torch.rand((), generator=generator, dtype=torch.float64) * weight.sum()
        chosen.append(min(int(torch.searchsorted(weight.cumsum(0), at)), len(data) - 1))
        newest = nearest(data, data[chosen[-1:]]).distance[:, 0].double().square().cpu()
        distance_sq = torch.minimum(distance_sq, newest)
    middles = decode(data[chosen]).float().flatten(1)
    cell = None
    for _ in range(steps):
        found = nearest(data, torch.unflatten(middles, 1, data.shape[1:])).index[:, 0]
        if cell is not None and torch.equal(found, cell):
            break
        cell = found
        middles = _means(data, cell, middles)
    return torch.unflatten(middles, 1, data.shape[1:])


def _means(data: Tensor, cell: Tensor, middles: Tensor, chunk: int = 8192) -> Tensor:
    total = torch.zeros_like(middles, dtype=torch.float64)
    for rows, own in zip(torch.split(data, chunk), torch.split(cell, chunk), strict=True):
        total.index_add_(0, own, decode(rows).double().flatten(1))
    count = torch.bincount(cell, minlength=len(middles))[:, None]
    means: Tensor = torch.where(count > 0, total / count.clamp_min(1), middles.double()).float()
    return means
