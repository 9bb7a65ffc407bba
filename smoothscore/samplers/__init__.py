"""Samplers: how a score turns noise into an image. They know nothing of Lightning."""

from smoothscore.samplers.actual_noise import ActualNoise
from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.clipped import ClipDenoised
from smoothscore.samplers.gradient_ascent import GradientAscent
from smoothscore.samplers.latent import Between, decode, encode, interpolate
from smoothscore.samplers.multistep import DPMSolver
from smoothscore.samplers.noise_level import project_noise
from smoothscore.samplers.ode import Heun, ProbabilityFlow
from smoothscore.samplers.predictor_corrector import PredictorCorrector
from smoothscore.samplers.projections import Box, KnownRegion, LinearMeasurement
from smoothscore.samplers.search import NearestSearch
from smoothscore.samplers.trajectory import Trajectory
from smoothscore.samplers.watch import Score

__all__ = [
    "ActualNoise",
    "Between",
    "Box",
    "ClipDenoised",
    "DPMSolver",
    "GradientAscent",
    "Heun",
    "KnownRegion",
    "LinearMeasurement",
    "NearestSearch",
    "PredictorCorrector",
    "ProbabilityFlow",
    "Sampler",
    "Score",
    "Step",
    "Trajectory",
    "decode",
    "encode",
    "interpolate",
    "project_noise",
]
