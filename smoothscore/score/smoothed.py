"""The smoothed target: a tempered score over K neighbors (Eq. 10)."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.score.weights import check_temperature, optimal_weights

Scale = Literal["optimal", "scheduled"]
BLOCK_BYTES = {"cpu": 2**22, "cuda": 2**27}  # differences of one block: in cache on a CPU, a full launch on a GPU


def smoothed_target(
    x: Tensor,
    centers: Tensor,
    sigma: Tensor | float,
    temperature: float | Tensor | Callable[[Tensor], Tensor] = 1.0,
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
        sigma: the sample's own noise level, [B] or a float; only `scale="scheduled"` uses it.
        temperature: T > 0: a float, [B], or [B, K]; or a function of σ, evaluated at each center's σ*_k (the paper's
            literal T*_k = T(σ*_k), which keeps the constant −d/2 of f).
        scale: which noise level divides the differences.
        mask: [B, K], True where a center takes part; at least one in each row.

    Returns:
        [B, *S], of x's type.

    Raises:
        UserError: shapes that do not fit, an unknown scale, a temperature ≤ 0.

    Source: arXiv 2601.19285, Eq. (10).
    """
    batch, k = _check(x, centers, temperature, scale, mask)
    dim = x[0].numel()
    flat_x, flat_centers = x.reshape(batch, 1, dim), centers.reshape(batch, k, dim)
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1).expand(batch, 1)
    if isinstance(temperature, Tensor):
        temperature = temperature.reshape(batch, -1)

    target = torch.empty_like(flat_x)
    block_bytes = BLOCK_BYTES.get(x.device.type, BLOCK_BYTES["cuda"])
    rows = max(1, block_bytes // (k * dim * x.element_size()))
    for start in range(0, batch, rows):
        block = slice(start, start + rows)
        # Differences, not ‖x‖² − 2xμ + ‖μ‖²: the exponent is d/2 times the relative error of the distance.
        difference = flat_centers[block] - flat_x[block]
        distance_sq = _row_norm_sq(difference)
        sigma_star = (distance_sq / dim).sqrt()
        if callable(temperature):
            block_temperature: float | Tensor = temperature(sigma_star)
        else:
            block_temperature = temperature[block] if isinstance(temperature, Tensor) else temperature
        weights = optimal_weights(distance_sq, dim, block_temperature, None if mask is None else mask[block])
        if scale == "optimal":
            coefficient = torch.where(distance_sq > 0, weights / sigma_star**2, 0.0)
        else:
            coefficient = weights / sigma[block].double() ** 2
        torch.bmm(coefficient.to(x.dtype).unsqueeze(1), difference, out=target[block])
    return target.view_as(x)


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
