"""One pure function per measure: memorization, expansion ratio, Fréchet distance."""

from smoothscore.functional.expansion import (
    ExpansionPoints,
    ExpansionRatio,
    expansion_points,
    expansion_prediction,
    expansion_ratio,
    overlap_sigmas,
)
from smoothscore.functional.extraction import Extraction, extract
from smoothscore.functional.frechet import (
    FrechetReference,
    feature_statistics,
    frechet_distance,
    frechet_from_features,
)
from smoothscore.functional.intervals import fraction_interval
from smoothscore.functional.memorization import MemorizationReport, memorization_ratio, memorization_report
from smoothscore.functional.pairs import nearest_pairs, random_pairs

__all__ = [
    "ExpansionPoints",
    "ExpansionRatio",
    "Extraction",
    "FrechetReference",
    "MemorizationReport",
    "expansion_points",
    "expansion_prediction",
    "expansion_ratio",
    "extract",
    "feature_statistics",
    "fraction_interval",
    "frechet_distance",
    "frechet_from_features",
    "memorization_ratio",
    "memorization_report",
    "nearest_pairs",
    "overlap_sigmas",
    "random_pairs",
]
