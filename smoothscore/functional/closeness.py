"""How near samples are to their nearest training image, by the measure of the held-out images around them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.functional.rows import check_rows, check_same_shape

_FLOOR = 0.01  # of d/s: what is nearer is a copy, however near
_AROUND = 10  # images of both kinds that a nearest one is compared with
_TINY = torch.finfo(torch.float32).tiny


class _Line(NamedTuple):
    """T ≈ start + slope · log s, and how far it is off."""

    start: float
    slope: float
    deviation: float

    @classmethod
    def fit(cls, t: Tensor, log_scale: Tensor) -> _Line:
        spread = log_scale - log_scale.mean()
        square = float(spread.square().sum())
        slope = float((spread * t).sum()) / square if square > 0 else 0.0
        start = float(t.mean() - slope * log_scale.mean())
        deviation = float((t - start - slope * log_scale).std())
        return cls(start, slope, deviation if deviation > 0 else 1.0)

    def z(self, t: Tensor, log_scale: Tensor) -> Tensor:
        return (t - self.start - self.slope * log_scale) / self.deviation


class Space:
    """Training and held-out images in pixels, or in one feature space, made ready for :func:`excess_copies`.

    T(x) = log max(d(x)/s(x), 1/100), with d the distance to the nearest training image and s a scale of what lies
    around x: once the mean distance to the k nearest of the reference images, and once the distance to the second
    nearest training image. z(x) = (T − a − b log s)/deviation, with line and deviation of the reference images
    themselves, each left out of its own s; the lower z of the two is kept.

    Args:
        name: of the space, for errors; may be empty.
        train: [M, *S], uint8 (meaning value/255) or floating point, M ≥ 2.
        held_out: [N, *S], likewise.
        reference: rows of ``held_out`` that measure density, int64 [R], more than k.
        neighbors: k.
        seed: of the order in which ties are broken.

    Raises:
        UserError: fewer than two training images, different shapes, or a NaN (its row is named).
    """

    def __init__(
        self, name: str, train: Tensor, held_out: Tensor, reference: Tensor, neighbors: int, seed: int
    ) -> None:
        self._of = f" ({name})" if name else ""
        check_rows(f"train{self._of}", train, at_least=2)
        check_rows(f"held_out{self._of}", held_out)
        check_same_shape(f"held_out{self._of}", held_out, "train", train.shape[1:])
        self._train, self._held_out = Centers(train), Centers(held_out)
        self._reference, self._neighbors = Centers(held_out[reference]), neighbors
        total = len(train) + len(held_out)
        # Of equally near images the one of the lower key counts, so that ties favor neither side.
        self._key = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(train.device)
        rows = held_out[reference]
        found = self._reference.nearest(rows, neighbors + 1)
        itself = found.index == torch.arange(len(rows), device=found.index.device)[:, None]
        # Where others are as near, the row itself need not be among them; the last one then makes room.
        itself[~itself.any(1), -1] = True
        density = found.distance.double()[~itself].view(len(rows), neighbors).mean(1)
        two = self._train.nearest(rows, 2).distance
        self._lines = [_Line.fit(*pair) for pair in self._relative(two, density)]

    def z(self, rows: Tensor) -> Tensor:
        """Find z of every row, float64 [n]."""
        return self._z(rows, self._train.nearest(rows, 2).distance)

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
        return self._z(rows, sides[0].distance), sides[0].index[:, 0], index[:, 0], weight

    def _z(self, rows: Tensor, distance: Tensor) -> Tensor:
        density = self._reference.nearest(rows, self._neighbors).distance.double().mean(1)
        pairs = zip(self._lines, self._relative(distance, density), strict=True)
        return torch.stack([line.z(*pair) for line, pair in pairs]).amin(0)

    def _relative(self, distance: Tensor, density: Tensor) -> list[tuple[Tensor, Tensor]]:
        """T and log s for both scales; where s is 0, it is as small as float32 knows."""
        scales = [scale.double().clamp_min(_TINY) for scale in (density, distance[:, 1])]
        return [((distance[:, 0].double() / scale).clamp_min(_FLOOR).log(), scale.log()) for scale in scales]
