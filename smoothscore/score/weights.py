"""Log-weights, softmax weights, and how many neighbors they amount to."""

import torch
from torch import Tensor

from smoothscore.errors import UserError


def log_weight(distance_sq: Tensor, sigma: Tensor | float, dim: int) -> Tensor:
    """The logarithm of λ(σ) N(x; μ, σ²I) with λ(σ) = σ², without its constant.

    f(x, μ, σ) = −(d−2) ln σ − ‖x−μ‖²/(2σ²)

    Args:
        distance_sq: ‖x−μ‖², any shape.
        sigma: noise level σ > 0, broadcast against `distance_sq`.
        dim: d, values per image.

    Returns:
        f, of the broadcast shape.

    Source: arXiv 2601.19285, Eq. (3) and Sec. 3.1.
    """
    sigma = torch.as_tensor(sigma, dtype=distance_sq.dtype, device=distance_sq.device)
    return -(dim - 2) * sigma.log() - distance_sq / (2 * sigma**2)


def optimal_log_weight(distance_sq: Tensor, dim: int) -> Tensor:
    """The log-weight of every center at its own best level, σ*_j = ‖x−μ_j‖/√d.

    f(x, μ_j, σ*_j) = −(d−2) ln σ*_j − d/2

    Args:
        distance_sq: ‖x−μ_j‖², any shape; 0 gives +∞ (for d > 2).
        dim: d, values per image.

    Returns:
        f, of the same shape.

    Source: arXiv 2601.19285, Eq. (5).
    """
    # At d = 2 the weight does not depend on the distance; 0 · ln 0 must not become NaN.
    power_law = -(dim - 2) / 2 * (distance_sq / dim).log() if dim != 2 else torch.zeros_like(distance_sq)
    return power_law - dim / 2


def optimal_weights(
    distance_sq: Tensor, dim: int, temperature: Tensor | float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Tempered weights of the centers, each at its own best level.

    w*_j = softmax_j( f(x, μ_j, σ*_j)/T_j );  with one T per query w*_j ∝ r_j^{−(d−2)/T}.

    A center at distance 0 outweighs every other at any finite T (several share equally); T = ∞ is the plain mean.

    Args:
        distance_sq: ‖x−μ_j‖² [..., K]; float64 keeps weights right to 1e-3 at small σ.
        dim: d, values per image.
        temperature: T > 0: a float, one per query [..., 1], or one per center [..., K].
        mask: [..., K], True where a center takes part; None is all. A row without any gives NaN.

    Returns:
        Weights [..., K], in rows that sum to 1.

    Source: arXiv 2601.19285, Sec. 3.2.
    """
    temperature = torch.as_tensor(temperature, dtype=distance_sq.dtype, device=distance_sq.device)
    f = optimal_log_weight(distance_sq.clamp_min(torch.finfo(distance_sq.dtype).tiny), dim) / temperature
    if dim > 2:  # the limit of a power law: centers hit exactly share all the weight
        hit = (distance_sq == 0) & temperature.isfinite()
        hit = hit if mask is None else hit & mask
        f = torch.where(hit.any(-1, keepdim=True), torch.where(hit, 0.0, -torch.inf), f)
    if mask is not None:
        f = f.masked_fill(~mask, -torch.inf)
    return torch.softmax(f, -1)


def effective_number(weights: Tensor) -> Tensor:
    """The number of neighbors that a row of weights amounts to: exp of its entropy, from 1 to K.

    N_eff = exp(−Σ_j w_j ln w_j)

    Args:
        weights: [..., K], rows that sum to 1.

    Returns:
        [...], between 1 (one center holds everything) and K (the plain mean).
    """
    entropy: Tensor = torch.special.entr(weights).sum(-1)
    return entropy.exp()


def check_temperature(temperature: object) -> None:
    """Raise `UserError` where a temperature given as a number is not above 0."""
    if isinstance(temperature, int | float) and not temperature > 0:
        raise UserError(f"temperature is {temperature}, but it must be above 0 (1 is no smoothing, inf the mean).")
