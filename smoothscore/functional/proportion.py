"""The interval of a share that may be 0."""

from __future__ import annotations

from smoothscore.errors import UserError


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
