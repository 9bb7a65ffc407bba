"""The smoothed target: a tempered score over K neighbors (Eq. 10)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from smoothscore.distances import full_precision
from smoothscore.errors import UserError
from smoothscore.schedules import EffectiveNeighbors
from smoothscore.score.effective import effective_temperature
from smoothscore.score.weights import check_temperature, optimal_log_weight, optimal_weights

AnyTemperature = float | Tensor | Callable[[Tensor], Tensor] | EffectiveNeighbors
Scale = Literal["optimal", "scheduled"]
BLOCK_BYTES = {"cpu": 2**22, "cuda": 2**27}  # differences of one block: in cache on a CPU, a full launch on a GPU


def smoothed_target(
    x: Tensor,
    centers: Tensor,
    sigma: Tensor | float,
    temperature: AnyTemperature = 1.0,
    scale: Scale = "optimal",
    mask: Tensor | None = None,
) -> Tensor:
    """Tempered score over the K given centers, which a network is trained to match.

    target = Σ_k w*_k(x; T) (μ_k − x)/s_k²,  w*_k = softmax_k( f(x, μ_k, σ*_k)/T ),  σ*_k = ‖x−μ_k‖/√d

    with s_k = σ*_k (`scale="optimal"`, Eq. 10) or s_k = σ (`scale="scheduled"`: then σ² target + x is the tempered
    mean of the centers). On a center itself the term of that center is 0, its limit for the direction average.

    Args:
        x: noisy images [B, *S].
        centers: neighbors of each clean image [B, K, *S], values in [0, 1], of x's type.
        sigma: the sample's own noise level, [B] or a float; used by `scale="scheduled"`, and by an n that changes
            with σ.
        temperature: T > 0: a float, [B], or [B, K]; a function of σ, evaluated at each center's σ*_k (the paper's
            literal T*_k = T(σ*_k), which keeps the constant −d/2 of f); or `EffectiveNeighbors`, the T of each sample
            at which n of its centers speak. On a center itself, that center alone speaks at any finite T.
        scale: which noise level divides the differences.
        mask: [B, K], True where a center takes part; at least one in each row.

    Returns:
        [B, *S], of x's type.

    Raises:
        UserError: shapes that do not fit, an unknown scale, a temperature ≤ 0, n below 1 or above K.

    Source: arXiv 2601.19285, Eq. (10).
    """
    batch, k = _check(x, centers, temperature, scale, mask)
    dim = x[0].numel()
    flat_x, flat_centers = x.reshape(batch, dim), centers.reshape(batch, k, dim)
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1).expand(batch)
    distance_sq = _distances_sq(flat_x, flat_centers)
    weights = optimal_weights(distance_sq, dim, _temperature(temperature, distance_sq, dim, sigma, mask), mask)
    variance = distance_sq / dim if scale == "optimal" else sigma[:, None].double() ** 2
    coefficient = torch.where(distance_sq > 0, weights / variance, 0.0)
    return _weighted_differences(flat_x, flat_centers, coefficient, distance_sq.argmin(1)).view_as(x)


def _temperature(
    temperature: AnyTemperature, distance_sq: Tensor, dim: int, sigma: Tensor, mask: Tensor | None
) -> float | Tensor:
    """T as a number, [B, 1] or [B, K], from squared distances [B, K]."""
    if isinstance(temperature, EffectiveNeighbors):
        safe = distance_sq.clamp_min(torch.finfo(distance_sq.dtype).tiny)
        return effective_temperature(temperature, optimal_log_weight(safe, dim), sigma, mask)
    if callable(temperature):
        return temperature((distance_sq / dim).sqrt())
    return temperature.reshape(len(distance_sq), -1) if isinstance(temperature, Tensor) else temperature


def _distances_sq(x: Tensor, centers: Tensor) -> Tensor:
    """‖x − μ_k‖² in float64 [B, K], a block at a time.

    Differences, not ‖x‖² − 2xμ + ‖μ‖²: the exponent of a weight is d/2 times the relative error of the distance.
    """
    batch, k, dim = centers.shape
    found = torch.empty(batch, k, dtype=torch.float64, device=x.device)
    rows = max(1, BLOCK_BYTES.get(x.device.type, BLOCK_BYTES["cuda"]) // (k * dim * x.element_size()))
    for start in range(0, batch, rows):
        block = slice(start, start + rows)
        found[block] = _row_norm_sq(centers[block] - x[block, None])
    return found


def _weighted_differences(x: Tensor, centers: Tensor, coefficient: Tensor, nearest: Tensor) -> Tensor:
    """Σ_k c_k (μ_k − x) [B, d], for coefficients [B, K].

    The nearest center's difference is taken directly: close to it a sum over centers less a multiple of x would be
    the difference of equals. The others are a product, which reads the centers once and stores no differences.
    """
    row = torch.arange(len(x), device=x.device)
    own = coefficient[row, nearest, None].to(x.dtype)
    far = coefficient.index_put((row, nearest), coefficient.new_zeros(()))
    scaled = x * far.sum(1, keepdim=True).to(x.dtype)
    with full_precision(x.device):
        target = torch.baddbmm(scaled.unsqueeze(1), far.to(x.dtype).unsqueeze(1), centers, beta=-1).squeeze(1)
    return target.addcmul_(own, centers[row, nearest] - x)


def _row_norm_sq(rows: Tensor) -> Tensor:
    """‖·‖² over the last dimension in float64, from float32 pieces short enough to lose nothing that matters."""
    pieces = torch.unflatten(rows, -1, (-1, math.gcd(rows.shape[-1], 256)))
    norms: Tensor = torch.linalg.vector_norm(pieces, dim=-1)
    return norms.double().square().sum(-1)


def _check(x: Tensor, centers: Tensor, temperature: object, scale: str, mask: Tensor | None) -> tuple[int, int]:
    if centers.ndim != x.ndim + 1 or centers.shape[:1] != x.shape[:1] or centers.shape[2:] != x.shape[1:]:
        raise UserError(
            f"x {list(x.shape)} and centers {list(centers.shape)} do not fit: expected [B, *S] and [B, K, *S]."
        )
    if scale not in ("optimal", "scheduled"):
        raise UserError(f'scale is "{scale}"; it must be "optimal" (Eq. 10) or "scheduled".')
    batch, k = centers.shape[:2]
    if mask is not None and mask.shape != (batch, k):
        raise UserError(f"mask is {list(mask.shape)}, but there are [B, K] = {[batch, k]} centers.")
    check_temperature(temperature)
    if isinstance(temperature, Tensor) and temperature.shape not in ((), (batch,), (batch, 1), (batch, k)):
        raise UserError(
            f"temperature is {list(temperature.shape)}; it must be a number, [B] = [{batch}] or [B, K] = {[batch, k]}."
        )
    return batch, k
