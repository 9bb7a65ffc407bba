"""Which centers may matter to a block of points, by one product with all of them."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from smoothscore.distances import Centers, Query
from smoothscore.score.radial import Radial

RadialAt = Callable[[Query, Tensor], Radial]
Need = Literal["weights", "score", "mean", "float64"]

_TAIL = 16.0  # contenders hold all but a share of e^−16 of the weight


class Contenders:
    """The centers that may hold more than a share of e^−16 of the weight of any point of one query.

    Args:
        centers: the training set.
        query: the points, in float32.
        radial_at: the weight function of the query, from the query and its screened distances.
        need: what has to be within the tolerance: the weights, the score too, or float64 throughout; "mean" is the
            score and the mean of the centers, not only their difference from x, with the accuracy of float32.
    """

    def __init__(self, centers: Centers, query: Query, radial_at: RadialAt, *, need: Need) -> None:
        self.centers, self.query, self.need = centers, query, need
        self.value = centers.screen(query)
        self.radial = radial_at(query, self.value)
        self.at_most = at_most(query, self.value)
        self.contender = torch.empty_like(self.value, dtype=torch.bool)
        self.count = torch.empty_like(query.offset, dtype=torch.int64)
        self.left_out, self.left_pull = torch.empty_like(query.offset), torch.empty_like(query.offset)
        self._look_within(self._drop, slice(None))

    @property
    def _drop(self) -> float:
        """Nats below the nearest center's weight beyond which all others together hold no more than e^−16."""
        return math.log(self.centers.count) + _TAIL

    def _look_within(self, drop: float, rows: Tensor | slice) -> None:
        """Take as contenders what may have more than e^−drop times the weight of the nearest center."""
        reach = self.radial.take(rows).reach(self.at_most[rows], drop)
        self.contender[rows] = within(self.query.take(rows), self.value[rows], reach)
        self.count[rows] = self.contender[rows].sum(1)
        left_out = (self.centers.count - self.count[rows]).double() * math.exp(-drop)
        self.left_out[rows] = left_out
        # beyond the reach w_j c_j ‖μ_j − x‖ falls with the distance, and c_j is below its mean C
        self.left_pull[rows] = torch.where(left_out > 0, left_out * reach.sqrt(), 0.0)


def of_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Some rows, ascending; without a copy where they are all."""
    return values if len(rows) == len(values) else values[rows]


def at_most(query: Query, value: Tensor) -> Tensor:
    """Bound on the squared distance of the nearest center, above 0, [B]."""
    return (query.offset + value.amin(1) + query.slack).clamp_min(torch.finfo(torch.float64).tiny)


def within(query: Query, value: Tensor, reach: Tensor) -> Tensor:
    """Which screened values may stand for squared distances up to reach [B]: bool like value."""
    cut = (reach - query.offset + query.slack).to(value.dtype)
    return value <= cut.nextafter(torch.full_like(cut, torch.inf))[:, None]
