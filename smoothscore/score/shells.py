"""Shells: where the mass of a noised image lies, and which noise level or center outweighs the other there.

‖x − μ‖ for x ~ N(μ, σ²I) is close to N(σ√d, σ²/2). The w-sigma shell is radius σ√d ± wσ/√2; for w = 3 it is
3√2 σ thick and holds 0.9973 of the mass in the limit of large d. Source: arXiv 2601.19285, Prop. 1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError


class Shell(NamedTuple):
    """Inner and outer radius of a shell, and its middle, all in units of pixel values."""

    inner: float
    radius: float
    outer: float

    @property
    def thickness(self) -> float:
        """Outer − inner, 3√2 σ for the 3σ shell of any dimension above 4."""
        return self.outer - self.inner


class ShellSample(NamedTuple):
    """The mass of a shell as found by drawing noise."""

    mass: float  # share of the samples inside
    standard_deviation: float  # binomial, of that share
    radius: Tensor  # [n] float64, ‖x − μ‖ of every sample


def shell(sigma: float, dim: int, width: float = 3.0) -> Shell:
    """The shell of a noise level around a center: σ√d ± wσ/√2, with the inner radius at least 0.

    Args:
        sigma: noise level σ > 0.
        dim: d, values per image.
        width: w, half the thickness in standard deviations of the radius.

    Raises:
        UserError: sigma, dim or width not above 0.

    Source: arXiv 2601.19285, Prop. 1 and Sec. B.2.1.
    """
    _check(sigma=sigma, dim=dim, width=width)
    half = width * sigma / math.sqrt(2)
    middle = sigma * math.sqrt(dim)
    return Shell(max(middle - half, 0.0), middle, middle + half)


def shell_mass(dim: int, width: float = 3.0) -> float:
    """The mass of N(μ, σ²I) in its shell, in closed form; the same for every σ.

    P(|χ_d − √d| ≤ w/√2) = P(d/2, outer²/2) − P(d/2, inner²/2),  P the regularised incomplete gamma function

    Args:
        dim: d, values per image.
        width: w of `shell`.

    Returns:
        The mass, between 0 and 1; erf(w/√2) in the limit of large d, 0.9973 for w = 3.

    Raises:
        UserError: dim or width not above 0.

    Source: arXiv 2601.19285, Prop. 1.
    """
    inner, _, outer = shell(1.0, dim, width)
    half_squares = torch.tensor([inner, outer], dtype=torch.float64).square() / 2
    below = torch.special.gammainc(torch.full_like(half_squares, dim / 2), half_squares)
    return float(below[1] - below[0])


def sample_shell(
    sigma: float,
    dim: int,
    num_samples: int,
    width: float = 3.0,
    *,
    generator: torch.Generator | None = None,
    memory_budget: int = 2**26,
) -> ShellSample:
    """Draw x ~ N(μ, σ²I) and see how far from μ it lies.

    Args:
        sigma: noise level σ > 0.
        dim: d, values per image.
        num_samples: how many points to draw, at least 1.
        width: w of `shell`.
        generator: source of the noise; the draws are made on its device.
        memory_budget: bytes of noise held at once.

    Returns:
        `ShellSample`.

    Raises:
        UserError: a number not above 0.

    Source: arXiv 2601.19285, Sec. B.2.1.
    """
    _check(num_samples=num_samples)
    inner, _, outer = shell(sigma, dim, width)
    device = torch.device("cpu") if generator is None else generator.device
    step = max(1, memory_budget // (4 * dim))
    radii = []
    for start in range(0, num_samples, step):
        noise = torch.randn(min(step, num_samples - start), dim, generator=generator, device=device)
        radii.append(torch.linalg.vector_norm(noise, dim=1, dtype=torch.float64))
    radius = torch.cat(radii) * sigma
    mass = float(((radius >= inner) & (radius <= outer)).double().mean())
    return ShellSample(mass, math.sqrt(mass * (1 - mass) / num_samples), radius)


def domination_ratio(dim: int, alpha: float, *, exact: bool = False, weighted: bool = True) -> float:
    """How far one noise level outweighs the next one at a point between their touching shells.

    w_i/w_{i+1} = ρ^e exp(−(r²/2)(σ_i⁻² − σ_{i+1}⁻²)),  r = √d((1−α)σ_i + ασ_{i+1}),  ρ = σ_{i+1}/σ_i

    with e = d − 2 (λ(σ) = σ² included, `weighted`) or d. It tends to exp(18(1−2α)) as d grows.

    Args:
        dim: d, values per image.
        alpha: where the point lies, 0 on the shell of σ_i, 1 on that of σ_{i+1}.
        exact: the exact ratio of shell-touch levels instead of the first-order one, as for `shell_touch`.
        weighted: whether λ(σ) = σ² is part of the weights.

    Returns:
        The ratio, evaluated in float64.

    Raises:
        UserError: dim < 1, or dim < 5 with `exact`, where the 3σ shell reaches the center.

    Source: arXiv 2601.19285, Prop. 2.1 and Sec. B.2.2.
    """
    _check(dim=dim)
    if exact and dim < 5:
        raise UserError(f"dim is {dim}, but 3σ shells touch exactly only from dim = 5 on: take exact=False.")
    half = 3 / math.sqrt(2)
    step = 2 * half / (math.sqrt(dim) - half) if exact else 2 * half / math.sqrt(dim)  # ρ − 1
    exponent = dim - 2 if weighted else dim
    # 1 − ρ⁻² without the cancellation of nearly equal levels
    difference = step * (2 + step) / (1 + step) ** 2
    return math.exp(exponent * math.log1p(step) - dim / 2 * (1 + alpha * step) ** 2 * difference)


def domination_limit(alpha: float) -> float:
    """The limit of `domination_ratio` for large d, exp(18(1−2α)): 403.4 at α = 1/3, 36.6 at 0.4, 6.05 at 0.45.

    Source: arXiv 2601.19285, Prop. 2.1.
    """
    return math.exp(18 * (1 - 2 * alpha))


def two_center_log_ratio(x: Tensor, center: Tensor, other: Tensor, sigma: Tensor | float) -> Tensor:
    """The logarithm of how far one center outweighs another at one noise level.

    ln(w_j/w_l) = δ ‖μ_j − μ_l‖²/σ²,  δ = ‖x − μ_l‖ cos∠(x μ_l μ_j)/‖μ_j − μ_l‖ − 1/2

    Args:
        x: points [B, *S].
        center: μ_j [B, *S] or [*S].
        other: μ_l, of `center`'s shape.
        sigma: the noise level of both, a float or [B]; σ* in the paper.

    Returns:
        float64 [B]; 0 where the centers are equal.

    Raises:
        UserError: shapes that do not fit, or sigma not above 0.

    Source: arXiv 2601.19285, Eq. (6).
    """
    if center.shape != other.shape or center.shape not in (x.shape, x.shape[1:]):
        raise UserError(
            f"x {list(x.shape)}, center {list(center.shape)} and other {list(other.shape)} do not fit: "
            "give both centers as [B, *S] or both as [*S]."
        )
    sigma = torch.as_tensor(sigma, dtype=torch.float64, device=x.device).reshape(-1)
    if not bool((sigma > 0).all()):
        raise UserError(f"sigma is {sigma.tolist()}, but a noise level must be above 0.")
    to_other = (x.double() - other.double()).flatten(1)
    apart = (center.double() - other.double()).expand_as(x).flatten(1)
    # δ ‖μ_j − μ_l‖² = (x − μ_l)·(μ_j − μ_l) − ‖μ_j − μ_l‖²/2, which needs no division by the distance
    return ((to_other * apart).sum(1) - apart.square().sum(1) / 2) / sigma**2


def _check(**numbers: float) -> None:
    for name, value in numbers.items():
        if not value > 0:
            raise UserError(f"{name} is {value}, but it must be above 0.")
