"""The probability flow dx/dσ = −σ s(x, σ): Euler, Heun, and adaptive Runge-Kutta."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.rows import per_image, row_rms
from smoothscore.samplers.watch import Counted


class ProbabilityFlow(Sampler):
    """Follow the probability flow from σ_max to 0, without noise.

    * euler: x ← x + ½(σ_n² − σ_{n+1}²) s, Euler in σ²; the last step goes to σ = 0.
    * rk45: Dormand-Prince 5(4) in log σ from σ_max to σ_min, then one Euler step in σ to 0, x ← x + σ_min² s. Each
      sample has a step size of its own, so it does not depend on its batch; only the ends of `sigmas` matter.

    Args:
        sigmas: noise levels, ascending, or a number of levels (see `Sampler`).
        method: "euler" or "rk45".
        rtol: rk45 keeps the root mean square of error/(atol + rtol |x|) of each sample below 1.
        atol: its absolute part, in pixel units.

    Raises:
        UserError: an unknown method, a tolerance ≤ 0, or (when sampling) a step size that shrinks to nothing.

    Source: arXiv 2601.19285, Sec. 5; arXiv 2011.13456, Sec. 4.3.
    """

    def __init__(
        self,
        sigmas: Tensor | Sequence[float] | int,
        *,
        method: Literal["euler", "rk45"] = "euler",
        rtol: float = 1e-3,
        atol: float = 1e-3,
    ) -> None:
        super().__init__(sigmas)
        if method not in ("euler", "rk45"):
            raise UserError(f"method is {method!r}: choose euler or rk45.")
        if not (rtol > 0 and atol > 0):
            raise UserError(f"rtol is {rtol} and atol {atol}: both must be above 0.")
        self.method, self.rtol, self.atol = method, rtol, atol

    @property
    def num_steps(self) -> int | None:
        """Number of levels for euler; rk45 finds its own."""
        return self.num_levels if self.method == "euler" else None

    @property
    def trusts_schedule(self) -> bool:
        """Yes."""
        return True

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step."""
        if self.method == "rk45":
            sigma_max, sigma_min = self.levels[0], self.levels[-2]
            for step in dormand_prince(score, x, sigma_max, sigma_min, rtol=self.rtol, atol=self.atol):
                x = step.x
                yield step
            yield Step(torch.add(x, score(x, sigma_min), alpha=sigma_min**2), 0.0)
            return
        for sigma, sigma_next in pairwise(self.levels):
            x = torch.add(x, score(x, sigma), alpha=(sigma**2 - sigma_next**2) / 2)
            yield Step(x, sigma_next)


class Heun(Sampler):
    """Heun's second-order method for the probability flow in σ; the last step, to σ = 0, is Euler's.

    d = −σ_n s(x, σ_n), x' = x + h d, d' = −σ_{n+1} s(x', σ_{n+1}), x ← x + h (d + d')/2 with h = σ_{n+1} − σ_n.
    N levels cost 2N − 1 calls of the score.

    Args:
        sigmas: noise levels, ascending, or a number of levels (see `Sampler`).

    Source: arXiv 2206.00364, Algorithm 1 without churn.
    """

    def __init__(self, sigmas: Tensor | Sequence[float] | int) -> None:
        super().__init__(sigmas)

    @property
    def trusts_schedule(self) -> bool:
        """Yes."""
        return True

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step."""
        for sigma, sigma_next in pairwise(self.levels):
            h = sigma_next - sigma
            s = score(x, sigma)
            if sigma_next == 0:
                x = torch.add(x, s, alpha=-h * sigma)
            else:
                s_next = score(torch.add(x, s, alpha=-h * sigma), sigma_next)
                x = torch.add(x, s, alpha=-h * sigma / 2).add_(s_next, alpha=-h * sigma_next / 2)
            yield Step(x, sigma_next)


# Dormand & Prince (1980), 5(4): nodes, rows of stages, and the fifth minus the fourth order weights.
NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def dormand_prince(
    score: Counted, x: Tensor, sigma_start: float, sigma_end: float, *, rtol: float, atol: float
) -> Iterator[Step]:
    """Integrate dx/du = −σ² s, u = log σ, from one noise level to another, down or up, with a step size per sample.

    Stepping in log σ and not in σ keeps the last decades, where the image forms, from passing in one long step whose
    stages all lie above them. Every try evaluates the whole batch at each sample's own σ; a sample whose error is too
    large stays where it was and takes a smaller step, one that has arrived waits. Yields after each try.

    Raises:
        UserError: a sample's step has shrunk below the resolution of log σ.
    """

    def slope(x: Tensor, u: Tensor) -> Tensor:
        sigma = u.exp()
        return score(x, sigma) * per_image(-sigma.square(), x)

    u = x.new_full((len(x),), math.log(sigma_start))
    end = torch.full_like(u, math.log(sigma_end))
    size = 0.1 * (end - u)  # negative on the way down
    k = [slope(x, u)]
    while bool((u != end).any()):
        arriving = size.abs() >= (end - u).abs()
        u_next = torch.where(arriving, end, u + size)
        h = u_next - u  # 0 for a sample that has arrived
        for node, row in zip(NODES, STAGES, strict=True):
            x_next = x + per_image(h, x) * weighted(row, k)
            k.append(slope(x_next, u_next if node == 1 else u + node * h))
        tolerance = atol + rtol * torch.maximum(x.abs(), x_next.abs())
        error = row_rms(per_image(h, x) * weighted(ERROR, k) / tolerance)

        accept = ~(error > 1)  # NaN is accepted, so that it reaches the state and is reported
        if bool((~accept & (u + 0.2 * h == u)).any()):
            raise UserError(
                f"rk45 cannot keep rtol={rtol} and atol={atol}: a step shrank to nothing at "
                f"σ = {float(u[~accept].exp().min()):.4g}. Raise the tolerances, or use a sampler with fixed steps."
            )
        took = per_image(accept, x)
        x = torch.where(took, x_next, x)
        k = [torch.where(took, k[-1], k[0])]
        u = torch.where(accept, u_next, u)
        factor = (0.9 * error.clamp_min(1e-10) ** -0.2).clamp(0.2, 10.0)
        size = torch.where(h != 0, h * factor, size)
        yield Step(x, u.exp())


def weighted(weights: tuple[float, ...], stages: list[Tensor]) -> Tensor:
    """Σ_i weights_i stages_i, all of one shape."""
    total = weights[0] * stages[0]
    for weight, stage in zip(weights[1:], stages[1:], strict=True):
        if weight:
            total.add_(stage, alpha=weight)
    return total
