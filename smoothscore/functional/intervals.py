"""Intervals for what is counted over samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

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
    generator = torch.Generator().manual_seed(seed)
    return _percentiles(_resampled(count, total, bootstrap, generator), bootstrap, confidence)


def wilson_interval(count: int, total: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share, which has a width also at 0 and at all.

    (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n),  p = count/n

    An audit that finds no copy has not shown that there is none; the percentile bootstrap has no width there.

    Args:
        count: samples that count, 0 ≤ count ≤ total.
        total: n ≥ 1.
        z: normal quantile, 1.96 for 95 %.

    Returns:
        (low, high), fractions.

    Raises:
        UserError: a count outside 0 … total, or no samples.

    Source: E. B. Wilson, Probable Inference, JASA 22 (1927).
    """
    if total < 1 or not 0 <= count <= total:
        raise UserError(f"count is {count} of {total}: give 0 ≤ count ≤ total and a total of at least 1.")
    share, square = count / total, z * z / total
    middle = share + square / 2
    margin = z * (share * (1 - share) / total + square / (4 * total)) ** 0.5
    low, high = (middle - margin) / (1 + square), (middle + margin) / (1 + square)
    return (0.0 if count == 0 else low, 1.0 if count == total else high)


def difference_interval(
    one: tuple[int, int],
    other: tuple[int, int],
    *,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the difference of two fractions of independent sets.

    Args:
        one: (count, total) of the first.
        other: (count, total) of the second, which is subtracted.
        bootstrap: resamples ≥ 1 of both sets.
        confidence: coverage, in (0, 1).
        seed: of the resamples.

    Returns:
        (low, high), in [−1, 1].

    Raises:
        UserError: bootstrap < 1 or confidence outside (0, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = (_resampled(count, total, bootstrap, generator) for count, total in (one, other))
    return _percentiles(first - second, bootstrap, confidence)


def jackknife_interval(value: float, without: Sequence[float], *, score: float = 1.96) -> tuple[float, float]:
    """Interval of a measure that is no mean over samples, from its values with one group of samples left out.

    value ± score · √((G−1)/G Σ_g (v_g − mean v)²), for G groups of equal size. Every v_g is of equally many samples, so
    a bias that depends on their number cancels in the spread; the interval is about the biased value.

    Args:
        value: the measure of all samples.
        without: v_g, the measure without group g; at least two.
        score: normal quantile, 1.96 for 95 %.

    Returns:
        (low, high).

    Raises:
        UserError: fewer than two groups.

    Source: Quenouille 1956, Tukey 1958; the grouped ("delete-d") jackknife.
    """
    count = len(without)
    if count < 2:
        raise UserError(f"without: {count} value(s), but a jackknife compares at least 2; leave out more groups.")
    values = torch.tensor(without, dtype=torch.float64)
    margin = score * float((values - values.mean()).square().sum() * (count - 1) / count) ** 0.5
    return value - margin, value + margin


def _resampled(count: int, total: int, bootstrap: int, generator: torch.Generator) -> Tensor:
    """Fractions of `bootstrap` resamples, float64."""
    draws = torch.full((max(bootstrap, 0),), float(total), dtype=torch.float64)
    return torch.binomial(draws, torch.full_like(draws, count / total), generator=generator) / total


def _percentiles(values: Tensor, bootstrap: int, confidence: float) -> tuple[float, float]:
    if bootstrap < 1 or not 0 < confidence < 1:
        raise UserError(f"bootstrap: {bootstrap} at confidence {confidence}; give at least 1 and a value in (0, 1).")
    tail = (1 - confidence) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
