"""Noise levels."""

import math

import torch
from torch import Tensor

from smoothscore.errors import UserError


def check_sigma_range(sigma_min: float, sigma_max: float) -> None:
    """Raise `UserError` unless 0 < σ_min < σ_max < ∞."""
    if not sigma_min > 0:
        raise UserError(f"sigma_min is {sigma_min}, but a noise level must be above 0; 0.01 is usual.")
    if not sigma_min < sigma_max < math.inf:
        raise UserError(
            f"sigma_min = {sigma_min} must lie below sigma_max = {sigma_max}, and both must be finite; "
            "the paper uses 0.01 and 50 for 32x32 images."
        )


def log_uniform(sigma_min: float, sigma_max: float, num_levels: int) -> Tensor:
    """Noise levels equally spaced in log σ.

    σ_i = σ_min (σ_max/σ_min)^{(i−1)/(N−1)}, i = 1..N; a level is drawn with probability 1/N.

    Args:
        sigma_min: smallest level σ_1, in units of pixel values in [0, 1].
        sigma_max: largest level σ_N.
        num_levels: N, at least 2.

    Returns:
        float32 [N], ascending; both ends are exact.

    Raises:
        UserError: unless 0 < sigma_min < sigma_max and num_levels ≥ 2.

    Source: arXiv 2601.19285, Sec. 4.
    """
    check_sigma_range(sigma_min, sigma_max)
    if num_levels < 2:
        raise UserError(f"num_levels is {num_levels}, but a schedule needs at least 2 levels.")
    exponents = torch.linspace(0, 1, num_levels, dtype=torch.float64)
    levels = sigma_min * (sigma_max / sigma_min) ** exponents
    levels[-1] = sigma_max
    return levels.float()


def shell_touch(sigma_min: float, sigma_max: float, dim: int, exact: bool = False) -> Tensor:
    """Noise levels whose 3σ shells touch: radius σ√d ± 3σ/√2 of one level meets that of the next.

    σ_{i+1}/σ_i = 1 + 3√2/√d to first order (the paper's), or exactly (√d + 3/√2)/(√d − 3/√2). The ratio is kept,
    so the last level is the largest one at or below σ_max, not σ_max itself.

    Args:
        sigma_min: smallest level.
        sigma_max: no level lies above it.
        dim: d, values per image; at d = 3072 on [0.01, 50] there are 116 levels (112 exact).
        exact: use the exact ratio instead of the first-order one.

    Returns:
        float32 [N], ascending.

    Raises:
        UserError: unless 0 < sigma_min < sigma_max and dim ≥ 1 (dim ≥ 5 for the exact ratio: below that the inner
            edge of the 3σ shell is at radius 0).

    Source: arXiv 2601.19285, Sec. A.3.
    """
    check_sigma_range(sigma_min, sigma_max)
    if dim < (5 if exact else 1):
        raise UserError(f"dim is {dim}, but 3σ shells can touch only from dim = {5 if exact else 1} on.")
    root = math.sqrt(dim)
    ratio = (root + 3 / math.sqrt(2)) / (root - 3 / math.sqrt(2)) if exact else 1 + 3 * math.sqrt(2) / root
    # The small slack keeps σ_max itself when it is a level up to rounding.
    num_levels = 1 + math.floor(math.log(sigma_max / sigma_min) / math.log(ratio) + 1e-9)
    return (sigma_min * ratio ** torch.arange(num_levels, dtype=torch.float64)).float()
