"""Measures as torchmetrics: ``smoothscore.functional`` over many batches and processes."""

from smoothscore.metrics.frechet import FrechetDistance
from smoothscore.metrics.generated import GeneratedImages
from smoothscore.metrics.memorization import Memorization

__all__ = ["FrechetDistance", "GeneratedImages", "Memorization"]
