"""Sampling as optimization: steps whose size follows the noise that is in the image, not a schedule."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.samplers.base import Step
from smoothscore.samplers.noise_level import noise_size
from smoothscore.samplers.rows import per_image
from smoothscore.samplers.unscheduled import NoiseFrom, Unscheduled
from smoothscore.samplers.watch import Counted

_PAPER_ALPHA = {10: 0.6, 50: 0.16, 100: 0.09}


class ActualNoise(Unscheduled):
    """x ← x + α σ*² s(x), with σ* the noise that is actually in x.

    For one center a step leaves (1 − α) of the residual. So α = 1 − 10^(−4/steps), which leaves 10⁻⁴ of the start in
    any number of steps; for 10, 50 and 100 it is the paper's 0.6, 0.16 and 0.09.

    A network's score is −F/σ with σ the level that it is told, so the step in full is α σ* σ s(x, σ) = −α σ* F. Where
    σ* is searched, σ is σ*; otherwise σ is (1 − α) of the last step's σ*, and σ* is `project_noise` of the score. A
    score that says `ignores_sigma = True`, as the training set's own unconditioned one, gives σ* = √d/‖s‖.

    With `churn` c a step takes more noise out and puts fresh noise in, so that as much is left, (1 − α) =: ρ of it:
    x ← x + (1 − √(ρ² − b²)) σ*² s + b σ* z, b = c ρ √(1 − ρ²). The last step adds none. c = 1 is ancestral sampling
    at the actual noise level; errors of a step are then forgotten and not carried to the end.

    Args:
        data: training images [M, *S], float, or uint8 meaning value/255, where σ* is searched; where it is not,
            only their mean and spread are used.
        steps: score evaluations.
        alpha: α, in (0, 1]; None chooses it for the number of steps.
        sigma_max: noise level of the start; None takes the model's.
        noise: where σ* comes from: "search" (the nearest training image) or "score" (no training image is searched).
        schedule_until: σ* is σ_max (1 − α)^n, without a look, until that falls below this level; None looks at once.
        churn: share of fresh noise, from 0 (the paper) to 1.
        trust: with noise="score", the level below which σ* is what the last step should have left; None takes the
            spread of the training images, or 0.3 without any.

    Raises:
        UserError: steps < 1, α outside (0, 1], churn outside [0, 1], a level ≤ 0, or (when sampling) nothing to search.

    Source: arXiv 2601.19285, Sec. 5 and B.4.3.
    """

    def __init__(
        self,
        data: Tensor | None = None,
        *,
        steps: int = 50,
        alpha: float | None = None,
        sigma_max: float | None = None,
        noise: NoiseFrom = "search",
        schedule_until: float | None = None,
        churn: float = 0.0,
        trust: float | None = None,
    ) -> None:
        super().__init__(data, noise=noise, num_steps=steps, sigma_max=sigma_max, trust=trust)
        if alpha is not None and not 0 < alpha <= 1:
            raise UserError(f"ActualNoise: alpha is {alpha}, but it must lie in (0, 1]; None chooses it.")
        if not 0 <= churn <= 1:
            raise UserError(f"ActualNoise: churn is {churn}, but it is a share, from 0 to 1.")
        if schedule_until is not None and not schedule_until > 0:
            raise UserError(f"ActualNoise: schedule_until is {schedule_until}, but a noise level is above 0.")
        self.alpha, self.churn, self.schedule_until = alpha, churn, schedule_until

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step, with the noise level that it is expected to have."""
        alpha = self.alpha or _PAPER_ALPHA.get(self.num_levels, 1 - 10 ** (-4 / self.num_levels))
        kept = 1 - alpha
        fresh = self.churn * kept * math.sqrt(1 - kept**2)
        removed = 1 - math.sqrt(kept**2 - fresh**2)
        level = self._noise_level(score, x.device)
        scheduled = self.sigma_max
        # At the start noise is all there is, so its length says what σ* is: σ_max ‖z‖/√d, not σ_max.
        sigma = noise_size(x)
        for number in range(1, self.num_levels + 1):
            if self.schedule_until is not None and scheduled >= self.schedule_until:
                star = scale = torch.full_like(sigma, scheduled)
                s = score(x, star)
            else:
                told = level.told(x, sigma)
                s = score(x, told)
                star, scale = level.found(x, s, told)
            x = torch.addcmul(x, per_image(removed * star * scale, x), s)
            if fresh > 0 and number < self.num_levels:
                x = x.addcmul_(per_image(fresh * star, x), next(noise))
            sigma = kept * star
            scheduled *= kept
            yield Step(x, sigma, star)
