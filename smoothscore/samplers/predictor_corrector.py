"""Predictor-corrector: Langevin steps at a noise level, then a step of the reverse process to the next."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.rows import per_image, row_norm
from smoothscore.samplers.watch import Counted

Predictor = Literal["reverse_diffusion", "ancestral", "euler_maruyama", "probability_flow", "none"]
Corrector = Literal["langevin", "annealed_langevin", "ornstein_uhlenbeck"]


class PredictorCorrector(Sampler):
    """Correct at σ_n, then predict from σ_n to σ_{n+1}; the last step goes to σ = 0 without noise.

    With Δ = σ_n² − σ_{n+1}², s the score and z unit noise, the predictors are

    * reverse_diffusion: x ← x + Δ s + √Δ z
    * ancestral: x ← x + Δ s + √(σ_{n+1}² Δ/σ_n²) z
    * euler_maruyama: x ← x + D s + √D z, D = 2σ_n² ln(σ_n/σ_{n+1}), the same equation stepped in log σ
      (to σ = 0: D = σ_n²)
    * probability_flow: x ← x + ½ Δ s
    * none: x stays, and the last step is x ← x + σ_n² s; with the annealed corrector this is annealed Langevin dynamics

    and the correctors are

    * langevin: x ← x + ε s + √(2ε) z, ε = 2 (snr ‖z‖/‖s‖)², norms per sample
    * annealed_langevin: the same with ε = 2 (snr σ_n)², without a look at the score
    * ornstein_uhlenbeck: x ← x + ε s + √(2ε (1 − snr²)) z, ε = 2 (snr σ_n)²: noise of level σ_n keeps that level
      whatever the step, while Langevin steps widen it to σ_n/√(1 − snr²), or to (1 + snr²) σ_n with a blind network

    Args:
        sigmas: noise levels, ascending, or a number of levels (see `Sampler`).
        predictor: one of the five above.
        corrector_steps: Langevin steps at each level, 0 for none.
        snr: signal-to-noise ratio of the corrector, 0.16 for CIFAR-10.
        corrector: one of the three above.

    Raises:
        UserError: an unknown predictor or corrector, corrector_steps < 0, neither of the two, snr ≤ 0, or snr ≥ 1 with
            ornstein_uhlenbeck.

    Source: arXiv 2601.19285, Sec. 5; arXiv 2011.13456, Algorithms 2 and 4; arXiv 1907.05600, Algorithm 1.
    """

    def __init__(
        self,
        sigmas: Tensor | Sequence[float] | int,
        *,
        predictor: Predictor = "reverse_diffusion",
        corrector_steps: int = 1,
        snr: float = 0.16,
        corrector: Corrector = "langevin",
    ) -> None:
        super().__init__(sigmas)
        if predictor not in PREDICTORS:
            raise UserError(f"predictor is {predictor!r}: choose one of {', '.join(PREDICTORS)}.")
        if corrector not in get_args(Corrector):
            raise UserError(
                f"corrector is {corrector!r}: choose one of {', '.join(get_args(Corrector))} (0 corrector_steps: none)."
            )
        if predictor == "none" and corrector_steps == 0:
            raise UserError("predictor is none and corrector_steps 0, so that nothing would move: set one of them.")
        if corrector_steps < 0:
            raise UserError(f"corrector_steps is {corrector_steps}: it must be 0 or more.")
        if not snr > 0:
            raise UserError(f"snr is {snr}: it must be above 0 (0.16 for 32x32 images).")
        if corrector == "ornstein_uhlenbeck" and not snr < 1:
            raise UserError(f"snr is {snr}: with the corrector ornstein_uhlenbeck it must be below 1.")
        self.predictor = predictor
        self.corrector_steps = corrector_steps
        self.snr = snr
        self.corrector = corrector

    @property
    def trusts_schedule(self) -> bool:
        """Only a probability flow without a corrector does."""
        return self.predictor == "probability_flow" and self.corrector_steps == 0

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each predictor step."""
        for sigma, sigma_next in pairwise(self.levels):
            for _ in range(self.corrector_steps):
                s, z = score(x, sigma), next(noise)
                if self.corrector == "langevin":
                    x = langevin(x, s, z, self.snr)
                else:  # √(2ε) = 2 snr σ
                    kept = 1 - self.snr**2 if self.corrector == "ornstein_uhlenbeck" else 1.0
                    spread = 2 * self.snr * sigma * math.sqrt(kept)
                    x = x.add(s, alpha=2 * (self.snr * sigma) ** 2).add_(z, alpha=spread)
            drift, spread = PREDICTORS[self.predictor](sigma, sigma_next)
            if drift > 0:
                x = torch.add(x, score(x, sigma), alpha=drift)
            if sigma_next > 0 and spread > 0:
                x = x.add_(next(noise), alpha=spread)
            yield Step(x, sigma_next)


def langevin(x: Tensor, s: Tensor, z: Tensor, snr: float) -> Tensor:
    """One Langevin step x + ε s + √(2ε) z with ε = 2 (snr ‖z‖/‖s‖)², norms per sample; all [B, *S]."""
    ratio = row_norm(z) / row_norm(s)
    root = per_image(math.sqrt(2) * snr * ratio, x)  # √ε
    return torch.addcmul(x, root.square(), s).addcmul_(math.sqrt(2) * root, z)


def reverse_diffusion(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Δ and √Δ, Δ = σ_n² − σ_{n+1}²: the coefficients of the score and of the noise."""
    delta = sigma**2 - sigma_next**2
    return delta, math.sqrt(delta)


def ancestral(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Δ and √(σ_{n+1}² Δ/σ_n²)."""
    delta = sigma**2 - sigma_next**2
    return delta, sigma_next / sigma * math.sqrt(delta)


def euler_maruyama(sigma: float, sigma_next: float) -> tuple[float, float]:
    """D and √D, D = 2σ_n² ln(σ_n/σ_{n+1}); to σ = 0, where log σ ends, D = σ_n² without noise."""
    if sigma_next == 0:
        return sigma**2, 0.0
    step = 2 * sigma**2 * math.log(sigma / sigma_next)
    return step, math.sqrt(step)


def probability_flow(sigma: float, sigma_next: float) -> tuple[float, float]:
    """½Δ and no noise."""
    return (sigma**2 - sigma_next**2) / 2, 0.0


def none(sigma: float, sigma_next: float) -> tuple[float, float]:
    """Nothing, but for σ_n² without noise to σ = 0."""
    return (sigma**2 if sigma_next == 0 else 0.0), 0.0


PREDICTORS: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "reverse_diffusion": reverse_diffusion,
    "ancestral": ancestral,
    "euler_maruyama": euler_maruyama,
    "probability_flow": probability_flow,
    "none": none,
}
