"""Samplers: how a score turns noise into an image. They know nothing of Lightning."""

from smoothscore.samplers.actual_noise import ActualNoise, GradientAscent
from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.multistep import DPMSolver
from smoothscore.samplers.ode import Heun, ProbabilityFlow
from smoothscore.samplers.predictor_corrector import PredictorCorrector
from smoothscore.samplers.watch import Score

__all__ = [
    "ActualNoise",
    "DPMSolver",
    "GradientAscent",
    "Heun",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Sampler",
    "Score",
    "Step",
]
