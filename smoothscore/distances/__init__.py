"""Exact nearest neighbors in plain torch: screened by a matrix product, settled in float64."""

from smoothscore.distances.centers import Centers, Nearest, Query, nearest
from smoothscore.distances.precision import decode, full_precision

__all__ = ["Centers", "Nearest", "Query", "decode", "full_precision", "nearest"]
