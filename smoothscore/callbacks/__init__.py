"""Lightning callbacks: averaged weights, generated images and their measures, a run's record and its safety."""

from smoothscore.callbacks.config import RunRecord
from smoothscore.callbacks.ema import EMA
from smoothscore.callbacks.expansion import ExpansionRatio
from smoothscore.callbacks.generation import Generation
from smoothscore.callbacks.interruption import Interruption
from smoothscore.callbacks.logger import RunLogger
from smoothscore.callbacks.loss_guard import LossGuard

__all__ = ["EMA", "ExpansionRatio", "Generation", "Interruption", "LossGuard", "RunLogger", "RunRecord"]
