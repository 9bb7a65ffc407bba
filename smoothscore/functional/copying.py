"""C_T: a test whether samples lie nearer to the training images than held-out images do, cell by cell."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers, nearest
from smoothscore.errors import UserError
from smoothscore.functional.cells import k_means
from smoothscore.functional.rows import check_rows, check_same_shape


class CopyTest(NamedTuple):
    """Result of :func:`c_t`.

    Attributes:
        z: C_T, a mean of z-scores: far below 0 samples are nearer to the training images than held-out images
            are (copying), far above 0 they are farther (underfitting).
        cells: how many cells were used.
        share: share of the held-out images that lie in these cells.
        cell_z: z-score of every cell, [cells asked for], float64; NaN where a cell was not used.
    """

    z: float
    cells: int
    share: float
    cell_z: Tensor


def c_t(train: Tensor, test: Tensor, samples: Tensor, *, cells: int = 5, least: int = 20, seed: int = 0) -> CopyTest:
    """Compare distances to the nearest training image, of samples and of held-out images, cell by cell.

    The training images are divided into cells by k-means. In cell π, with U the number of pairs in which the held-out
    image is nearer to a training image of the cell than the sample is (ties are halves), the
    Mann–Whitney z-score is Z_π = (U − nm/2)/√(nm(n+m+1)/12).
    C_T = Σ_π P(π) Z_π/Σ_π P(π) over the cells with enough samples, P the share of held-out images in a cell.

    Args:
        train: [M, *S] images or features.
        test: [n, *S] held-out ones.
        samples: [m, *S] generated ones.
        cells: cells of the k-means; 1 compares all at once.
        least: samples that a cell must have to be used (τ m of the source).
        seed: of the k-means.

    Returns:
        A :class:`CopyTest`.

    Raises:
        UserError: an option out of range, no cell with enough samples and a held-out image, different shapes, or a NaN
            (its row is named).

    Source: Meehan et al. 2020 (arXiv 2004.05675), Sec. 4; without their continuity correction, so that C_T is
    antisymmetric in samples and held-out images.
    """
    check_rows("train", train)
    for name, rows in (("test", test), ("samples", samples)):
        check_rows(name, rows)
        check_same_shape(name, rows, "train", train.shape[1:])
    if not 1 <= cells <= len(train) or least < 1:
        raise UserError(
            f"{cells} cells of at least {least} samples were asked for, with {len(train)} training images: take 1 to "
            f"{len(train)} cells, of at least 1."
        )
    middles = k_means(train, cells, seed=seed)
    of_train, of_test, of_samples = (nearest(rows, middles).index[:, 0] for rows in (train, test, samples))
    cell_z, shares = torch.full((cells,), math.nan, dtype=torch.float64), torch.zeros(cells, dtype=torch.float64)
    for cell in range(cells):
        own, held_out, drawn = (
            rows[where == cell] for rows, where in ((train, of_train), (test, of_test), (samples, of_samples))
        )
        if len(own) and len(held_out) and len(drawn) >= least:
            centers = Centers(own)
            cell_z[cell] = mann_whitney_z(*(centers.nearest(rows).distance[:, 0] for rows in (held_out, drawn)))
            shares[cell] = len(held_out) / len(test)
    used = shares > 0
    if not used.any():
        raise UserError(
            f"c_t: none of the {cells} cells has {least} samples and a held-out image; lower `cells` or `least`, or "
            f"draw more than {len(samples)} samples."
        )
    z = float((shares[used] * cell_z[used]).sum() / shares[used].sum())
    return CopyTest(z, int(used.sum()), float(shares.sum()), cell_z)


def mann_whitney_z(held_out: Tensor, drawn: Tensor) -> float:
    """Mann–Whitney: below 0 where the drawn values are smaller than the held-out ones, [n] and [m]."""
    n, m = len(held_out), len(drawn)
    ordered = held_out.sort().values
    below = torch.searchsorted(ordered, drawn)  # held-out values that are smaller
    equal = torch.searchsorted(ordered, drawn, right=True) - below
    u = float(below.double().sum() + equal.double().sum() / 2)
    return (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
