"""The centers as matrices: centered, in the precision that a product wants, a chunk or a copy at a time."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances.precision import decode, full_precision
from smoothscore.distances.signed import MIDDLE, MOST_DIGITS, SignedBytes, multiplies_bytes, rounding
from smoothscore.errors import UserError

_LEAST_BYTES = 2**20  # values of the data from which a copy in bytes is worth its while
_MEAN_ROWS = 1024  # rows that the centering is estimated from: any fixed point is right, a central one is tighter
_LARGEST_NORM = 1e15  # squares stay far from float32's overflow


class Sum(NamedTuple):
    """A way to sum over centers."""

    digits: int  # of the weights, which bytes multiply; 0: in floating point
    block: int = 0  # centers inside one product of floating point: 4096 are 12 % faster than 1024, and less exact


FLOATING = Sum(0, 1024)
SUM_ERROR = (FLOATING.block + 4) * 2.0**-24  # relative to Σ_j |w_j| ‖μ_j − middle‖


class CenteredRows:
    """Centers less their middle; norms and middle are computed once.

    Args:
        data: centers [M, *S], float, or uint8 meaning value/255; on any device. It is held by reference.
        memory_budget: bytes of working memory that a call may use beyond its arguments and answer.
        keep: bytes that a centered copy of the data may take: of 8-bit images one in bytes, where the device multiplies
            them fast, else one in float32. Without it every pass over the centers centres them again, a chunk at a
            time. By default none is kept.

    Raises:
        UserError: no rows, no values per row, or a row that is NaN or infinite.
    """

    def __init__(self, data: Tensor, *, memory_budget: int = 2**28, keep: int = 0) -> None:
        if data.ndim < 2 or data.numel() == 0:
            raise UserError(f"The data has shape {list(data.shape)}: give at least one row, as [M, *shape].")
        self.shape = data.shape[1:]
        self.data = data.detach().flatten(1)
        self.count, self.dim = self.data.shape
        self.memory_budget = memory_budget
        size = self.data.numel()
        bytewise = _LEAST_BYTES <= size <= keep and multiplies_bytes(self.data.device)
        self.bytes = SignedBytes.of(self.data) if bytewise else None
        if self.bytes is None:
            stride = -(-self.count // _MEAN_ROWS)
            self.middle = decode(self.data[::stride]).to(torch.float32).mean(0)
            if not bool(self.middle.isfinite().all()):  # a bad row would hide the others' norms
                self.middle = torch.zeros_like(self.middle)
        else:
            self.middle = decode(torch.full((self.dim,), MIDDLE, dtype=torch.uint8, device=self.data.device))
        self._kept: Tensor | None = None
        if self.bytes is None and 4 * size <= keep:
            self._kept = self._copy()
        # of the centered rows; float64 since it is added to a product that nearly cancels it
        self.norm_sq = torch.empty(self.count, dtype=torch.float64, device=self.data.device)
        for start, rows in self.chunks(self.data.device, torch.float32):
            self.norm_sq[start : start + len(rows)] = self._norm_sq(rows)
        check_rows(self.norm_sq.sqrt(), "data")
        self.radius = float(self.norm_sq.max()) ** 0.5
        self._size = self.radius + 2 * float(self.middle.double().norm())  # bounds ‖μ‖ + ‖middle‖

    def sums(self, device: torch.device) -> tuple[Sum, ...]:
        """The ways to sum over centers on a device, ever slower and more exact."""
        if self.bytes is not None and self.bytes.rows.device == device:
            return tuple(Sum(digits) for digits in range(2, MOST_DIGITS + 1))
        return Sum(0, 4096), FLOATING

    def sum_error(self, way: Sum, weights: Tensor, columns: Tensor | None, far: Tensor) -> Tensor:
        """Bound the error of `weighted_sum`, float64 [B], for weights ≥ 0 and far = Σ_j w_j ‖μ_j − middle‖ [B]."""
        if not way.digits:
            return (way.block + 4) * 2.0**-24 * far
        norm = self.norm_sq.sqrt() if columns is None else self.norm_sq[columns].sqrt()
        # of the weights, and of u/255 and 128/255 as float32 numbers, whose difference the others see
        largest = weights.amax(1).double() * rounding(way.digits) * norm.sum().to(far.device)
        error: Tensor = largest + 2.0**-23 * (far + self._size * weights.sum(1, dtype=torch.float64))
        return error

    def weighted_sum(self, weights: Tensor, columns: Tensor | None = None, *, way: Sum = FLOATING) -> Tensor:
        """Sum the centered centers, Σ_j w_j (μ_j − middle), for weights [B, U] in their precision: float64 [B, d]."""
        if way.digits:
            assert self.bytes is not None
            return self.bytes.weighted_sum(weights, columns, digits=way.digits)
        device = weights.device
        total = torch.zeros(len(weights), self.dim, dtype=torch.float64, device=device)
        kept = self._copy_for(device, weights.dtype) if columns is None else None
        for start, rows in [(0, kept)] if kept is not None else self.chunks(device, weights.dtype, columns):
            for first in range(0, len(rows), way.block):
                part = rows[first : first + way.block]
                with full_precision(device):
                    total += weights[:, start + first : start + first + len(part)] @ part
        return total

    def _copy_for(self, device: torch.device, dtype: torch.dtype) -> Tensor | None:
        """The kept copy in float32, where it is what is wanted."""
        kept = self._kept
        return kept if kept is not None and dtype == torch.float32 and device == kept.device else None

    def chunks(
        self, device: torch.device, dtype: torch.dtype, columns: Tensor | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Centered rows in `dtype`, a chunk at a time: kept ones, or a buffer that stays in the processor's cache."""
        count = self.count if columns is None else len(columns)
        kept = self._copy_for(device, dtype) if columns is None else None
        if kept is not None:
            # on a CPU, so many that the products with them stay in the cache
            step = max(1, (2**22 if device.type == "cpu" else 2**25) // self.dim)
            for start in range(0, count, step):
                yield start, kept[start : start + step]
            return
        most = 2**21 if device.type == "cpu" else 2**25
        step = max(1, min(most, self.memory_budget // 16) // self.dim)
        buffer = torch.empty(min(step, count), self.dim, dtype=dtype, device=device)
        middle = self.middle.to(device)
        for start in range(0, count, step):
            span = slice(start, start + step)
            rows = self.data[span if columns is None else columns[span].to(self.data.device)].to(device)
            centered = buffer[: len(rows)]
            if rows.dtype == torch.uint8 and dtype == torch.float32:
                yield start, centered.copy_(rows).div_(255).sub_(middle)
            elif rows.dtype == dtype:
                yield start, torch.sub(rows, middle, out=centered)
            else:  # float64 has to see the float32 quotient that direct differences see
                yield start, centered.copy_(decode(rows)).sub_(middle)

    def _copy(self) -> Tensor:
        """All centered rows in float32."""
        copy = torch.empty(self.data.shape, dtype=torch.float32, device=self.data.device)
        for start, rows in self.chunks(self.data.device, torch.float32):
            copy[start : start + len(rows)] = rows
        return copy

    def _norm_sq(self, rows: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return norm.square_()


def check_rows(norm: Tensor, name: str) -> None:
    """Raise for the first row whose norm is not a usable number: the one look at the values that we need."""
    bad = ~(norm < _LARGEST_NORM)
    if bool(bad.any()):
        raise UserError(
            f"Row {int(bad.nonzero()[0])} of {name} holds NaN, infinite or overly large values "
            f"(norm {float(norm[bad][0])}): remove or mend it, pixels are expected in [0, 1]."
        )
