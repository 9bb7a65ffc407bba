"""The temperature for a number of neighbors, one row at a time, by scipy's bracketed root finding in float64."""

import math

import numpy as np
from scipy.optimize import brentq
from torch import Tensor


def entropy(log_weight: np.ndarray, temperature: float) -> float:
    """Of softmax(ℓ/T), in nats."""
    scaled = (log_weight - log_weight.max()) / temperature
    weights = np.exp(scaled) / np.exp(scaled).sum()
    return -sum(float(w) * math.log(w) for w in weights if w > 0)


def temperature_oracle(log_weight: Tensor, number: float) -> float:
    """T at which exp of the entropy is `number`, between the count of largest ℓ and their number."""
    row = log_weight.double().numpy()
    spread = row.max() - row.min()
    gap = np.diff(np.unique(row)).min()
    return math.exp(
        brentq(
            lambda log_t: entropy(row, math.exp(log_t)) - math.log(number),
            math.log(gap / 1e3),
            math.log(spread * 1e8),
            xtol=1e-14,
            rtol=1e-14,
            maxiter=500,
        )
    )
