"""Vendi score: how many different images a set effectively holds."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional.rows import check_features

_CHUNK = 8192  # rows brought to float64 at a time


def vendi(features: Tensor) -> float:
    """Effective number of different rows: exp(−Σ λ_i ln λ_i), λ the eigenvalues of K/n, K_ij the cosine of rows i, j.

    1 where all rows point one way, n where all are orthogonal. With more rows than features the eigenvalues are those
    of the F × F matrix Xᵀ X/n, which are the same but for zeros, so memory never grows with n².

    Args:
        features: [n, F].

    Returns:
        A number in [1, min(n, F)], computed in float64.

    Raises:
        UserError: not [n, F], a row of zeros, or a NaN (its row is named).

    Source: Friedman and Dieng 2023 (arXiv 2210.02410), Def. 3.1 and Sec. 3.
    """
    check_features("features", features)
    length = torch.linalg.vector_norm(features, dim=1, dtype=torch.float64)
    empty = (length == 0).nonzero().flatten()
    if len(empty):
        raise UserError(
            f"features: row {int(empty[0])} is all zeros ({len(empty)} such row(s)), so it has no cosine; look at that "
            "image and at the extractor."
        )
    count, dim = features.shape
    if count <= dim:
        rows = features.double() / length[:, None]
        gram = rows @ rows.T
    else:
        gram = length.new_zeros(dim, dim)
        for chunk, norm in zip(torch.split(features, _CHUNK), torch.split(length, _CHUNK), strict=True):
            rows = chunk.double() / norm[:, None]
            gram.addmm_(rows.T, rows)
    share = torch.linalg.eigvalsh(gram / count).clamp_min(0)
    return float(torch.special.entr(share).sum().exp())
