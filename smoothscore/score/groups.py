"""What the centers contribute to the score at a point, and the sums over them."""

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers, Query
from smoothscore.distances.rows import FLOATING, Sum
from smoothscore.score.radial import Radial

Pairs = tuple[Tensor, Tensor]  # positions in rows and in columns


class Contribution(NamedTuple):
    """Weights of the centers at given distances, and how far off they may be."""

    weights: Tensor  # [b, U] w
    share: Tensor  # [b, U] v_j = w_j c_j/C, what each center contributes to the score C Σ_j v_j (μ_j − x)
    total: Tensor  # [b, 1] C = Σ_j w_j c_j, float64
    error: Tensor  # [b, U] or [b, 1] bound on the errors of ln w_j and ln c_j together
    loose: Tensor  # [b] the share of a common error that does not cancel in the score: from v ≠ w, and from c

    @classmethod
    def of(cls, radial: Radial, base: Tensor, excess: Tensor, slack: Tensor) -> "Contribution":
        """Evaluate at squared distances base [b, 1] + excess [b, U] that may be off by slack [b, 1]."""
        profile = radial(base, excess)
        weights = profile.log_weight.softmax(1)
        error = slack.to(excess.dtype) * profile.steepness
        loose = profile.bend.nan_to_num(1).amax(1)
        if profile.coefficient.shape[1] == 1:  # one c for all
            return cls(weights, weights, profile.coefficient.double(), error, loose)
        share = weights * profile.coefficient
        total = share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
        share /= total
        return cls(weights, share, total.double(), error, loose + (share - weights).abs_().sum(1))

    def put(self, rows: Tensor, other: "Contribution") -> None:
        """Replace some rows, int64, in place."""
        parts = zip(self, other, strict=True)
        for mine, its in parts if self.share is not self.weights else list(parts)[1:]:  # one c for all: one tensor
            mine[rows] = its


class Group(NamedTuple):
    """Points that were settled alike, and the weights of the centers that matter to any of them."""

    rows: Tensor  # [b] rows of the block of points
    columns: Tensor | None  # [U] centers, None: all of them
    weights: Tensor  # [b, U] w, float64, or float32 within the tolerance
    share: Tensor  # [b, U] v
    total: Tensor  # [b, 1] C, float64
    near: Pairs  # that a product would blur
    left_out: Tensor  # [b] bound on the weight of all centers that were left out
    shift: Tensor | None = None  # [b, d] Σ_j v_j (μ_j − x), where the check of the tolerance needed it already

    def take(self, kept: Tensor) -> "Group":
        """Some of its rows, bool [b]."""
        if bool(kept.all()):
            return self
        row, column = self.near
        pairs = kept[row]
        near = (kept.cumsum(0) - 1)[row[pairs]], column[pairs]
        weights, share, total, left_out = (part[kept] for part in (self.weights, self.share, self.total, self.left_out))
        shift = None if self.shift is None else self.shift[kept]
        return Group(self.rows[kept], self.columns, weights, share, total, near, left_out, shift)

    def center_of(self, column: Tensor) -> Tensor:
        """Index among all centers of positions in columns."""
        return column if self.columns is None else self.columns[column]

    def mean_shift(self, centers: Centers, query: Query, scale: Tensor, way: Sum = FLOATING) -> Tensor:
        """Mean of μ_j − x in proportion to scale [b, U]: products for far centers, differences for near; [b, d]."""
        row, column = self.near
        far = self.far(scale)
        centered = query.point[self.rows] - centers.middle.to(scale.device)
        far_sum = far.sum(1, dtype=torch.float64, keepdim=True)
        result = centers.weighted_sum(far, self.columns, way=way)
        result -= far_sum * centered
        step = max(1, centers.memory_budget // (24 * centers.dim))
        for r, c in zip(torch.split(row, step), torch.split(column, step), strict=True):
            difference = centers.differences(query, self.rows[r], self.center_of(c))
            result.index_add_(0, r, difference.mul_(scale[r, c, None]))
        # float32 weights add up to 1 only nearly, and x may be far away
        total = far_sum.squeeze(1).index_add(0, row, scale[row, column].double())
        return result / total.clamp_min(torch.finfo(torch.float64).tiny)[:, None]

    def far(self, scale: Tensor) -> Tensor:
        """What scale [b, U] gives the centers that a product may sum, 0 for the near ones."""
        row, column = self.near
        if not len(row):
            return scale
        far = scale.clone()
        far[row, column] = 0
        return far
