"""How the training set's scores weigh a center: always by its distance alone.

Every score here is that of a mixture p(x) ∝ Σ_j exp ℓ(‖x − μ_j‖²), tempered or not, so that

    w_j = softmax_j ℓ(r_j²),   score = Σ_j w_j c(r_j²) (μ_j − x),

and a variant is no more than its ℓ and c. Each also says how fast they change with r², which tells how well a
squared distance has to be known, and how far a center may be before its weight no longer matters.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from smoothscore.errors import UserError

_LEVEL_DROP = 100.0  # a level this many nats below the others at the nearest center matters at no contender
_LARGEST_RATIO = 1e30  # of squared distances: ln stays finite, so that T = ∞ gives 0 and not 0·∞


class Profile(NamedTuple):
    """ℓ and c of centers [B, U], with their rates of change; all broadcast against [B, U]."""

    log_weight: Tensor  # ℓ, up to a constant of the row
    coefficient: Tensor  # c, what multiplies w_j (μ_j − x) in the score; 0 at distance 0 where it would be infinite
    steepness: Tensor  # bound on |dℓ/dr²| + |d ln c/dr²|
    bend: Tensor  # the share of c's part in it


class Radial(ABC):
    """A weight that depends on the distance alone."""

    @abstractmethod
    def __call__(self, base: Tensor, excess: Tensor) -> Profile:
        """Evaluate at squared distances base + excess.

        Args:
            base: smallest squared distance of the row, float64 [B, 1].
            excess: how much larger it is for each center, [B, U]; float32 is enough, since ℓ is needed only
                relative to the nearest center. Every row holds all centers that matter.

        Returns:
            `Profile` in the precision of `excess`.
        """

    @abstractmethod
    def reach(self, distance_sq: Tensor, drop: float) -> Tensor:
        """Squared distance beyond which a weight is below e^−drop times the one at `distance_sq` > 0, [B]."""

    def take(self, rows: Tensor | slice) -> Self:
        """The same for some of the queries, rows int64 [b] or a slice."""
        return self


@dataclass(frozen=True, eq=False)
class Gaussian(Radial):
    """One noise level per query: ℓ = −r²/(2σ²), c = 1/σ². Source: arXiv 2601.19285, Eq. (8)."""

    sigma: Tensor  # [B, 1]

    def __call__(self, base: Tensor, excess: Tensor) -> Profile:
        """See `Radial`."""
        precision = (self.sigma**-2).to(excess.dtype)
        return Profile(excess * (-precision / 2), precision, precision / 2, torch.zeros_like(precision))

    def reach(self, distance_sq: Tensor, drop: float) -> Tensor:
        """See `Radial`."""
        return distance_sq + 2 * drop * self.sigma.squeeze(1) ** 2

    def take(self, rows: Tensor | slice) -> "Gaussian":
        """See `Radial`."""
        return Gaussian(self.sigma[rows])


@dataclass(frozen=True, eq=False)
class PowerLaw(Radial):
    """Every center at its own best level, with one temperature per query.

    ℓ = f(x, μ, σ*)/T = −(d−2)/T ln r + constant, c = 1/σ*² = d/r². Centers hit exactly share all the weight at
    any finite T, the limit r → 0. Source: arXiv 2601.19285, Eq. (5) and Sec. 3.2.
    """

    dim: int
    temperature: Tensor  # [B, 1]

    @property
    def rate(self) -> Tensor:
        """−dℓ/d ln r² = (d−2)/(2T), [B, 1]."""
        return (self.dim - 2) / (2 * self.temperature)

    def __call__(self, base: Tensor, excess: Tensor) -> Profile:
        """See `Radial`."""
        # relative to the nearest: float32 holds ln(1 + t) to a few digits of a small t, but not of ln r²
        rate, start = self.rate.to(excess.dtype), base.to(excess.dtype)
        ratio = excess / start.clamp_min(torch.finfo(excess.dtype).tiny)
        log_weight = ratio.clamp_max_(_LARGEST_RATIO).log1p_().mul_(-rate)
        distance_sq = excess + start
        hit = start == 0
        if bool(hit.any()):
            limit = torch.where(distance_sq == 0, 0.0, -torch.inf).to(excess.dtype)
            log_weight = torch.where(hit & (rate > 0), limit, log_weight)
        inverse = distance_sq.reciprocal_()
        coefficient = self.dim * inverse
        if bool(hit.any()):
            coefficient.masked_fill_(inverse.isinf(), 0)
        return Profile(log_weight, coefficient, inverse.mul_(rate + 1), 1 / (rate + 1))

    def reach(self, distance_sq: Tensor, drop: float) -> Tensor:
        """See `Radial`."""
        return distance_sq * (drop / self.rate.squeeze(1)).exp()

    def take(self, rows: Tensor | slice) -> "PowerLaw":
        """See `Radial`."""
        return PowerLaw(self.dim, self.temperature[rows])


@dataclass(frozen=True, eq=False)
class PowerLawPerCenter(Radial):
    """Every center at its own best level and its own temperature: ℓ = f(x, μ, σ*)/T(σ*), c = 1/σ*².

    The constant −d/2 of f no longer cancels. `steepness` takes T to change no faster than in proportion to σ, or 1/σ.
    Source: arXiv 2601.19285, Sec. 3.2, the literal T*_j = T(σ*_j).
    """

    dim: int
    temperature: Callable[[Tensor], Tensor | float]

    def __call__(self, base: Tensor, excess: Tensor) -> Profile:
        """See `Radial`."""
        distance_sq = base + excess  # float64: ℓ itself is in the thousands
        safe = distance_sq.clamp_min(torch.finfo(distance_sq.dtype).tiny)
        sigma_star = (safe / self.dim).sqrt()
        temperature = torch.as_tensor(self.temperature(sigma_star)).to(safe)
        check_positive(temperature, "temperature")
        f = -(self.dim - 2) * sigma_star.log() - self.dim / 2
        inverse = safe.reciprocal()
        log_weight = f / temperature
        log_weight = log_weight - log_weight.amax(1, keepdim=True)
        coefficient = torch.where(distance_sq > 0, self.dim * inverse, 0.0)
        steepness = ((self.dim + f.abs()) / temperature + 1) * inverse
        profile = log_weight, coefficient, steepness, inverse / steepness
        return Profile(*(part.to(excess.dtype) for part in profile))

    def reach(self, distance_sq: Tensor, drop: float) -> Tensor:
        """See `Radial`."""
        return torch.full_like(distance_sq, torch.inf)  # the weight need not fall with the distance


@dataclass(frozen=True, eq=False)
class Levels(Radial):
    """All noise levels at once, each with λ(σ) = σ².

    ℓ = ln Σ_i exp f(x, μ, σ_i) = ln Σ_i exp(−(d−2) ln σ_i − y_i r²),  c = 2 E_i[y_i],  y_i = 1/(2σ_i²).
    Source: arXiv 2601.19285, Eq. (3).
    """

    dim: int
    sigmas: Tensor  # [N]

    def __call__(self, base: Tensor, excess: Tensor) -> Profile:
        """See `Radial`."""
        # Far from the nearest center's best levels nothing is left at any contender, which is at least as far and
        # at most a few dozen nats down: with 116 levels for d = 3072, about 5 remain.
        log_share = self._log_share(base)
        kept = int((log_share >= -_LEVEL_DROP).sum(1).max())
        log_share, index = log_share.topk(kept, dim=1)
        log_share, y = log_share.to(excess.dtype), self._half_precision(base)[index].to(excess.dtype)
        moments = [torch.zeros_like(excess) for _ in range(3)]  # Σ_i share_i exp(−y_i·excess) y_i^n, n = 0, 1, 2
        for level in range(kept):
            y_level = y[:, level, None]
            term = torch.addcmul(log_share[:, level, None], excess, y_level, value=-1).exp_()
            for moment in moments:
                moment += term
                term *= y_level
        mass, first, second = moments
        tiny = torch.finfo(mass.dtype).tiny
        mean = first.div_(mass.clamp_min_(tiny))
        bend = second.div_(mass).div_(mean.clamp_min(tiny)).sub_(mean).clamp_min_(0)
        steepness = mean + bend
        return Profile(mass.log_(), 2 * mean, steepness, bend.div_(steepness.clamp_min(tiny)))

    def reach(self, distance_sq: Tensor, drop: float) -> Tensor:
        """See `Radial`."""
        # beyond this no single level holds as much as e^−drop/N of what all held at distance_sq
        allowed = self._log_share(distance_sq[:, None]) + drop + math.log(len(self.sigmas))
        return distance_sq + (allowed / self._half_precision(distance_sq)).amax(1)

    def _half_precision(self, like: Tensor) -> Tensor:
        return 1 / (2 * self.sigmas.to(like) ** 2)

    def _log_share(self, distance_sq: Tensor) -> Tensor:
        """Logarithm of each level's share at squared distances [B, 1]: [B, N]."""
        f = -(self.dim - 2) * self.sigmas.to(distance_sq).log() - distance_sq * self._half_precision(distance_sq)
        return f.log_softmax(1)


def check_positive(values: Tensor, name: str) -> None:
    """Raise `UserError` for the first value that is not above 0; infinity is allowed."""
    bad = ~(values > 0)
    if bool(bad.any()):
        raise UserError(f"{name} is {float(values[bad][0])}, but it must be above 0.")


def per_point(value: Tensor | float, x: Tensor, name: str) -> Tensor:
    """One value for all points x [B, *S], or one for each, as float64 [B, 1]; `UserError` for another number."""
    column = torch.as_tensor(value, device=x.device).detach().to(torch.float64).reshape(-1, 1)
    if len(column) not in (1, len(x)):
        raise UserError(f"{name} has {len(column)} values for {len(x)} points: give one for all, or one for each.")
    return column.expand(len(x), 1)


def check_dim(dim: int) -> None:
    """Raise `UserError` where a power law r^−(d−2) would grow with the distance."""
    if dim < 2:
        raise UserError(
            "The data's images hold a single value each, but the optimal-shell weights are r^−(d−2): "
            "below d = 2 they would grow with the distance. Give noise levels instead."
        )
