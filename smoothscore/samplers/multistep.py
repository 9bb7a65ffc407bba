"""The probability flow by a multistep method: second order at one call of the score per step."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.watch import Counted


class DPMSolver(Sampler):
    """DPM-Solver++(2M) for the probability flow: linear in the denoised image, in λ = −log σ.

    With D_n = x_n + σ_n² s(x_n, σ_n) the denoised image, h_n = log(σ_n/σ_{n+1}) and r_n = h_{n−1}/h_n, the image is
    extrapolated from the last two levels and the noise shrinks around it:

        D̂ = D_n + (D_n − D_{n−1})/(2 r_n),  x_{n+1} = x_n + (1 − σ_{n+1}/σ_n)(D̂ − x_n)

    The first step has no level before it and takes D̂ = D_n, as does the last, to σ = 0. N levels cost N calls of the
    score.

    Args:
        sigmas: noise levels, ascending, or a number of levels (see `Sampler`).

    Source: arXiv 2211.01095, Algorithm 2, with α = 1.
    """

    def __init__(self, sigmas: Tensor | Sequence[float] | int) -> None:
        super().__init__(sigmas)

    @property
    def trusts_schedule(self) -> bool:
        """Yes."""
        return True

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step."""
        before: Tensor | None = None
        h_before = 0.0
        for sigma, sigma_next in pairwise(self.levels):
            denoised = torch.add(x, score(x, sigma), alpha=sigma**2)
            if sigma_next == 0:
                x = denoised
            else:
                h = math.log(sigma / sigma_next)
                ahead = 0.0 if before is None else h / (2 * h_before)
                share = 1 - sigma_next / sigma
                x = torch.lerp(x, denoised, share)
                if before is not None:
                    x = x.add_(denoised, alpha=share * ahead).sub_(before, alpha=share * ahead)
                before, h_before = denoised, h
            yield Step(x, sigma_next)
