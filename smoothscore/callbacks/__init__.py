"""Lightning callbacks: the average of the weights, generated images and their measures, the record of a run."""

from smoothscore.callbacks.config import RunRecord
from smoothscore.callbacks.ema import EMA
from smoothscore.callbacks.expansion import ExpansionRatio
from smoothscore.callbacks.generation import Generation
from smoothscore.callbacks.logger import RunLogger

__all__ = ["EMA", "ExpansionRatio", "Generation", "RunLogger", "RunRecord"]
