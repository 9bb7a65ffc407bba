"""The score of the training set itself, exact over all centers: conditioned, unconditioned, tempered."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers, Query
from smoothscore.errors import UserError
from smoothscore.schedules import EffectiveNeighbors, Temperature
from smoothscore.score.contenders import Need
from smoothscore.score.effective import effective_temperature_among
from smoothscore.score.groups import Group
from smoothscore.score.radial import (
    Gaussian,
    Levels,
    PowerLaw,
    PowerLawPerCenter,
    Radial,
    check_dim,
    check_positive,
    per_point,
)
from smoothscore.score.solver import Solver
from smoothscore.score.weights import check_temperature, effective_number

_KEEP = 7 * 2**27  # bytes of a centered copy, which saves conversion and memory traffic
Measure = Callable[[Query, Group], tuple[Tensor, ...]]  # what is wanted of a group, each [b, ...]


class Dominant(NamedTuple):
    """The center that holds most of the weight."""

    index: Tensor  # type: ignore[assignment]  # [B] int64, the lowest among equals
    weight: Tensor  # [B] float32


class Posterior(NamedTuple):
    """What one pass over the training set says about B points."""

    score: Tensor  # [B, *S]
    denoised: Tensor  # [B, *S], Σ_j w_j μ_j
    effective_number: Tensor  # [B] float32, exp of the weights' entropy, from 1 to M
    dominant: Dominant
    left_out: Tensor  # [B] float32, bound on the weight of all centers that were not looked at closely


class EmpiricalScore(ABC):
    """A closed-form score over all training images: score = Σ_j w_j c_j (μ_j − x), w = softmax_j ℓ(‖x − μ_j‖²).

    Scores are within 1e-3 relative, and weights within 1e-3 absolute, of float64 at any noise level. Every method
    takes x [B, *S], float (or uint8 meaning value/255), and sigma, a float or [B], which only `Conditioned` uses;
    the others ignore it, so that each of them is a sampler's `score(x, sigma)`.

    Args:
        data: training images [M, *S], float, or uint8 meaning value/255; held by reference. A centered copy is
            kept beside it where it takes at most 896 MiB: of 8-bit images in bytes, where the processor multiplies them
            fast, else in float32.
        memory_budget: bytes of working memory beyond the data, its copy, x and the answer.

    Raises:
        UserError: no rows, or a row with NaN or infinity; when called, x of another shape than the data's images.
    """

    conditioned = False  # whether it looks at sigma
    ignores_sigma = True  # whether its values are the same at any sigma, its length included

    def __init__(self, data: Tensor, *, memory_budget: int = 2**28) -> None:
        self.centers = Centers(data, memory_budget=memory_budget, keep=_KEEP)

    @abstractmethod
    def _radial(self, query: Query, value: Tensor, sigma: Tensor | None) -> Radial:
        """The weight function at the points of `query`, whose screened distances are `value`; sigma [b, 1]."""

    def __call__(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """The score Σ_j w_j c_j (μ_j − x), [B, *S], in x's type."""
        (score,) = self._measure(lambda query, group: (self._score(query, group),), x, sigma)
        return _like(score, x)

    def weights(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Weights of all centers, float32 [B, M], in rows that sum to 1; a mixture's are summed over its levels."""
        (weights,) = self._measure(lambda _, group: (self._all_weights(group),), x, sigma, need="weights")
        return weights

    def denoised(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """The posterior mean of the clean image, Σ_j w_j μ_j, [B, *S], in x's type."""
        measure: Measure = lambda query, group: (self._denoised(query, group),)  # noqa: E731
        (denoised,) = self._measure(measure, x, sigma, need="mean")
        return _like(denoised, x)

    def effective_number(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """How many centers the weights amount to, exp(−Σ_j w_j ln w_j): float32 [B], from 1 to M."""
        measure: Measure = lambda _, group: (effective_number(group.weights),)  # noqa: E731
        return self._measure(measure, x, sigma, need="weights")[0].float()

    def dominant(self, x: Tensor, sigma: Tensor | float | None = None) -> Dominant:
        """Index and weight of the center that holds most of the weight, both [B]."""
        index, weight = self._measure(lambda _, group: _dominant(group), x, sigma, need="weights")
        return Dominant(index, weight.float())

    def posterior(self, x: Tensor, sigma: Tensor | float | None = None) -> Posterior:
        """All of the above but the weights, in one pass, with the bound on what was left out."""

        def measure(query: Query, group: Group) -> tuple[Tensor, ...]:
            score, denoised = self._score(query, group), self._denoised(query, group)
            return score, denoised, effective_number(group.weights), *_dominant(group), group.left_out

        score, denoised, number, index, weight, left_out = self._measure(measure, x, sigma, need="mean")
        dominant = Dominant(index, weight.float())
        return Posterior(_like(score, x), _like(denoised, x), number.float(), dominant, left_out.float())

    @torch.no_grad()
    def _measure(
        self, measure: Measure, x: Tensor, sigma: Tensor | float | None, *, need: Need = "score"
    ) -> tuple[Tensor, ...]:
        if len(x) == 0:  # the shapes of one point, without the point
            one = self.centers.data[:1].to(x.device).view(1, *self.centers.shape)
            return tuple(part[:0] for part in self._measure(measure, one, 1.0, need=need))
        level = None if sigma is None else per_point(sigma, x, "sigma")
        rows, found = [], []
        size = self.centers.query_rows(bytes_per_pair=8)
        for start in range(0, len(x), size):
            query = self.centers.query(x[start : start + size])
            part = None if level is None else level[start : start + size]
            radial_at = lambda query, value, part=part: self._radial(query, value, part)  # noqa: E731
            solver = Solver(self.centers, query, radial_at, need=need)
            for group in solver.groups():
                rows.append(group.rows + start)
                found.append(measure(query, group))
        order = torch.cat(rows).argsort()
        return tuple(torch.cat(parts)[order] for parts in zip(*found, strict=True))

    def _score(self, query: Query, group: Group) -> Tensor:
        return group.total * self._shift(query, group)

    def _denoised(self, query: Query, group: Group) -> Tensor:
        same = group.share is group.weights  # one c for all centers
        shift = self._shift(query, group) if same else group.mean_shift(self.centers, query, group.weights)
        return query.point[group.rows] + shift

    def _shift(self, query: Query, group: Group) -> Tensor:
        return group.mean_shift(self.centers, query, group.share) if group.shift is None else group.shift

    def _all_weights(self, group: Group) -> Tensor:
        weights = group.weights.float()
        if group.columns is None:
            return weights
        return weights.new_zeros(len(weights), self.centers.count).index_copy_(1, group.columns, weights)


class Conditioned(EmpiricalScore):
    """The optimum of a network that is told σ: s(x, σ) = Σ_j w_j (μ_j − x)/σ², w = softmax_j(−‖x − μ_j‖²/(2σ²)).

    Raises:
        UserError: besides `EmpiricalScore`'s, called without sigma or with a sigma ≤ 0.

    Source: arXiv 2601.19285, Eq. (8).
    """

    conditioned = True
    ignores_sigma = False

    def _radial(self, query: Query, value: Tensor, sigma: Tensor | None) -> Radial:
        if sigma is None:
            raise UserError("The conditioned score needs a noise level: call it as s(x, sigma), or use Unconditioned.")
        check_positive(sigma, "sigma")
        return Gaussian(sigma)


class Unconditioned(EmpiricalScore):
    """The optimum of a network that is told nothing: the mixture over all noise levels, which is a power law.

    With sigmas=None every center counts at its own best level only, σ*_j = ‖x − μ_j‖/√d (Eq. 5):

        s(x) = Σ_j w*_j (μ_j − x)/σ*_j²,  w*_j ∝ ‖x − μ_j‖^{−(d−2)}

    With levels it is the exact mixture (Eq. 3), λ(σ) = σ²:

        s(x) = Σ_j Σ_i w_ij (μ_j − x)/σ_i²,  w = softmax over (i, j) of f(x, μ_j, σ_i)

    Args:
        data: training images [M, *S], as for `EmpiricalScore`.
        sigmas: noise levels [N] > 0 in any order, or None.
        memory_budget: as for `EmpiricalScore`.

    Raises:
        UserError: besides `EmpiricalScore`'s, no levels or a level ≤ 0; images of a single value without levels.

    Source: arXiv 2601.19285, Eq. (3) and Eq. (5).
    """

    def __init__(self, data: Tensor, sigmas: Tensor | None = None, *, memory_budget: int = 2**28) -> None:
        super().__init__(data, memory_budget=memory_budget)
        if sigmas is None:
            check_dim(self.centers.dim)
        else:
            if sigmas.ndim != 1 or not len(sigmas):
                raise UserError(f"sigmas has shape {list(sigmas.shape)}: give noise levels as [N], N ≥ 1, or None.")
            check_positive(sigmas, "sigmas")
        self.sigmas = sigmas

    def _radial(self, query: Query, value: Tensor, sigma: Tensor | None) -> Radial:
        if self.sigmas is None:
            return PowerLaw(self.centers.dim, torch.ones_like(query.offset)[:, None])
        return Levels(self.centers.dim, self.sigmas)


class Tempered(EmpiricalScore):
    """The unconditioned score smoothed by a temperature: s(x) = Σ_j w*_j (μ_j − x)/σ*_j².

    w*_j(x; T) = softmax_j( f(x, μ_j, σ*_j)/T ) ∝ ‖x − μ_j‖^{−(d−2)/T}; T = 1 is `Unconditioned(data)`, T = ∞ the
    plain mean.

    Args:
        data: training images [M, *S], as for `EmpiricalScore`.
        temperature: T > 0, a float; a function of σ (float64 tensor to the like), evaluated at σ* of the nearest
            center; or `EffectiveNeighbors`, the T of each point at which n of all centers speak (on a center itself it
            alone does, at any finite T).
        per_center: evaluate the function at every center's own σ*_j, the paper's literal T*_j = T(σ*_j).
        memory_budget: as for `EmpiricalScore`.

    Raises:
        UserError: besides `EmpiricalScore`'s, a temperature ≤ 0, images of a single value, `EffectiveNeighbors`
            together with per_center or, when called, with n above M.

    Source: arXiv 2601.19285, Sec. 3.2.
    """

    def __init__(
        self,
        data: Tensor,
        temperature: float | Callable[[Tensor], Tensor | float] | EffectiveNeighbors,
        per_center: bool = False,
        *,
        memory_budget: int = 2**28,
    ) -> None:
        super().__init__(data, memory_budget=memory_budget)
        check_dim(self.centers.dim)
        check_temperature(temperature)
        if isinstance(temperature, EffectiveNeighbors) and per_center:
            raise UserError("per_center sets T at every center's own σ*, EffectiveNeighbors one T: drop one of them.")
        self.temperature = temperature.bind(self.centers.dim) if isinstance(temperature, Temperature) else temperature
        self.per_center = per_center

    def _radial(self, query: Query, value: Tensor, sigma: Tensor | None) -> Radial:
        dim, temperature = self.centers.dim, self.temperature
        if isinstance(temperature, EffectiveNeighbors):
            return PowerLaw(dim, effective_temperature_among(temperature, self.centers, query, value))
        if not callable(temperature):
            return PowerLaw(dim, torch.full_like(query.offset, temperature)[:, None])
        if self.per_center:
            return PowerLawPerCenter(dim, temperature)
        nearest_sq, _ = self.centers.nearest_among(query, value, 1)
        tempered = torch.as_tensor(temperature((nearest_sq / dim).sqrt())).to(nearest_sq).expand_as(nearest_sq)
        check_positive(tempered, "temperature")
        return PowerLaw(dim, tempered)


def _dominant(group: Group) -> tuple[Tensor, Tensor]:
    weight = group.weights.amax(1)
    # equal centers may differ in the last digit
    position = (group.weights >= (1 - 1e-6) * weight[:, None]).int().argmax(1)
    return position if group.columns is None else group.columns[position], weight


def _like(flat: Tensor, x: Tensor) -> Tensor:
    return flat.to(x.dtype if x.is_floating_point() else torch.float32).view(x.shape)
