"""The training set's own score, straight from the formulas, in float64 over all centers and levels."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class EmpiricalOracle(NamedTuple):
    """What the formulas say, all float64."""

    score: Tensor  # [B, *S]
    weights: Tensor  # [B, M]
    denoised: Tensor  # [B, *S]


def as_float64(images: Tensor) -> Tensor:
    """Float64 [n, d]; uint8 becomes the float32 quotient value/255 first, as everywhere."""
    return (images.float() / 255 if images.dtype == torch.uint8 else images).double().flatten(1)


def distances_sq(x: Tensor, data: Tensor) -> Tensor:
    """Direct differences, one query at a time, [B, M]."""
    centers = as_float64(data)
    return torch.stack([(centers - point).square().sum(1) for point in as_float64(x)])


def _assemble(x: Tensor, data: Tensor, weights: Tensor, coefficient: Tensor) -> EmpiricalOracle:
    centers, score = as_float64(data), []
    for point, w, c in zip(as_float64(x), weights, coefficient, strict=True):
        score.append(((w * c)[:, None] * (centers - point)).sum(0))
    return EmpiricalOracle(torch.stack(score).view(x.shape), weights, (weights @ centers).view(x.shape))


def conditioned(x: Tensor, data: Tensor, sigma: Tensor | float) -> EmpiricalOracle:
    """Eq. (8): w = softmax(−r²/(2σ²)), coefficient 1/σ²."""
    sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1).expand(len(x), 1)
    r_sq = distances_sq(x, data)
    return _assemble(x, data, torch.softmax(-r_sq / (2 * sigma**2), 1), (1 / sigma**2).expand_as(r_sq))


def mixture(x: Tensor, data: Tensor, sigmas: Tensor) -> EmpiricalOracle:
    """Eq. (3): softmax over centers and levels of f(x, μ_j, σ_i), one query at a time."""
    r_sq, dim, levels = distances_sq(x, data), x[0].numel(), sigmas.double()
    weights, coefficient = [], []
    for row in r_sq:
        f = -(dim - 2) * levels.log() - row[:, None] / (2 * levels**2)
        joint = torch.softmax(f.flatten(), 0).view(f.shape)
        weights.append(joint.sum(1))
        share = torch.softmax(f, 1)  # of the levels, for every center: where its joint weight underflows too
        coefficient.append((share / levels**2).sum(1))
    return _assemble(x, data, torch.stack(weights), torch.stack(coefficient))


def tempered(
    x: Tensor, data: Tensor, temperature: float | Callable[[float], float] = 1.0, per_center: bool = False
) -> EmpiricalOracle:
    """Eq. (5) with a temperature: softmax(f(x, μ_j, σ*_j)/T), coefficient 1/σ*_j², 0 at distance 0."""
    r_sq, dim = distances_sq(x, data), x[0].numel()
    star = (r_sq / dim).sqrt()
    f = -(dim - 2) * star.clamp_min(1e-150).log() - dim / 2
    if callable(temperature):
        evaluated_at = star if per_center else star.amin(1, keepdim=True)
        values = [[temperature(float(s)) for s in row] for row in evaluated_at]
        t = torch.tensor(values, dtype=torch.float64)
    else:
        t = torch.tensor([[temperature]], dtype=torch.float64)
    weights = torch.softmax(f / t, 1)
    hit = r_sq == 0
    if not callable(temperature) and math.isfinite(temperature):
        for row in hit.any(1).nonzero().squeeze(1):  # the limit: centers hit exactly share everything
            weights[row] = hit[row] / hit[row].sum()
    coefficient = torch.where(hit, 0.0, 1 / star.clamp_min(1e-150) ** 2)
    return _assemble(x, data, weights, coefficient)
