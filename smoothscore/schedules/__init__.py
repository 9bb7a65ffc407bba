"""Noise levels, and how much is smoothed: a temperature as a function of the noise level, or a number of neighbors."""

from smoothscore.schedules.effective import ClassNeighbors, DensityNeighbors, EffectiveNeighbors
from smoothscore.schedules.levels import check_sigma_range, log_uniform, shell_touch
from smoothscore.schedules.temperature import (
    CollapseTemperature,
    ConstantTemperature,
    DimTemperature,
    RootDimTemperature,
    Sigma,
    Temperature,
)

__all__ = [
    "ClassNeighbors",
    "CollapseTemperature",
    "ConstantTemperature",
    "DensityNeighbors",
    "DimTemperature",
    "EffectiveNeighbors",
    "RootDimTemperature",
    "Sigma",
    "Temperature",
    "check_sigma_range",
    "log_uniform",
    "shell_touch",
]
