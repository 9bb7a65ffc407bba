"""The training set's own score, without a network: closed form, exact, and smoothed."""

from smoothscore.score.empirical import Conditioned, Dominant, EmpiricalScore, Posterior, Tempered, Unconditioned
from smoothscore.score.smoothed import smoothed_target
from smoothscore.score.weights import effective_number, log_weight, optimal_log_weight, optimal_weights

__all__ = [
    "Conditioned",
    "Dominant",
    "EmpiricalScore",
    "Posterior",
    "Tempered",
    "Unconditioned",
    "effective_number",
    "log_weight",
    "optimal_log_weight",
    "optimal_weights",
    "smoothed_target",
]
