"""Exact weights of all centers at a block of points, for about the cost of one float32 matrix product.

A float32 product screens all M centers, with a bound on its own error. That bound decides what follows:

* few contenders (small σ, or T = 1 near the data): they are settled in float64, all others are left out;
* many contenders: screened distances serve where the bound, weighted by what each center contributes, keeps weights
  and score within the tolerance; the centers that break it are settled in float64;
* where not even that is enough, all contenders are settled in float64.

Settling is a float64 product over the columns in question, and direct differences for what that would blur.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances.rows import SUM_ERROR, Sum
from smoothscore.score.contenders import Contenders, of_rows
from smoothscore.score.groups import Contribution, Group, Pairs
from smoothscore.score.radial import Radial

TOLERANCE = 8e-4  # largest bound on a weight's absolute and on the score's relative error that is let pass
_EXACT_ROWS = 64  # points settled together: contenders of different points need not overlap
_GUESS = 0.1  # a log-weight that may be off by more than this does not even tell how much a center contributes
_UNDERFLOW = 750.0  # nats below which a float64 weight is 0
_HALVINGS = 4  # steps of the search for what to settle
_DIRECT_SHARE = 1 / 64  # a near center that contributes this much is pulled by its difference, not by a product


class Errors(NamedTuple):
    """Bounds on the errors of points [b]."""

    weight: Tensor  # of any weight, absolute
    mean: Tensor  # of ln w and ln c together, the mean over what the centers contribute
    root_mean_square: Tensor  # the same

    def take(self, kept: Tensor) -> "Errors":
        """Some of the points."""
        return Errors(*(part[kept] for part in self))

    def put(self, rows: Tensor, other: "Errors") -> None:
        """Replace those of some points, in place."""
        for mine, its in zip(self, other, strict=True):
            mine[rows] = its.to(mine.dtype)


class Solver(Contenders):
    """Weights of all centers at the points of one query; every point is in exactly one of the groups.

    Args: those of `Contenders`.
    """

    def groups(self) -> Iterator[Group]:
        """All points, by how they could be settled."""
        few = (self.count <= 32 + self.centers.count // 256) | (self.need == "float64")
        for rows in _pieces(few, _EXACT_ROWS):
            yield from self._exact(rows)
        for rows in _pieces(~few, self.centers.query_rows(bytes_per_pair=64)):
            left = rows
            for group in self._screened(rows):
                left = left[torch.isin(left, group.rows, invert=True)]
                yield group
            if len(left):
                yield from self._exact(left)

    def _exact(self, rows: Tensor) -> Iterator[Group]:
        """Settle all contenders, and more of them where the nearest ones cancel or hardly pull at all."""
        group = self._settled(rows)
        if self.need in ("score", "mean"):
            shift = group.mean_shift(self.centers, self.query, group.share)
            pull = torch.linalg.vector_norm(shift, dim=1)
            hit = group.total.squeeze(1) <= torch.finfo(torch.float64).tiny
            enough = hit | (self.left_pull[rows] <= TOLERANCE / 8 * pull)
            group = group._replace(shift=shift).take(enough)
            wanting = rows[~enough]
            if len(wanting):
                yield self._settled_further(wanting)
        yield group

    def _settled_further(self, rows: Tensor) -> Group:
        """Settle all centers whose weight is above 0 in float64, whatever was looked at before."""
        self._look_within(_UNDERFLOW, rows)
        return self._settled(rows)

    def _settled(self, rows: Tensor) -> Group:
        columns = self.contender[rows].any(0).nonzero().squeeze(1)
        radial = self.radial.take(rows)
        distance_sq, slack, near = self._settle(rows, columns, radial)
        base = distance_sq.amin(1, keepdim=True)
        found = Contribution.of(radial, base, distance_sq - base, slack)
        return Group(rows, columns, *found[:3], near, self.left_out[rows])

    def _settle(self, rows: Tensor, columns: Tensor, radial: Radial) -> tuple[Tensor, Tensor, Pairs]:
        """Squared distances [b, U] in float64, their bound [b, 1], and contenders too near for a product."""
        precise = self.centers.ready(self.query.point[rows], torch.float64)
        distance_sq = (self.centers.screen(precise, columns) + precise.offset[:, None]).clamp_min_(0)
        base, slack = distance_sq.amin(1, keepdim=True), precise.slack[:, None]
        steepness = radial(base, distance_sq - base).steepness
        blurred = (slack * steepness > TOLERANCE / 8) | (slack > TOLERANCE / 512 * distance_sq)
        row, column = (blurred & self.contender[rows][:, columns]).nonzero(as_tuple=True)
        distance_sq[row, column] = self.centers.distance_sq(self.query, rows[row], columns[column])
        return distance_sq, slack, (row, column)

    def _screened(self, rows: Tensor) -> Iterator[Group]:
        """Use screened distances, mended where they break the tolerance; rows where that fails are in no group."""
        columns = self._candidates(rows)
        value = of_rows(self.value, rows) if columns is None else self.value[rows][:, columns]
        query, radial = self.query.take(rows), self.radial.take(rows)
        floor = value.amin(1, keepdim=True)
        base, excess = (query.offset[:, None] + floor).clamp_min_(0), value - floor
        found = Contribution.of(radial, base, excess, query.slack[:, None])
        # Bounds before the score is known: v spreads no wider than √Σ v_j ‖μ_j‖², and its mean can be no nearer to x
        # than that allows.
        norm, radius = query.offset.sqrt(), self._mean_square_norm(found.share, columns).sqrt()
        worst, largest = found.error.amax(1), found.weights.amax(1)
        typical = worst * self.centers.slack(query, radius) / query.slack
        pulled = self.need != "weights"
        spread = (radius / (norm - radius).clamp_min(0)).clamp_max(1) if pulled else torch.zeros_like(norm)
        errors = Errors(largest * (1 - largest) * (worst + typical), typical, typical.clone())
        fine = (worst <= _GUESS) & (errors.weight <= TOLERANCE)
        fine &= typical * (spread + found.loose * pulled) <= TOLERANCE
        rest = (~fine).nonzero().squeeze(1)
        if len(rest):
            budget = TOLERANCE / 4 / torch.maximum(largest, torch.maximum(spread, found.loose))
            fine[rest] = self._mend(rows, columns, rest, base, excess, found, errors, budget)
        if bool(fine.any()):
            near = self._direct(base, excess, found.share)
            group = Group(rows, columns, *found[:3], near, self.left_out[rows])
            yield self._within(group.take(fine), errors.take(fine), found.loose[fine])

    def _mend(
        self,
        rows: Tensor,
        columns: Tensor | None,
        rest: Tensor,
        base: Tensor,
        excess: Tensor,
        found: Contribution,
        errors: Errors,
        budget: Tensor,
    ) -> Tensor:
        """Settle in place what brings the errors of some rows, weighted by what each center contributes, to a budget.

        Returns which of `rest`, positions in rows, were mended, bool; for the others it is as well to settle all
        contenders. What else is given is that of all rows.
        """
        contender = self.contender[rows[rest]]
        contender = contender if columns is None else contender[:, columns]
        contributed = torch.maximum(found.weights[rest], found.share[rest]) * found.error[rest]
        heavy = contributed > _threshold(contributed, budget[rest])
        heavy |= (found.error[rest] > _GUESS) | (excess[rest] == 0)
        heavy &= contender
        kept = heavy.sum(1) <= self.count[rows[rest]] // 2
        if not bool(kept.any()):
            return kept
        rest, heavy = rest[kept], heavy[kept]
        radial = self.radial.take(rows[rest])
        settled = heavy.any(0).nonzero().squeeze(1)
        exact_sq, _, _ = self._settle(rows[rest], settled if columns is None else columns[settled], radial)
        before, exceeding = base[rest], excess[rest]
        others = before + exceeding.index_fill(1, settled, torch.inf).amin(1, keepdim=True)
        nearest = torch.minimum(exact_sq.amin(1, keepdim=True), others.clamp_min(0))
        exceeding += (before - nearest).to(excess.dtype)
        exceeding[:, settled] = (exact_sq - nearest).to(excess.dtype)
        mended = Contribution.of(radial, nearest, exceeding, self.query.slack[rows[rest], None])
        error = mended.error.expand_as(exceeding).index_fill(1, settled, 0)
        mean = (torch.maximum(mended.weights, mended.share) * error).sum(1)
        root_mean_square = (mended.share * error.square()).sum(1).sqrt()
        base[rest], excess[rest] = nearest, exceeding
        found.put(rest, mended)
        errors.put(rest, Errors(mean * mended.weights.amax(1), mean, root_mean_square))
        return kept

    def _within(self, group: Group, errors: Errors, loose: Tensor) -> Group:
        """Those rows of a group that are within the tolerance, given bounds on mean errors of ln w and ln c, [b].

        Errors δ_j of ln w_j move the score C (μ_v − x), μ_v = Σ v_j μ_j, by C Σ v_j (δ_j − δ̄)(μ_j − μ_v), at most
        their root mean square times the spread of v, and by what v ≠ w leaves of their mean.
        """
        if self.need == "weights":
            return group.take(errors.weight <= TOLERANCE)
        norm_sq = self.centers.norm_sq.to(group.share.dtype)
        square = self._mean_square_norm(group.share, group.columns)
        row, column = group.near
        far_sq = square.index_add(0, row, -(group.share[row, column] * norm_sq[group.center_of(column)]).double())
        far = far_sq.clamp_min(0).sqrt()

        def fine(spread: Tensor, distance: Tensor, sum_error: Tensor) -> Tensor:
            pulled = errors.root_mean_square * spread + sum_error + self.left_pull[group.rows]
            return (pulled / distance + errors.mean * loose <= TOLERANCE) & (errors.weight <= TOLERANCE)

        way, sum_error = self._fastest_sum(group, far, partial(fine, square.sqrt(), self._least(group, square)))
        shift = group.mean_shift(self.centers, self.query, group.share, way)
        mean_sq = (shift + self.query.point[group.rows] - self.centers.middle).square().sum(1)
        spread = (square - mean_sq).clamp_min(0).sqrt()
        distance = torch.linalg.vector_norm(shift, dim=1)
        return group._replace(shift=shift).take(fine(spread, distance, sum_error))

    def _least(self, group: Group, square: Tensor) -> Tensor:
        """The least that μ_v − x can measure when √Σ v_j ‖μ_j‖² is √square, [b]."""
        return (self.query.offset[group.rows].sqrt() - square.sqrt()).clamp_min(0)

    def _fastest_sum(self, group: Group, far: Tensor, fine: Callable[[Tensor], Tensor]) -> tuple[Sum, Tensor]:
        """The fastest way to sum whose error, bounded [b], is fine at every point before the sum is known."""
        *ways, most_exact = self.centers.sums(far.device)
        share = group.far(group.share)
        for way in ways if self.need == "score" else ():
            error = self.centers.sum_error(way, share, group.columns, far)
            if bool(fine(error).all()):
                return way, error
        return most_exact, self.centers.sum_error(most_exact, share, group.columns, far)

    def _candidates(self, rows: Tensor) -> Tensor | None:
        """Positions of the centers that are a contender to any row, None for all that are looked at."""
        columns = of_rows(self.contender, rows).any(0).nonzero().squeeze(1)
        return None if len(columns) > self.value.shape[1] // 2 else columns

    def _mean_square_norm(self, share: Tensor, columns: Tensor | None) -> Tensor:
        """Σ_j v_j ‖μ_j − middle‖², float64 [b]."""
        norm_sq = self.centers.norm_sq.to(share.device)
        return (share @ (norm_sq if columns is None else norm_sq[columns]).to(share.dtype)).double()

    def _direct(self, base: Tensor, excess: Tensor, share: Tensor) -> Pairs:
        """Centers so near, and contributing so much, that float32 sums would not give their difference from x."""
        row, column = (share > _DIRECT_SHARE).nonzero(as_tuple=True)
        near_sq = (4 * SUM_ERROR * self.centers.radius / TOLERANCE) ** 2
        near = base[row, 0] + excess[row, column] < near_sq
        return row[near], column[near]


def _threshold(contributed: Tensor, budget: Tensor) -> Tensor:
    """A value [b, 1] such that what is below it adds up to at most the budget [b]."""
    low = budget.to(contributed.dtype)[:, None] / contributed.shape[1]
    high = torch.maximum(contributed.amax(1, keepdim=True), low)
    for _ in range(_HALVINGS):
        middle = (low * high).sqrt()
        fits = torch.where(contributed < middle, contributed, 0).sum(1, keepdim=True) <= budget[:, None]
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return low


def _pieces(chosen: Tensor, size: int) -> Iterator[Tensor]:
    rows = chosen.nonzero().squeeze(1)
    return (rows[start : start + size] for start in range(0, len(rows), size))
