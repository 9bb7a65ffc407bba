"""Expansion ratio: how far one sampling step drives two close points apart where shells overlap.

For two training images μ0, μ1 at distance L and R = σ√d, the points lie in a plane through both images:

    x = m + a u + h v,   y = m − a u + h v,   u = (μ1 − μ0)/L,   v ⊥ u,   m = (μ0 + μ1)/2,
    a = (C² − 1) R²/(2L),   h² = R² − (L/2 − a)²,

so that ‖x−μ1‖ = R and ‖x−μ0‖ = C R, and y mirrors x. Source: arXiv 2601.19285, Sec. 3.2, 5.1.2 and A.5.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import decode
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, check_same_shape

Score = Callable[[Tensor, float], Tensor]

# Close enough to 1 for a small perturbation; far enough that an exact score still prefers one image clearly
# (C^{d−2} is e^7.6 at d = 768 and e^30 at d = 3072), while temperatures of 10 to 1000 tell apart.
DEFAULT_C = 1.01


class ExpansionRatio(NamedTuple):
    """Result of :func:`expansion_ratio`.

    Attributes:
        ratio: γ_ex, [P], float64; NaN where ``valid`` is False.
        valid: [P], bool; False where the shells of a pair do not overlap.
    """

    ratio: Tensor
    valid: Tensor


class ExpansionPoints(NamedTuple):
    """Result of :func:`expansion_points`.

    Attributes:
        x: [P, *S], nearer to μ1.
        y: [P, *S], nearer to μ0.
        valid: [P], bool; where False, no such points exist, and x and y are finite but mean nothing.
    """

    x: Tensor
    y: Tensor
    valid: Tensor


def expansion_points(
    mu0: Tensor, mu1: Tensor, sigma: float, *, c: float = DEFAULT_C, generator: torch.Generator | None = None
) -> ExpansionPoints:
    """Place two points where the shells of two training images overlap.

    Args:
        mu0: [P, *S], uint8 (meaning value/255) or floating point.
        mu1: [P, *S], likewise.
        sigma: noise level; the shell's radius is R = σ√d.
        c: C > 1, the farther image's distance over the nearer one's.
        generator: draws v, one direction per pair, on the generator's device; None is the global generator.

    Returns:
        x, y in float32 (float64 where ``mu0`` is) and which pairs are valid: those with h² ≥ 0,
        that is (C − 1) R ≤ L ≤ (C + 1) R. Equal images (L = 0) are never valid.

    Raises:
        UserError: shapes that differ, NaN pixels, fewer than two values per image, σ ≤ 0 or C ≤ 1.

    Source: arXiv 2601.19285, Sec. 3.2 and A.5.
    """
    check_rows("mu0", mu0)
    check_rows("mu1", mu1)
    check_same_shape("mu0", mu0, "mu1", mu1.shape[1:])
    if len(mu0) != len(mu1):
        raise UserError(f"mu0 has {len(mu0)} images and mu1 {len(mu1)}; give pairs.")
    dim = mu0[0].numel()
    if dim < 2:
        raise UserError("mu0: one value per image; no direction is orthogonal to a line in one dimension.")
    _check_options(sigma, c)

    start, end = decode(mu0).flatten(1).double(), decode(mu1).flatten(1).double()  # [P, d]
    length = (end - start).norm(dim=1)
    radius = sigma * math.sqrt(dim)
    a = (c**2 - 1) * radius**2 / (2 * length)  # infinite for equal images
    h_sq = radius**2 - (length / 2 - a).square()
    valid = (length > 0) & (h_sq >= 0)

    u = torch.nan_to_num((end - start) / length[:, None])
    v = torch.randn(start.shape, dtype=torch.float64, generator=generator, device=_device(generator, start))
    v = v.to(start.device)
    v = torch.nn.functional.normalize(v - (v * u).sum(1, keepdim=True) * u, dim=1)
    along = torch.where(valid, a, 0)[:, None] * u
    base = (start + end) / 2 + h_sq.clamp_min(0).sqrt()[:, None] * v
    x, y = (point.to(decode(mu0[:1]).dtype).view(mu0.shape) for point in (base + along, base - along))
    return ExpansionPoints(x, y, valid)


@torch.no_grad()
def expansion_ratio(
    score: Score,
    mu0: Tensor,
    mu1: Tensor,
    sigma: float,
    *,
    c: float = DEFAULT_C,
    step: float = 1.0,
    generator: torch.Generator | None = None,
) -> ExpansionRatio:
    """Distance of two close points after one sampling step over their distance before it.

    γ_ex = ‖y' − x'‖/‖y − x‖ with x' = x + η σ² s(x, σ), and y' likewise. At η = 1, x' is the denoised image.

    Args:
        score: callable (x [P, *S], sigma float) → [P, *S]; called twice, on all x and on all y.
        mu0: [P, *S] training images, uint8 (meaning value/255) or floating point.
        mu1: [P, *S] the other image of each pair.
        sigma: noise level.
        c: C > 1, the farther image's distance over the nearer one's.
        step: η > 0.
        generator: draws the direction of the points of each pair; None is the global generator.

    Returns:
        ``ratio`` [P] and ``valid`` [P]: only pairs with overlapping shells have a ratio, the others are NaN.

    Raises:
        UserError: as :func:`expansion_points`; η ≤ 0; a score of another shape, or not finite.

    Source: arXiv 2601.19285, Sec. 3.2, 5.1.2 and A.5.
    """
    if not step > 0:
        raise UserError(f"step: {step}; a sampling step η is above 0.")
    x, y, valid = expansion_points(mu0, mu1, sigma, c=c, generator=generator)
    score_x, score_y = score(x, sigma), score(y, sigma)
    if score_x.shape != x.shape or score_y.shape != x.shape:
        raise UserError(f"score: result of shape {list(score_x.shape)} for points of shape {list(x.shape)}.")
    # y' − x' is taken from differences: points and scores are large beside the small perturbation.
    before = (y.double() - x.double()).flatten(1)
    after = before + step * sigma**2 * (score_y.double() - score_x.double()).flatten(1)
    ratio = torch.where(valid, after.norm(dim=1) / before.norm(dim=1), torch.nan)
    broken = (valid & ~ratio.isfinite()).nonzero().flatten()
    if len(broken):
        raise UserError(
            f"score: not finite near pair {int(broken[0])} at sigma = {sigma:g} ({len(broken)} such pairs); "
            "the network has diverged, or the score does not reach this noise level."
        )
    return ExpansionRatio(ratio, valid)


def expansion_prediction(
    length: Tensor | float,
    sigma: float,
    dim: int,
    *,
    c: float = DEFAULT_C,
    step: float = 1.0,
    mixture: Literal["conditioned", "unconditioned"] = "conditioned",
    temperature: float = 1.0,
) -> Tensor:
    """Expansion ratio of the exact score of two centers, in closed form.

    γ_ex ≈ η L/‖y−x‖ · |1 − 2/(a_w + 1)|, ‖y−x‖ = (C² − 1) σ² d/L; a_w, the dominant weight over the other, is
    exp((C² − 1) d/2) conditioned, C^{(d−2)/T} unconditioned. Exact for the conditioned score at η = 1; the
    unconditioned step also moves along the farther image's own noise level, which the formula leaves out.

    Args:
        length: L, distance of the two training images, [P] or a number.
        sigma: noise level.
        dim: d, values per image.
        c: C > 1.
        step: η.
        mixture: whose weights.
        temperature: T of the unconditioned weights.

    Returns:
        float64, the shape of ``length``; NaN where the shells do not overlap.

    Raises:
        UserError: σ ≤ 0, C ≤ 1, T ≤ 0, an unknown mixture, or a temperature given for the conditioned one.

    Source: arXiv 2601.19285, Eq. (7).
    """
    low, high = overlap_sigmas(length, dim, c=c)
    _check_options(sigma, c)
    if mixture not in ("conditioned", "unconditioned"):
        raise UserError(f"mixture: {mixture!r}; choose 'conditioned' or 'unconditioned'.")
    if not temperature > 0 or (mixture == "conditioned" and temperature != 1):
        raise UserError(f"temperature: {temperature}; above 0, and only with mixture='unconditioned'.")
    log_weight_ratio = (c**2 - 1) * dim / 2 if mixture == "conditioned" else (dim - 2) * math.log(c) / temperature
    # 1 − 2/(a_w + 1) = tanh(½ ln a_w), which neither overflows nor cancels.
    length = torch.as_tensor(length, dtype=torch.float64)
    ratio = step * length.square() / ((c**2 - 1) * sigma**2 * dim) * math.tanh(log_weight_ratio / 2)
    return torch.where((low <= sigma) & (sigma <= high), ratio, torch.nan)


def overlap_sigmas(length: Tensor | float, dim: int, *, c: float = DEFAULT_C) -> tuple[Tensor, Tensor]:
    """Noise levels between which the shells of two images at distance L overlap.

    L/((C + 1)√d) ≤ σ ≤ L/((C − 1)√d). A random pair is far apart and overlaps only from a rather high σ on;
    an image and its nearest neighbor overlap down to the levels where copying is decided.

    Args:
        length: L, [P] or a number.
        dim: d, values per image.
        c: C > 1.

    Returns:
        Lowest and highest σ, float64, each of the shape of ``length``.

    Raises:
        UserError: C ≤ 1.
    """
    _check_options(1.0, c)
    scaled = torch.as_tensor(length, dtype=torch.float64) / math.sqrt(dim)
    return scaled / (c + 1), scaled / (c - 1)


def _device(generator: torch.Generator | None, like: Tensor) -> torch.device:
    return like.device if generator is None else generator.device


def _check_options(sigma: float, c: float) -> None:
    if not (sigma > 0 and math.isfinite(sigma)):
        raise UserError(f"sigma: {sigma}; a noise level is finite and above 0.")
    if not (c > 1 and math.isfinite(c)):
        raise UserError(f"c: {c}; C is above 1 (the two points fall together at 1), for example {DEFAULT_C}.")
