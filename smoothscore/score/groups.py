"""Exact weights of all centers at a block of points, for about the cost of one float32 matrix product.

A float32 product screens all M centers, with a bound on its own error. What follows is decided by that bound:

* few contenders (small σ, or T = 1 near the data): their distances are recomputed in float64, the rest is left out;
* many contenders, float32 good enough (large σ or T): all that is needed is there, near centers are settled apart;
* many contenders, float32 not good enough: a float64 product over all contenders.

In float64 too, what is too near for a product is settled by direct differences.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import SUM_ERROR, Centers, Query
from smoothscore.score.radial import Radial

RadialAt = Callable[[Query, Tensor], Radial]

_TAIL = 16.0  # contenders hold all but a share of e^−16 of the weight
_EXACT_ROWS = 64  # points settled together: their contenders overlap or not, so more would only waste products
_NEAR_PAIRS = 64  # centers per point that are settled directly in the float32 path; more go to float64
_LOG_ERROR = 1e-2  # largest error of a log-weight that the float32 path looks at
_COEFFICIENT_ERROR = 2e-4  # and of ln c
_TOLERANCE = 5e-4  # largest bound on a weight's absolute and the score's relative error that it may return
_SETTLED_LOG_ERROR = 1e-4  # what float64 products may add
_SETTLED_DISTANCE_ERROR = 1e-6


class Group(NamedTuple):
    """Points that were settled alike, and the weights of the centers that matter to any of them."""

    rows: Tensor  # [b] rows of the block of points
    columns: Tensor | None  # [U] centers, None: all of them
    weights: Tensor  # [b, U] float64
    coefficient: Tensor  # [b, U] or [b, 1] float64, c of `Profile`
    near_row: Tensor  # [P] pairs that a product would blur: position in rows …
    near_column: Tensor  # [P] … and position in columns
    left_out: Tensor  # [b] bound on the weight of all centers that were left out
    precise: bool  # float64, or float32 within its bound
    pull: Tensor | None  # [b, d] Σ_j w_j c_j (μ_j − x), where the check of the bound needed it already


def settle(centers: Centers, query: Query, radial_at: RadialAt, *, for_score: bool) -> Iterator[Group]:
    """Weights of all centers at the points of `query`; every point is in exactly one of the groups.

    Args:
        centers: the training set.
        query: the points, float32.
        radial_at: gives the weight function of the query, from the query and its screened distances.
        for_score: whether the score has to be within its bound too, or only the weights.
    """
    value = centers.screen(query)
    radial = radial_at(query, value)
    drop = math.log(centers.count) + _TAIL
    at_most = (query.offset + value.amin(1) + query.slack).clamp_min(torch.finfo(torch.float64).tiny)
    cut = radial.reach(at_most, drop) - query.offset + query.slack
    contender = value <= cut.to(value.dtype).nextafter(torch.full_like(value[:, 0], torch.inf))[:, None]
    count = contender.sum(1)
    left_out = (centers.count - count) * math.exp(-drop)
    few = count <= 32 + centers.count // 256
    for rows in _pieces(few, _EXACT_ROWS):
        yield _exact(centers, query, radial, contender, rows, left_out)
    for rows in _pieces(~few, centers.query_rows(bytes_per_pair=96)):
        group = _float32(centers, query, radial, value, contender, rows, left_out, for_score)
        if len(group.rows):
            yield group
        failed = rows[torch.isin(rows, group.rows, invert=True)]
        if len(failed):
            yield _exact(centers, query, radial, contender, failed, left_out)


def combine(centers: Centers, query: Query, group: Group, scale: Tensor) -> Tensor:
    """Σ_j scale_j (μ_j − x) for scale [b, U] float64: products for far centers, differences for near ones; [b, d]."""
    row, column = group.near_row, group.near_column
    far = scale.clone()
    far[row, column] = 0
    centred = query.point[group.rows] - centers.middle.to(scale.device)
    # one scale per row, so that float32 neither over- nor underflows
    size = far.amax(1, keepdim=True).clamp_min(torch.finfo(scale.dtype).tiny)
    share = far.div_(size).to(torch.float64 if group.precise else torch.float32)
    total = centers.weighted_sum(share, group.columns)
    total -= share.sum(1, dtype=torch.float64, keepdim=True) * centred
    total *= size
    step = max(1, centers.memory_budget // (24 * centers.dim))
    for r, c in zip(torch.split(row, step), torch.split(column, step), strict=True):
        center = c if group.columns is None else group.columns[c]
        total.index_add_(0, r, scale[r, c, None] * centers.differences(query, group.rows[r], center))
    return total


def _pieces(chosen: Tensor, size: int) -> Iterator[Tensor]:
    rows = chosen.nonzero().squeeze(1)
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _exact(centers: Centers, query: Query, radial: Radial, contender: Tensor, rows: Tensor, left_out: Tensor) -> Group:
    contender = contender[rows]
    columns = contender.any(0).nonzero().squeeze(1)
    contender = contender[:, columns]
    precise = centers.ready(query.point[rows], torch.float64)
    radial = radial.take(rows)
    distance_sq = (centers.screen(precise, columns) + precise.offset[:, None]).clamp_min_(0)
    slack = precise.slack[:, None]
    blurred = (slack * radial(distance_sq).slope > _SETTLED_LOG_ERROR) | (slack > _SETTLED_DISTANCE_ERROR * distance_sq)
    row, column = (contender & blurred).nonzero(as_tuple=True)
    distance_sq[row, column] = centers.distance_sq(query, rows[row], columns[column])
    profile = radial(distance_sq)
    weights = profile.log_weight.softmax(1)
    return Group(rows, columns, weights, profile.coefficient, row, column, left_out[rows], True, None)


def _float32(
    centers: Centers,
    query: Query,
    radial: Radial,
    value: Tensor,
    contender: Tensor,
    rows: Tensor,
    left_out: Tensor,
    for_score: bool,
) -> Group:
    """The group of those rows for which screened distances are good enough: perhaps none of them."""
    contender = contender[rows]
    columns: Tensor | None = contender.any(0).nonzero().squeeze(1)
    value = value[rows]
    if columns is None or len(columns) > centers.count // 2:
        columns = None
    else:
        contender, value = contender[:, columns], value[:, columns]
    query_rows, radial = query.take(rows), radial.take(rows)
    slack = query_rows.slack[:, None]
    distance_sq = (value + query_rows.offset[:, None]).clamp_min_(0)
    profile = radial(distance_sq)
    blurred = (slack * profile.slope > _LOG_ERROR) | (slack * profile.bend > _COEFFICIENT_ERROR)
    blurred = contender & blurred
    good = blurred.sum(1) <= _NEAR_PAIRS
    row, column = (blurred & good[:, None]).nonzero(as_tuple=True)
    distance_sq[row, column] = centers.distance_sq(query_rows, row, column if columns is None else columns[column])
    log_error, coefficient_error = (
        slack.squeeze(1) * torch.where(contender & ~blurred, rate, 0.0).amax(1) for rate in profile[2:]
    )
    profile = radial(distance_sq)
    weights = profile.log_weight.softmax(1)
    group = Group(rows, columns, weights, profile.coefficient, row, column, left_out[rows], False, None)
    largest = weights.amax(1)
    good &= 2 * log_error * largest * (1 - largest) <= _TOLERANCE
    if for_score:
        pull, score_error = _checked_pull(centers, query, group, log_error, coefficient_error)
        group = group._replace(pull=pull)
        good &= score_error <= _TOLERANCE
    return _only(group, good)


def _checked_pull(
    centers: Centers, query: Query, group: Group, log_error: Tensor, coefficient_error: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ_j w_j c_j (μ_j − x) [b, d] with a bound on its relative error [b], given those of ln w and ln c.

    With v_j ∝ w_j c_j and mean μ_v = Σ v_j μ_j the score is C (μ_v − x), and errors δ_j of ln w_j move it by
    C Σ v_j (δ_j − δ̄)(μ_j − μ_v), at most their size times the spread of v, and by Σ (v_j − w_j) δ_j of itself.
    """
    scale = group.weights * group.coefficient
    total = scale.sum(1, keepdim=True).clamp_min(torch.finfo(scale.dtype).tiny)
    pull = combine(centers, query, group, scale)
    share = scale.div_(total)
    norm_sq = centers.norm_sq.to(share.device)
    second_moment = share @ (norm_sq if group.columns is None else norm_sq[group.columns])
    shift = pull / total
    mean = shift + query.point[group.rows] - centers.middle.to(shift.device)
    distance = torch.linalg.vector_norm(shift, dim=1)
    spread = (second_moment - mean.square().sum(1)).clamp_min(0).sqrt()
    imbalance = (share - group.weights).abs().sum(1)
    summation = SUM_ERROR * second_moment.sqrt() / distance
    relative_spread = spread / distance
    error: Tensor = log_error * (relative_spread + imbalance) + coefficient_error * (1 + relative_spread) + summation
    return pull, error


def _only(group: Group, kept: Tensor) -> Group:
    """The group of those rows that are kept, bool [b]."""
    if bool(kept.all()):
        return group
    pairs = kept[group.near_row]
    return group._replace(
        rows=group.rows[kept],
        weights=group.weights[kept],
        coefficient=group.coefficient[kept],
        near_row=(kept.cumsum(0) - 1)[group.near_row[pairs]],
        near_column=group.near_column[pairs],
        left_out=group.left_out[kept],
        pull=None if group.pull is None else group.pull[kept],
    )
