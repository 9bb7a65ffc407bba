"""The Jacobian of the training set's score as a dense matrix, by autograd through the frozen-σ* score in float64."""

import torch
from torch import Tensor

from tests.oracle.empirical import as_float64


def star(x: Tensor, data: Tensor, sigma: float | str | None) -> Tensor:
    """The noise levels of all centers at one point x [*S]: [M]."""
    own = (as_float64(data) - as_float64(x[None])).norm(dim=1) / x.numel() ** 0.5
    if sigma is None:
        return own
    return torch.full_like(own, float(own.min()) if sigma == "nearest" else float(sigma))


def frozen_score(point: Tensor, centers: Tensor, levels: Tensor, temperature: float) -> Tensor:
    """Σ_j w_j (μ_j − x)/σ_j² with given levels, w = softmax(f(x, μ_j, σ_j)/T), for x and centers flat float64."""
    difference = centers - point
    f = -(len(point) - 2) * levels.log() - difference.square().sum(1) / (2 * levels**2)
    weights = torch.softmax(f / temperature, 0)
    return (weights[:, None] * difference / levels[:, None] ** 2).sum(0)


def jacobian(x: Tensor, data: Tensor, temperature: float, sigma: float | str | None = None) -> Tensor:
    """J at every x [B, *S]: float64 [B, d, d]."""
    centers, matrices = as_float64(data), []
    for single, point in zip(x, as_float64(x), strict=True):
        levels = star(single, data, sigma)
        score = lambda p, levels=levels: frozen_score(p, centers, levels, temperature)  # noqa: E731
        matrices.append(torch.autograd.functional.jacobian(score, point))
    return torch.stack(matrices)


def dominant_eigenvalue(x: Tensor, data: Tensor, temperature: float, sigma: float | str | None = None) -> Tensor:
    """The eigenvalue of largest size at every x, from the weighted Gram matrix of all M centers: float64 [B].

    J + κI has the nonzero eigenvalues of G_jl = √(w_j w_l) (g_j − ḡ)·(g_l − ḡ)/T; with more values than centers the
    others are 0.
    """
    centers, values = as_float64(data), []
    for single, point in zip(x, as_float64(x), strict=True):
        levels, difference = star(single, data, sigma), centers - point
        f = -(len(point) - 2) * levels.log() - difference.square().sum(1) / (2 * levels**2)
        weights = torch.softmax(f / temperature, 0)
        g = difference / levels[:, None] ** 2
        rows = weights.sqrt()[:, None] * (g - weights @ g)
        largest = torch.linalg.eigvalsh(rows @ rows.T / temperature)[-1]
        contraction = (weights / levels**2).sum()
        assert len(point) > len(centers)
        values.append(largest - contraction if largest > 2 * contraction else -contraction)
    return torch.stack(values)
