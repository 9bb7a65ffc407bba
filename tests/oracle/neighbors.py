"""Nearest neighbors by all distances in float64, itself first, ties in the order of the index."""

import torch
from torch import Tensor


def neighbors_oracle(rows: Tensor, k: int, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows [M, d] to indices int64 [M, k] and distances float64 [M, k]; uint8 means value/255.

    Differences are summed one row at a time; for uint8 rows a float64 matrix product is exact, as all is integer.
    """
    if rows.dtype == torch.uint8:
        integers = rows.double()
        norm = integers.pow(2).sum(1)
        distance = (norm[:, None] + norm - 2 * integers @ integers.T).sqrt() / 255
    else:
        distance = torch.stack([(row - rows.double()).pow(2).sum(1).sqrt() for row in rows.double()])
    if labels is not None:
        distance[labels[:, None] != labels] = torch.inf
    distance.fill_diagonal_(-1)
    order = distance.argsort(dim=1, stable=True)[:, :k]
    return order, distance.gather(1, order).clamp(min=0)
