"""Sampling as optimization: steps whose size follows the noise that is in the image, not a schedule."""

import math
from collections.abc import Callable, Iterator
from copy import copy
from typing import Literal, Self

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.rows import per_image
from smoothscore.samplers.watch import Counted

NoiseFrom = Literal["search", "score"]
_PAPER_ALPHA = {10: 0.6, 50: 0.16, 100: 0.09}


class _Unscheduled(Sampler):
    """A sampler that starts at σ_max and finds its own way down.

    The noise level of a step, σ*, comes from the training images, σ* = ‖x − nearest‖/√d, or from the score, σ* =
    √d/‖s(x, σ)‖, where σ is what the step before is expected to have left. A score that never looks at σ gives σ*
    anew at every step; a network, s = −F/σ, corrects what was expected by how long its F is, and cannot see more: an
    error of the first σ* stays.
    """

    def __init__(
        self, data: Tensor | None, *, noise: NoiseFrom | None, num_steps: int, sigma_max: float | None
    ) -> None:
        name = type(self).__name__
        if num_steps < 1:
            raise UserError(f"{name}: the number of steps is {num_steps}, but it must be at least 1.")
        if sigma_max is not None and not (sigma_max > 0 and math.isfinite(sigma_max)):
            raise UserError(f"{name}: sigma_max is {sigma_max}, but a noise level is finite and above 0.")
        if noise not in (None, "search", "score"):
            raise UserError(f'{name}: noise is "{noise}"; it must be "search" or "score".')
        super().__init__(2)
        self._levels = None if sigma_max is None else [float(sigma_max), 0.0]
        self.num_levels = num_steps
        self.noise: NoiseFrom | None = noise
        self._centers = None if data is None else Centers(data)

    def bind(self, sigma_min: float, sigma_max: float, data: Tensor | None = None) -> Self:
        """Return this sampler with σ_max, and with the training images that it searches, where it has none."""
        bound = copy(self)
        bound._levels = self._levels or [float(sigma_max), 0.0]
        if self._centers is None and self.noise == "search" and data is not None:
            bound._centers = Centers(data)
        return bound

    def thinned(self, num_levels: int) -> Self:
        """Return this sampler with fewer steps: for a look at a long walk."""
        thin = copy(self)
        thin.num_levels = min(num_levels, self.num_levels)
        return thin

    def _sigma_star(self, x: Tensor, s: Tensor) -> Tensor:
        """σ* [B], at least the smallest positive number of its type."""
        root = math.sqrt(x[0].numel())
        if self._searches:
            assert self._centers is not None
            sigma = self._centers.nearest(x, 1).distance[:, 0].to(x.dtype) / root
        else:
            sigma = root / s.flatten(1).norm(dim=1)
        return sigma.clamp_min(torch.finfo(x.dtype).tiny)

    @property
    def _searches(self) -> bool:
        if self.noise == "search" and self._centers is None:
            raise UserError(
                f"{type(self).__name__} searches the training images for σ* and has none: pass them as data, or set "
                'noise="score".'
            )
        return self._centers is not None and self.noise != "score"


class ActualNoise(_Unscheduled):
    """x ← x + α σ*² s(x), with σ* the noise that is actually in x; nothing is added.

    For one center a step leaves (1 − α) of the residual. So α = 1 − 10^(−4/steps), which leaves 10⁻⁴ of the start in
    any number of steps; for 10, 50 and 100 it is the paper's 0.6, 0.16 and 0.09.

    Args:
        data: training images [M, *S], float, or uint8 meaning value/255, where σ* is searched.
        steps: score evaluations.
        alpha: α, in (0, 1]; None chooses it for the number of steps.
        sigma_max: noise level of the start; None takes the model's.
        noise: where σ* comes from: "search" (the nearest training image) or "score" (the score's own length; no
            training image is looked at).

    Raises:
        UserError: steps < 1, α outside (0, 1], σ_max ≤ 0, or (when sampling) nothing to search.

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
    ) -> None:
        super().__init__(data, noise=noise, num_steps=steps, sigma_max=sigma_max)
        if alpha is not None and not 0 < alpha <= 1:
            raise UserError(f"ActualNoise: alpha is {alpha}, but it must lie in (0, 1]; None chooses it.")
        self.alpha = alpha

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step, with the noise level that it is expected to have."""
        alpha = self.alpha or _PAPER_ALPHA.get(self.num_levels, 1 - 10 ** (-4 / self.num_levels))
        # At the start noise is all there is, so its length says what σ* is: σ_max ‖z‖/√d, not σ_max.
        sigma = (x - 0.5).flatten(1).norm(dim=1) / math.sqrt(x[0].numel())
        for _ in range(self.num_levels):
            if self._searches:
                sigma = self._sigma_star(x, x)
                s = score(x, sigma)
            else:
                s = score(x, sigma)
                sigma = self._sigma_star(x, s)
            x = torch.addcmul(x, per_image(alpha * sigma.square(), x), s)
            sigma = (1 - alpha) * sigma
            yield Step(x, sigma)


