"""Intervals for what is counted over samples."""

from __future__ import annotations

import torch

from smoothscore.errors import UserError


def fraction_interval(
    count: int, total: int, *, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a fraction.

    Drawing n of n yes-or-no values with replacement and counting is a binomial draw, so this *is* the
    bootstrap, without the n values. At a count of 0 or n it has no width, as every bootstrap there.

    Args:
        count: samples that count.
        total: n ≥ 1, all samples.
        bootstrap: resamples ≥ 1.
        confidence: coverage, in (0, 1).
        seed: of the resamples.

    Returns:
        (low, high), fractions.

    Raises:
        UserError: bootstrap < 1 or confidence outside (0, 1).
    """
    if bootstrap < 1 or not 0 < confidence < 1:
        raise UserError(f"bootstrap: {bootstrap} at confidence {confidence}; give at least 1 and a value in (0, 1).")
    generator = torch.Generator().manual_seed(seed)
    draws = torch.full((bootstrap,), float(total), dtype=torch.float64)
    fractions = torch.binomial(draws, torch.full_like(draws, count / total), generator=generator) / total
    tail = (1 - confidence) / 2
    low, high = fractions.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
