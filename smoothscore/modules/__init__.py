"""LightningModules: a network, told σ or blind, and the target that it learns."""

from smoothscore.modules.base import ScoreModule
from smoothscore.modules.conditioned import NoiseConditioned
from smoothscore.modules.smoothed import TemperatureSmoothed
from smoothscore.modules.unconditioned import NoiseUnconditioned

__all__ = ["NoiseConditioned", "NoiseUnconditioned", "ScoreModule", "TemperatureSmoothed"]
