"""Carlini's calibrated distance: near to one training image, by the measure of how near all of them are."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, check_same_shape, unique_rows


def calibrated_distance(samples: Tensor, train: Tensor, *, neighbors: int = 50, alpha: float = 0.5) -> Tensor:
    """Distance to the nearest training image over α times the mean distance to the n nearest: d_1/(α mean_{j≤n} d_j).

    Below 1 a sample is closer to one image than 1/α of what is usual there: a candidate copy. Exact duplicates in
    ``train`` count once, so that they do not hide one another.

    Args:
        samples: [n, *S], uint8 (meaning value/255) or floating point.
        train: [M, *S], likewise.
        neighbors: n, 2 ≤ n ≤ number of distinct training images.
        alpha: α, above 0.

    Returns:
        [n], float32, in [0, 1/α]; 1/α where all n distances are 0.

    Raises:
        UserError: an option out of range, too few images, different shapes, or a NaN (its row is named).

    Source: Carlini et al. 2023 (arXiv 2301.13188), Sec. 5.1, Eq. 1.
    """
    check_rows("samples", samples)
    check_rows("train", train, at_least=2)
    check_same_shape("samples", samples, "train", train.shape[1:])
    if not alpha > 0:
        raise UserError(f"alpha is {alpha}, but it must be above 0; Carlini et al. use 0.5.")
    rows = unique_rows(train)
    if not 2 <= neighbors <= len(rows):
        raise UserError(
            f"neighbors is {neighbors}, but it must be at least 2 and at most {len(rows)}, the number of different "
            "images in train."
        )
    centers = Centers(train[rows] if len(rows) < len(train) else train)
    distance = centers.nearest(samples, neighbors).distance.double()
    mean = distance.mean(1)
    return torch.where(mean > 0, distance[:, 0] / (alpha * mean), 1 / alpha).float()
