"""The training images that samples lie nearest to, for any number of samples, block by block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers, Query, full_precision
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, check_same_shape, unique_rows

_SPARE = 8  # places beyond k, among which the nearest is settled
_COARSE = 2e-3  # a squared distance whose relative error may exceed this is computed anew from differences
_KEEP = 2**30  # bytes of a centered copy of the training images that saves converting them for every block
_UNIT = 2.0**-24
_SURE = 6  # n rounding errors add up to less than this times √n of them, with all but certainty (Higham & Mary 2019)


class Matches(NamedTuple):
    """The first stage for some samples.

    Attributes:
        index: int64 [n, m], rows of the m nearest training images, nearest first; of duplicates the lowest row.
        distance: float32 [n, m], ℓ_j = ‖x − μ_j‖/√d.
        score: float32 [n], ℓ_1/mean(ℓ_2 … ℓ_k).
        flipped: bool [n], the sample mirrored left to right is nearer, and the other fields speak of it.
    """

    index: Tensor  # type: ignore[assignment]
    distance: Tensor
    score: Tensor
    flipped: Tensor


class Matcher:
    """The first stage, with the training images made ready for many blocks of samples.

    Args:
        train: [M, *S], uint8 (meaning value/255) or floating point, at least three of them distinct; exact duplicates
            count once.
        neighbors: k ≥ 3 of the score, at most the number of distinct training images.
        flips: compare with the training images mirrored left to right too.
        shown: m ≤ k, how many of the nearest are returned.
        memory_budget: bytes of working memory beyond the images and a copy of them of at most 1 GiB.

    Attributes:
        rows: rows of ``train`` that are compared with, int64 [U], ascending.

    Raises:
        UserError: an option out of range, too few images, or a NaN (its row is named).
    """

    def __init__(
        self,
        train: Tensor,
        *,
        neighbors: int = 50,
        flips: bool = False,
        shown: int = 5,
        memory_budget: int = 2**28,
    ) -> None:
        check_rows("train", train, at_least=3)
        self.rows = unique_rows(train)
        self.neighbors = min(neighbors, len(self.rows))
        if self.neighbors < 3:
            raise UserError(
                f"neighbors is {neighbors} and train has {len(self.rows)} different images, but the score compares the "
                "nearest with at least two others: give 3 or more of both."
            )
        self.flips = flips
        self.shown = min(shown, self.neighbors)
        self._memory_budget = memory_budget
        images = train[self.rows] if len(self.rows) < len(train) else train
        self._centers = Centers(images, memory_budget=memory_budget, keep=_KEEP)

    def match(self, samples: Tensor) -> Matches:
        """Score samples [n, *S].

        Raises:
            UserError: another shape than the training images, or a NaN (its row is named).
        """
        check_rows("samples", samples)
        check_same_shape("samples", samples, "train", self._centers.shape)
        step = max(1, self._memory_budget // (5 * self._centers.count + 24 * self._centers.dim))
        parts = [self._match(part) for part in torch.split(samples, step)]
        return Matches(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    @torch.no_grad()
    def _match(self, samples: Tensor) -> Matches:
        square, column = self._nearest(samples)
        flipped = torch.zeros(len(samples), dtype=torch.bool, device=square.device)
        if self.flips:
            other_square, other_column = self._nearest(samples.flip(-1))
            flipped = other_square[:, 0] < square[:, 0]
            square = torch.where(flipped[:, None], other_square, square)
            column = torch.where(flipped[:, None], other_column, column)
        distance = (square / self._centers.dim).sqrt()
        others = distance[:, 1:].mean(1)
        score = torch.where(others > 0, distance[:, 0] / others, 1.0)
        index = self.rows.to(column.device)[column[:, : self.shown]]
        return Matches(index, distance[:, : self.shown].float(), score.float(), flipped)

    def _nearest(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Squared distances, float64, and indexes [n, k]; the first is settled directly, the others to ``_COARSE``."""
        centers, k = self._centers, self.neighbors
        query, value = self._screen(samples)
        screened, column = value.topk(min(centers.count, k + _SPARE), largest=False)
        square = (query.offset[:, None] + screened).clamp(min=0)
        slack = query.slack[:, None]
        rival = square <= square[:, :1] + 2 * slack  # may be the nearest
        row, place = (rival | (slack > _COARSE * square)).nonzero(as_tuple=True)
        square[row, place] = centers.distance_sq(query, row, column[row, place])
        column, order = column.sort(dim=1)  # so that the stable sort below leaves ties at the lower index
        square, order = square.gather(1, order).sort(dim=1, stable=True)
        square, column = square[:, :k], column.gather(1, order)[:, :k]
        crowded = rival[:, -1].nonzero().flatten()  # more may be the nearest than were settled
        if len(crowded) and rival.shape[1] < centers.count:
            square[crowded], column[crowded] = centers.nearest_among(query.take(crowded), value[crowded], k)
        return square, column

    def _screen(self, samples: Tensor) -> tuple[Query, Tensor]:
        """As `Centers.screen`; without bytes at the pace of one product and with the error it has in all likelihood.

        Products of short blocks, which keep the worst case small, take a third longer. Here a wrong order changes a
        mean of k distances by one part in a thousand at most, so that the likely error is enough to go by.
        """
        centers = self._centers
        query = centers.query(samples)
        if centers.bytes is not None:
            return query, centers.screen(query)
        device = query.centered.device
        value = torch.empty(len(samples), centers.count, device=device)
        norm_sq = centers.norm_sq.float().to(device)
        with full_precision(device):
            for start, rows in centers.chunks(device, torch.float32):
                span = slice(start, start + len(rows))
                torch.addmm(norm_sq[span], query.centered, rows.T, alpha=-2, out=value[:, span])
        norm, radius = query.offset.sqrt(), centers.radius
        size = norm + radius + 2 * float(centers.middle.double().norm())  # of numbers before centering
        slack = _UNIT * (_SURE * centers.dim**0.5 * (2 * norm + radius) * radius + 8 * size**2)
        return query._replace(slack=slack), value


def mirrored(images: Tensor, flipped: Tensor) -> Tensor:
    """Images [n, *S], those with ``flipped`` bool [n] mirrored left to right."""
    chosen = flipped.to(images.device).view(-1, *[1] * (images.ndim - 1))
    return torch.where(chosen, images.flip(-1), images)
