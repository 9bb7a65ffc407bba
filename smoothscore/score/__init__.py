"""The training set's own score, without a network: closed form, exact, and smoothed."""

from smoothscore.score.empirical import Conditioned, Dominant, EmpiricalScore, Posterior, Tempered, Unconditioned
from smoothscore.score.jacobian import (
    Eigenpair,
    Linearization,
    dominant_eigenpair,
    jacobian_vector_product,
    kappa,
    spectral_radius,
)
from smoothscore.score.shells import (
    Shell,
    ShellSample,
    domination_limit,
    domination_ratio,
    sample_shell,
    shell,
    shell_mass,
    two_center_log_ratio,
)
from smoothscore.score.smoothed import smoothed_target
from smoothscore.score.weights import effective_number, log_weight, optimal_log_weight, optimal_weights

__all__ = [
    "Conditioned",
    "Dominant",
    "Eigenpair",
    "EmpiricalScore",
    "Linearization",
    "Posterior",
    "Shell",
    "ShellSample",
    "Tempered",
    "Unconditioned",
    "dominant_eigenpair",
    "domination_limit",
    "domination_ratio",
    "effective_number",
    "jacobian_vector_product",
    "kappa",
    "log_weight",
    "optimal_log_weight",
    "optimal_weights",
    "sample_shell",
    "shell",
    "shell_mass",
    "smoothed_target",
    "spectral_radius",
    "two_center_log_ratio",
]
