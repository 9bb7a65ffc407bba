"""Authenticity: is a sample farther from its nearest training image than that image is from its own neighbor?"""

from __future__ import annotations

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, check_same_shape, unique_rows


def authentic(real: Tensor, fake: Tensor) -> Tensor:
    """Which samples are authentic: ‖y − x*‖ > min_{x ≠ x*} ‖x − x*‖, where x* is the training image nearest to y.

    Exact duplicates in ``real`` count once, so that a copy of a duplicated image does not pass for new.

    Args:
        real: [M, *S] training images or their features, at least two of them distinct.
        fake: [n, *S] samples, likewise.

    Returns:
        bool [n].

    Raises:
        UserError: too few images, different shapes, or a NaN (its row is named).

    Source: Alaa et al. 2022 (arXiv 2102.08921), Sec. 3.3.
    """
    check_rows("real", real, at_least=2)
    check_rows("fake", fake)
    check_same_shape("fake", fake, "real", real.shape[1:])
    rows = unique_rows(real)
    if len(rows) < 2:
        raise UserError(f"real: all {len(real)} images are equal, but authenticity compares two; give different ones.")
    distinct = real[rows] if len(rows) < len(real) else real
    centers = Centers(distinct)
    found = centers.nearest(fake)
    matched, place = torch.unique(found.index[:, 0], return_inverse=True)
    own = centers.nearest(distinct[matched.to(distinct.device)], k=2).distance[:, 1]
    return found.distance[:, 0] > own[place]


def auth_pct(real: Tensor, fake: Tensor) -> float:
    """AuthPct: percentage of samples that are :func:`authentic`.

    0 for copies; for fresh images from the same distribution about half, more where the space has many dimensions:
    read it beside that of held-out images.

    Args:
        real: [M, *S] training images or their features, at least two of them distinct.
        fake: [n, *S] samples, likewise.

    Returns:
        A number in [0, 100].

    Raises:
        UserError: as :func:`authentic`.

    Source: Alaa et al. 2022 (arXiv 2102.08921), Sec. 3.3.
    """
    return 100 * float(authentic(real, fake).to(torch.float64).mean())
