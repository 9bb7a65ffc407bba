"""Samplers: how a score turns noise into an image. They need torch and nothing else."""

from smoothscore.samplers.base import Sampler, Score, Step
from smoothscore.samplers.ode import Heun, ProbabilityFlow
from smoothscore.samplers.predictor_corrector import PredictorCorrector

__all__ = ["Heun", "PredictorCorrector", "ProbabilityFlow", "Sampler", "Score", "Step"]
