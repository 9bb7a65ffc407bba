"""Samplers: how a score turns noise into an image. They know nothing of Lightning."""

from smoothscore.samplers.actual_noise import ActualNoise, GradientAscent
from smoothscore.samplers.base import Sampler, Score, Step
from smoothscore.samplers.ode import Heun, ProbabilityFlow
from smoothscore.samplers.predictor_corrector import PredictorCorrector

__all__ = ["ActualNoise", "GradientAscent", "Heun", "PredictorCorrector", "ProbabilityFlow", "Sampler", "Score", "Step"]