class GradientAscent(_Unscheduled):
    """x ← project(x + η s(x)) until σ* is small: ascent on the log-density.

    For one center a step leaves (1 − η/σ*²) of the residual: with a fixed η the last steps are the largest, and at
    σ*² < η/2 they grow. step="barzilai_borwein" takes η = ⟨Δx, Δx⟩/|⟨Δx, Δs⟩| from the last two states, at most σ*²,
    which is a whole denoising step; η then only starts it. A sample that has reached σ_stop, or moves less than
    `tolerance` per value, stays.

    Args:
        eta: η > 0, in squared pixel units.
        sigma_stop: σ* below which a sample is finished.
        max_steps: most score evaluations.
        data: training images, where σ* is searched; None takes the length of the score.
        sigma_max: noise level of the start; None takes the model's.
        step: "fixed" or "barzilai_borwein".
        tolerance: root mean square of a step below which a sample is finished.
        project: put every state back where it has to be, x [B, *S] -> [B, *S]: a known region, a measurement, a box.

    Raises:
        UserError: η, σ_stop or σ_max not above 0, max_steps < 1, or an unknown step.

    Source: arXiv 2601.19285, Sec. 5; Barzilai and Borwein 1988 (IMA J. Numer. Anal. 8).
    """

    def __init__(
        self,
        *,
        eta: float = 1e-3,
        sigma_stop: float = 0.01,
        max_steps: int = 1000,
        data: Tensor | None = None,
        sigma_max: float | None = None,
        step: Literal["fixed", "barzilai_borwein"] = "fixed",
        tolerance: float = 0.0,
        project: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__(data, noise=None, num_steps=max_steps, sigma_max=sigma_max)
        for name, value in (("eta", eta), ("sigma_stop", sigma_stop)):
            if not value > 0:
                raise UserError(f"GradientAscent: {name} is {value}, but it must be above 0.")
        if step not in ("fixed", "barzilai_borwein"):
            raise UserError(f'GradientAscent: step is "{step}"; it must be "fixed" or "barzilai_borwein".')
        self.eta, self.sigma_stop, self.step, self.tolerance = eta, sigma_stop, step, tolerance
        self.project = project

    @property
    def num_steps(self) -> int | None:
        """None: it ends when all samples have."""
        return None

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step, with σ* before it."""
        if self.project is not None:
            x = self.project(x)
        sigma = x.new_full((len(x),), self.sigma_max)
        active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        eta = x.new_full((len(x),), self.eta)
        before: tuple[Tensor, Tensor] | None = None
        for _ in range(self.num_levels):
            asked = self._sigma_star(x, x) if self._searches else sigma
            s = score(x, asked)
            star = asked if self._searches else self._sigma_star(x, s)
            active = active & (star > self.sigma_stop)
            if not bool(active.any()):
                return
            if self.step == "barzilai_borwein":
                if before is not None:
                    moved, turned = x - before[0], s - before[1]
                    curvature = (moved * turned).flatten(1).sum(1).abs()
                    eta = torch.where(curvature > 0, moved.flatten(1).square().sum(1) / curvature, eta)
                eta = torch.minimum(eta, star.square())
                before = x, s
            x_next = torch.addcmul(x, per_image(eta * active, x), s)
            if self.project is not None:
                x_next = torch.where(per_image(active, x), self.project(x_next), x)
            size = (x_next - x).flatten(1).square().mean(1).sqrt()
            active = active & (size > self.tolerance)
            sigma = torch.where(active, (star - eta / star).abs().clamp_min(self.sigma_stop / 2), star)
            x = x_next
            yield Step(x, star)
