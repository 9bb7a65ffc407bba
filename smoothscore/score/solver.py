"""Exact weights of all centers at a block of points, for about the cost of one float32 matrix product.

A float32 product screens all M centers, with a bound on its own error. That bound decides what follows:

* few contenders (small σ, or T = 1 near the data): they are settled in float64, all others are left out;
* many contenders: screened distances serve where the bound, weighted by what each center contributes, keeps weights
  and score within the tolerance; the centers that break it are settled in float64;
* where not even that is enough, all contenders are settled in float64.

Settling is a float64 product over the columns in question, and direct differences for what that would blur.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from smoothscore.distances import SUM_ERROR, Centers, Query
from smoothscore.score.groups import Contribution, Group, Pairs
from smoothscore.score.radial import Radial

RadialAt = Callable[[Query, Tensor], Radial]
Need = Literal["weights", "score", "float64"]

TOLERANCE = 8e-4  # largest bound on a weight's absolute and on the score's relative error that is let pass
_TAIL = 16.0  # contenders hold all but a share of e^−16 of the weight
_EXACT_ROWS = 64  # points settled together: contenders of different points need not overlap
_GUESS = 0.1  # a log-weight that may be off by more than this does not even tell how much a center contributes
_UNDERFLOW = 750.0  # nats below which a float64 weight is 0
_HALVINGS = 8  # steps of the search for what to settle
_DIRECT_SHARE = 1 / 64  # a near center that contributes this much is pulled by its difference, not by a product


class Solver:
    """Weights of all centers at the points of one query; every point is in exactly one of the groups.

    Args:
        centers: the training set.
        query: the points, in float32.
        radial_at: the weight function of the query, from the query and its screened distances.
        need: what has to be within the tolerance, only the weights or the score too; or float64 throughout.
    """

    def __init__(self, centers: Centers, query: Query, radial_at: RadialAt, *, need: Need) -> None:
        self.centers, self.query, self.need = centers, query, need
        self.value = centers.screen(query)
        self.radial = radial_at(query, self.value)
        self.near_sq = (4 * SUM_ERROR * centers.radius / TOLERANCE) ** 2
        self.at_most = (query.offset + self.value.amin(1) + query.slack).clamp_min(torch.finfo(torch.float64).tiny)
        self.contender = torch.empty_like(self.value, dtype=torch.bool)
        self.count = torch.empty_like(query.offset, dtype=torch.int64)
        self.left_out, self.left_pull = torch.empty_like(query.offset), torch.empty_like(query.offset)
        self._look_within(math.log(centers.count) + _TAIL, slice(None))

    def _look_within(self, drop: float, rows: Tensor | slice) -> None:
        """Take as contenders what may have more than e^−drop times the weight of the nearest center."""
        offset, slack = self.query.offset[rows], self.query.slack[rows]
        reach = self.radial.take(rows).reach(self.at_most[rows], drop)
        cut = (reach - offset + slack).to(self.value.dtype)
        self.contender[rows] = self.value[rows] <= cut.nextafter(torch.full_like(cut, torch.inf))[:, None]
        self.count[rows] = self.contender[rows].sum(1)
        left_out = (self.centers.count - self.count[rows]).double() * math.exp(-drop)
        self.left_out[rows] = left_out
        # beyond the reach w_j c_j ‖μ_j − x‖ falls with the distance, and c_j is below its mean C
        self.left_pull[rows] = torch.where(left_out > 0, left_out * reach.sqrt(), 0.0)

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
        if self.need == "score":
            shift = group.mean_shift(self.centers, self.query, group.share)
            pull = torch.linalg.vector_norm(shift, dim=1)
            hit = group.total.squeeze(1) <= torch.finfo(torch.float64).tiny
            enough = hit | (self.left_pull[rows] <= TOLERANCE / 8 * pull)
            group = group._replace(shift=shift).take(enough)
            wanting = rows[~enough]
            if len(wanting):
                self._look_within(_UNDERFLOW, wanting)
                yield self._settled(wanting)
        yield group

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
        slope = radial(base, distance_sq - base).slope
        blurred = (slack * slope > TOLERANCE / 8) | (slack > TOLERANCE / 512 * distance_sq)
        row, column = (blurred & self.contender[rows][:, columns]).nonzero(as_tuple=True)
        distance_sq[row, column] = self.centers.distance_sq(self.query, rows[row], columns[column])
        return distance_sq, slack, (row, column)

    def _screened(self, rows: Tensor) -> Iterator[Group]:
        """Use screened distances, mended where they break the tolerance; rows where that fails are in no group."""
        columns, value = self._candidates(rows)
        query, radial = self.query.take(rows), self.radial.take(rows)
        floor = value.amin(1, keepdim=True)
        base, excess = (query.offset[:, None] + floor).clamp_min_(0), value.sub_(floor)
        found = Contribution.of(radial, base, excess, query.slack[:, None])
        # Bounds before the score is known: v spreads no wider than √Σ v_j ‖μ_j‖², and its mean can be no nearer to x
        # than that allows.
        norm, radius = query.offset.sqrt(), self._mean_square_norm(found.share, columns).sqrt()
        worst, largest = found.error.amax(1), found.weights.amax(1)
        typical = worst * self.centers.slack(norm, radius, value.dtype) / query.slack
        spread = (
            (radius / (norm - radius).clamp_min(0)).clamp_max(1) if self.need == "score" else torch.zeros_like(norm)
        )
        weight_error = largest * (1 - largest) * (worst + typical)
        fine = (worst <= _GUESS) & (weight_error <= TOLERANCE)
        fine &= typical * (spread + found.loose * (self.need == "score")) <= TOLERANCE
        if bool(fine.any()):
            near = self._direct(base[fine], excess[fine], found.share[fine])
            group = Group(rows[fine], columns, *found.take(fine)[:3], near, self.left_out[rows[fine]])
            yield self._within(group, weight_error[fine], typical[fine], typical[fine], found.loose[fine])
        rest = ~fine
        if bool(rest.any()):
            budget = TOLERANCE / 2 / torch.maximum(largest, torch.maximum(spread, found.loose))
            yield from self._mended(rows[rest], columns, base[rest], excess[rest], found.take(rest), budget[rest])

    def _mended(
        self, rows: Tensor, columns: Tensor | None, base: Tensor, excess: Tensor, found: Contribution, budget: Tensor
    ) -> Iterator[Group]:
        """Settle what brings the errors, weighted by what each center contributes, within the budget [b]."""
        contender = self.contender[rows]
        contender = contender if columns is None else contender[:, columns]
        contributed = torch.maximum(found.weights, found.share) * found.error
        heavy = (contributed > _threshold(contributed, budget)) | (found.error > _GUESS) | (excess == 0)
        heavy &= contender
        kept = heavy.sum(1) <= self.count[rows] // 2  # else it is as well to settle all
        if not bool(kept.any()):
            return
        rows, base, excess, heavy = rows[kept], base[kept], excess[kept], heavy[kept]
        radial = self.radial.take(rows)
        settled = heavy.any(0).nonzero().squeeze(1)
        exact_sq, _, _ = self._settle(rows, settled if columns is None else columns[settled], radial)
        rest = base + excess.index_fill(1, settled, torch.inf).amin(1, keepdim=True)
        nearest = torch.minimum(exact_sq.amin(1, keepdim=True), rest.clamp_min(0))
        excess = excess + (base - nearest).to(excess.dtype)
        excess[:, settled] = (exact_sq - nearest).to(excess.dtype)
        found = Contribution.of(radial, nearest, excess, self.query.slack[rows, None])
        error = found.error.expand_as(excess).index_fill(1, settled, 0)
        mean = (torch.maximum(found.weights, found.share) * error).sum(1)
        root_mean_square = (found.share * error.square()).sum(1).sqrt()
        near = self._direct(nearest, excess, found.share)
        group = Group(rows, columns, *found[:3], near, self.left_out[rows])
        yield self._within(group, mean * found.weights.amax(1), mean, root_mean_square, found.loose)

    def _within(
        self, group: Group, weight_error: Tensor, mean: Tensor, root_mean_square: Tensor, loose: Tensor
    ) -> Group:
        """Those rows of a group that are within the tolerance, given bounds on mean errors of ln w and ln c, [b].

        Errors δ_j of ln w_j move the score C (μ_v − x), μ_v = Σ v_j μ_j, by C Σ v_j (δ_j − δ̄)(μ_j − μ_v), at most
        their root mean square times the spread of v, and by what v ≠ w leaves of their mean.
        """
        if self.need == "weights":
            return group.take(weight_error <= TOLERANCE)
        shift = group.mean_shift(self.centers, self.query, group.share)
        distance = torch.linalg.vector_norm(shift, dim=1)
        mean_sq = (shift + self.query.point[group.rows] - self.centers.middle.to(shift.device)).square().sum(1)
        square = self._mean_square_norm(group.share, group.columns)
        spread = (square - mean_sq).clamp_min(0).sqrt()
        far = square.clone()
        row, column = group.near
        norm_sq = self.centers.norm_sq.to(far.device)[group.center_of(column)]
        far.index_add_(0, row, -group.share[row, column] * norm_sq)
        moved = root_mean_square * spread + SUM_ERROR * far.clamp_min(0).sqrt() + self.left_pull[group.rows]
        moved = moved / distance + mean * loose
        return group._replace(shift=shift).take((moved <= TOLERANCE) & (weight_error <= TOLERANCE))

    def _candidates(self, rows: Tensor) -> tuple[Tensor | None, Tensor]:
        """Columns that are a contender to any row, None for all, and a copy of their screened values."""
        columns = self.contender[rows].any(0).nonzero().squeeze(1)
        value = self.value[rows]
        return (None, value) if len(columns) > self.centers.count // 2 else (columns, value[:, columns])

    def _mean_square_norm(self, share: Tensor, columns: Tensor | None) -> Tensor:
        """Σ_j v_j ‖μ_j − middle‖², float64 [b]."""
        norm_sq = self.centers.norm_sq.to(share.device)
        return (share @ (norm_sq if columns is None else norm_sq[columns]).to(share.dtype)).double()

    def _direct(self, base: Tensor, excess: Tensor, share: Tensor) -> Pairs:
        """Centers so near, and contributing so much, that float32 sums would not give their difference from x."""
        row, column = (share > _DIRECT_SHARE).nonzero(as_tuple=True)
        near = base[row, 0] + excess[row, column] < self.near_sq
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
