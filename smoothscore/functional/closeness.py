"""How near samples are to their nearest training image, by the measure of the held-out images around them."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.functional.rows import check_rows, check_same_shape

_FLOOR = 0.01  # of d/s: what is nearer is a copy, however near
_AROUND = 10  # images of both kinds that a nearest one is compared with


class Space:
    """Training and held-out images in pixels, or in one feature space, made ready for :func:`excess_copies`.

    T(x) = log max(d(x)/s(x), 1/100), with d the distance to the nearest training image and s the mean distance to the
    k nearest of the reference images; z(x) = (T − a − b log s)/deviation, with line and deviation of the reference
    images themselves, each left out of its own s.

    Args:
        name: of the space, for errors; may be empty.
        train: [M, *S], uint8 (meaning value/255) or floating point.
        held_out: [N, *S], likewise.
        reference: rows of ``held_out`` that measure density, int64 [R], more than k.
        neighbors: k.
        seed: of the order in which ties are broken.

    Raises:
        UserError: different shapes, or a NaN (its row is named).
    """

    def __init__(
        self, name: str, train: Tensor, held_out: Tensor, reference: Tensor, neighbors: int, seed: int
    ) -> None:
        self._of = f" ({name})" if name else ""
        check_rows(f"train{self._of}", train)
        check_rows(f"held_out{self._of}", held_out)
        check_same_shape(f"held_out{self._of}", held_out, "train", train.shape[1:])
        self._train, self._held_out = Centers(train), Centers(held_out)
        self._sparse, self._neighbors = Centers(held_out[reference]), neighbors
        total = len(train) + len(held_out)
        # Of equally near images the one of the lower key counts, so that ties favor neither side.
        self._key = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(train.device)
        rows = held_out[reference]
        found = self._sparse.nearest(rows, neighbors + 1)
        itself = found.index == torch.arange(len(rows), device=found.index.device)[:, None]
        # Where others are as near, the row itself need not be among them; the last one then makes room.
        itself[~itself.any(1), -1] = True
        scale = found.distance.double()[~itself].view(len(rows), neighbors).mean(1)
        t, log_scale = self._relative(self._train.nearest(rows).distance[:, 0], scale)
        spread = log_scale - log_scale.mean()
        square = float(spread.square().sum())
        self._slope = float((spread * t).sum()) / square if square > 0 else 0.0
        self._start = float(t.mean() - self._slope * log_scale.mean())
        deviation = float((t - self._start - self._slope * log_scale).std())
        self._deviation = deviation if deviation > 0 else 1.0

    def z(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Find z of every row, float64 [n], and its nearest training image, int64 [n]."""
        found = self._train.nearest(rows)
        return self._z(rows, found.distance[:, 0]), found.index[:, 0]

    def look(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Find z [n], nearest training image [n], nearest of all images [n], and how much nearer it is [n]."""
        check_rows(f"samples{self._of}", rows)
        check_same_shape(f"samples{self._of}", rows, "train", self._train.shape)
        sides = [side.nearest(rows, min(side.count, _AROUND)) for side in (self._train, self._held_out)]
        distance = torch.cat([side.distance for side in sides], 1).double()
        index = torch.cat([sides[0].index, sides[1].index + self._train.count], 1)
        order = self._key.to(index.device)[index].argsort(1)
        order = order.gather(1, distance.gather(1, order).argsort(dim=1, stable=True))[:, :_AROUND]
        distance, index = distance.gather(1, order), index.gather(1, order)
        mean = distance.mean(1)
        weight = (mean / torch.maximum(distance[:, 0], _FLOOR * mean)).log().nan_to_num(0.0).clamp_min(0)
        return self._z(rows, sides[0].distance[:, 0]), sides[0].index[:, 0], index[:, 0], weight

    def _z(self, rows: Tensor, distance: Tensor) -> Tensor:
        scale = self._sparse.nearest(rows, self._neighbors).distance.double().mean(1)
        t, log_scale = self._relative(distance, scale)
        return (t - self._start - self._slope * log_scale) / self._deviation

    def _relative(self, distance: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """T and log s; among identical images, where s is 0, it is as small as float32 knows."""
        scale = scale.clamp_min(torch.finfo(torch.float32).tiny)
        return (distance.double() / scale).clamp_min(_FLOOR).log(), scale.log()
