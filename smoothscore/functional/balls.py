"""Balls that reach from a point to its k-th nearest neighbor: a set of points taken as the region that it fills."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, check_same_shape

_ROUNDED = 4e-7  # relative, of a squared distance whose root was rounded to float32 once


class Held(NamedTuple):
    """Which points lie in which balls.

    Attributes:
        balls: how many balls hold each point, [n], int64.
        hit: whether each ball holds any point, [M], bool.
    """

    balls: Tensor
    hit: Tensor


class Balls:
    """A closed ball around each row of ``rows`` whose radius is the distance to its k-th nearest other row.

    Args:
        name: what errors call ``rows``.
        rows: [M, *S], uint8 (meaning value/255) or floating point.
        k: which neighbor a ball reaches, 1 ≤ k < M.

    Attributes:
        name: as given.
        rows: as given; held by reference.
        k: as given.
        radius: [M], float32.

    Raises:
        UserError: k out of range, or a NaN (its row is named).

    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), Sec. 2.
    """

    def __init__(self, name: str, rows: Tensor, k: int) -> None:
        check_rows(name, rows)
        if not 1 <= k < len(rows):
            raise UserError(
                f"k is {k}, but {name} has {len(rows)} row(s), so a row has {len(rows) - 1} neighbor(s): "
                "choose k between 1 and that, or give more images."
            )
        self.name = name
        self.rows = rows
        self.k = k
        self._centers = Centers(rows)
        # The row itself is one of the k + 1 nearest, at 0, whichever place ties give it.
        self.radius = self._centers.nearest(rows, k + 1).distance[:, k].clone()

    def hold(self, name: str, points: Tensor) -> Held:
        """Count the balls that hold each of ``points`` [n, *S], in bounded memory.

        Raises:
            UserError: no points, another shape than the rows, or a NaN (its row is named).
        """
        check_rows(name, points)
        check_same_shape(name, points, self.name, self._centers.shape)
        limit = self.radius.double().square()
        balls, hit = [], torch.zeros_like(limit, dtype=torch.bool)
        for part in torch.split(points, self._centers.query_rows(32)):
            query = self._centers.query(part)
            apart = self._centers.screen(query).double() + query.offset[:, None] - limit
            doubt = query.slack[:, None] + _ROUNDED * limit
            inside = apart < -doubt
            # What screening leaves open is compared as the radii were computed: a tie is inside on every machine.
            row, column = ((apart <= doubt) & ~inside).nonzero(as_tuple=True)
            distance = self._centers.distance_sq(query, row, column).sqrt().float()
            inside[row, column] = distance <= self.radius[column]
            balls.append(inside.sum(1))
            hit |= inside.any(0)
        return Held(torch.cat(balls), hit)
