"""Ascent on the log-density by its score alone, with constraints where wanted."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.samplers.base import Step
from smoothscore.samplers.projections import Projection
from smoothscore.samplers.rows import per_image, row_dot, row_rms, row_sum
from smoothscore.samplers.unscheduled import Unscheduled
from smoothscore.samplers.watch import Counted

StepRule = Literal["fixed", "barzilai_borwein", "backtracking"]
_RISE = 0.1  # share of the promised gain that a step has to bring
_GROWTH = 2.0  # of a step that did


class GradientAscent(Unscheduled):
    """x ← project(x + η s(x)) until σ* is small: ascent on the log-density.

    For one center a step leaves (1 − η/σ*²) of the residual: with a fixed η the last steps are the largest, and at
    σ*² < η/2 they grow. The other two rules start from η and never take more than σ*², a whole denoising step:

    * barzilai_borwein: η = ⟨Δx, Δx⟩/|⟨Δx, Δs⟩| from the last two states.
    * backtracking: there is no density to compare, but the score along a step Δ says how it changed: a model that is
      quadratic along Δ gains ½⟨s + s', Δ⟩. A step that gains less than 0.1 ⟨s, Δ⟩ is taken back and tried at
      the model's maximum, η ⟨s, Δ⟩/⟨s − s', Δ⟩, between η/10 and η/2; after one that does, η doubles. A step taken back
      costs one evaluation.

    A sample that has reached σ_stop, or moves less than `tolerance` per value, stays.

    Args:
        eta: η > 0, in squared pixel units.
        sigma_stop: σ* below which a sample is finished.
        max_steps: most score evaluations.
        data: training images, where σ* is searched; None estimates it (`project_noise`, then what a step leaves).
        sigma_max: noise level of the start; None takes the model's.
        step: "fixed", "barzilai_borwein" or "backtracking".
        tolerance: root mean square of a step below which a sample is finished.
        project: put every state back where it has to be, x [B, *S] -> [B, *S]: see `smoothscore.samplers.projections`.
        trust: level below which an estimated σ* is what the step should have left; None is 0.3.

    Raises:
        UserError: η, σ_stop, σ_max or trust not above 0, tolerance < 0, max_steps < 1, or an unknown step.

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
        step: StepRule = "fixed",
        tolerance: float = 0.0,
        project: Projection | Callable[[Tensor], Tensor] | None = None,
        trust: float | None = None,
    ) -> None:
        super().__init__(data, noise=None, num_steps=max_steps, sigma_max=sigma_max, trust=trust)
        for name, value in (("eta", eta), ("sigma_stop", sigma_stop)):
            if not value > 0:
                raise UserError(f"GradientAscent: {name} is {value}, but it must be above 0.")
        if not tolerance >= 0:
            raise UserError(f"GradientAscent: tolerance is {tolerance}, but it must be 0 or more.")
        if step not in ("fixed", "barzilai_borwein", "backtracking"):
            raise UserError(
                f'GradientAscent: step is "{step}"; it must be "fixed", "barzilai_borwein" or "backtracking".'
            )
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
        level = self._noise_level(score, x.device)
        sigma = x.new_full((len(x),), self.sigma_max)
        active = torch.ones(len(x), dtype=torch.bool, device=x.device)
        eta = x.new_full((len(x),), self.eta)
        before: tuple[Tensor, Tensor, Tensor] | None = None
        for _ in range(self.num_levels):
            told = level.told(x, sigma)
            s = score(x, told)
            star = level.found(x, s, told).sigma_star
            bad = torch.zeros_like(active)
            if before is not None and self.step == "barzilai_borwein":
                eta = _barzilai_borwein(eta, x - before[0], s - before[1])
            elif before is not None and self.step == "backtracking":
                bad, eta = _judge(eta, x - before[0], before[1], s)
                took_back = per_image(bad, x)
                x, s = torch.where(took_back, before[0], x), torch.where(took_back, before[1], s)
                star = torch.where(bad, before[2], star)
            active = active & ~(star <= self.sigma_stop)  # NaN goes on, so that it reaches the state and is reported
            if not bool(active.any()):
                if bool(bad.any()):
                    yield Step(x, star, star)
                return
            if self.step != "fixed":
                eta = torch.minimum(eta, star.square())
                before = x, s, star
            x_next = torch.addcmul(x, per_image(eta * active, x), s)
            if self.project is not None:
                x_next = torch.where(per_image(active, x), self.project(x_next), x)
            active = active & ~(row_rms(x_next - x) <= self.tolerance)
            sigma = torch.where(active, (star - eta / star).abs().clamp_min(self.sigma_stop / 2), star)
            x = x_next
            yield Step(x, star, star)


def _barzilai_borwein(eta: Tensor, moved: Tensor, turned: Tensor) -> Tensor:
    """⟨Δx, Δx⟩/|⟨Δx, Δs⟩|, and η where nothing turned."""
    curvature = row_dot(moved, turned).abs()
    return torch.where(curvature > 0, row_sum(moved.square()) / curvature, eta)


def _judge(eta: Tensor, moved: Tensor, s: Tensor, s_next: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples' steps gained too little, bool [B], and the η to go on with."""
    promised, kept = row_dot(s, moved), row_dot(s_next, moved)
    bad = (promised + kept) / 2 < _RISE * promised
    best = (promised / (promised - kept)).clamp(0.1, 0.5)  # where bad, kept < 0 <= promised
    return bad, torch.where(bad, eta * best, _GROWTH * eta)
