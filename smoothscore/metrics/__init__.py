"""Measures as torchmetrics: ``smoothscore.functional`` over many batches and processes."""

from smoothscore.metrics.copies import Copies
from smoothscore.metrics.features import MEASURES, QUICK, FeatureMeasures
from smoothscore.metrics.frechet import FrechetDistance
from smoothscore.metrics.generated import GeneratedImages
from smoothscore.metrics.memorization import Memorization

__all__ = ["MEASURES", "QUICK", "Copies", "FeatureMeasures", "FrechetDistance", "GeneratedImages", "Memorization"]
