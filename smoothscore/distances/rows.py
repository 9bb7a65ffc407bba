"""The centers as matrices: centred, in the precision that a product wants, a chunk or a copy at a time."""

from collections.abc import Iterator

import torch
from torch import Tensor

from smoothscore.distances.precision import HALF, HALF_UNIT, decode, full_precision, multiplies_half
from smoothscore.errors import UserError

_SUM_BLOCK, _WIDE_BLOCK = 1024, 4096  # centers summed inside one product: wide is 12 % faster, and less exact
# of sums over centers, relative to Σ_j |w_j| ‖μ_j − middle‖: in float32, in wide blocks of it, and in half precision,
# where weights, centers and result are rounded
SUM_ERROR = (_SUM_BLOCK + 4) * 2.0**-24
WIDE_SUM_ERROR = (_WIDE_BLOCK + 4) * 2.0**-24
ROUGH_SUM_ERROR = 3.1 * HALF_UNIT + WIDE_SUM_ERROR
_LEAST_ROUGH = 2**23  # values of the data from which a copy in half precision is worth its while
_MEAN_ROWS = 1024  # rows that the centring is estimated from: any fixed point is right, a central one is tighter
_LARGEST_NORM = 1e15  # squares stay far from float32's overflow


class CentredRows:
    """Centers less their middle; norms and middle are computed once.

    Args:
        data: centers [M, *S], float, or uint8 meaning value/255; on any device. It is held by reference.
        memory_budget: bytes of working memory that a call may use beyond its arguments and answer.
        keep: bytes that centred copies of the data may take. First comes one in half precision, where the device
            multiplies it faster, for `rough` and `rough_sum`; then one in float32: without it every pass over the
            centers centres them again, a chunk at a time. By default none is kept.

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
        stride = -(-self.count // _MEAN_ROWS)
        self.middle = decode(self.data[::stride]).to(torch.float32).mean(0)
        if not bool(self.middle.isfinite().all()):  # a bad row would hide the others' norms
            self.middle = torch.zeros_like(self.middle)
        self._kept: Tensor | None = None
        half = self.data.numel() >= _LEAST_ROUGH and multiplies_half(self.data.device)
        self._half = self._copy(HALF) if half and 2 * self.data.numel() <= keep else None
        if 4 * self.data.numel() <= keep - (0 if self._half is None else 2 * self.data.numel()):
            self._kept = self._copy(torch.float32)
        # of the centred rows; float64 since it is added to a product that nearly cancels it
        self.norm_sq = torch.cat([self._norm_sq(rows) for _, rows in self.chunks(self.data.device, torch.float32)])
        check_rows(self.norm_sq.sqrt(), "data")
        self.radius = float(self.norm_sq.max()) ** 0.5
        self._size = self.radius + 2 * float(self.middle.double().norm())  # bounds ‖μ‖ + ‖middle‖

    def has_rough(self, device: torch.device) -> bool:
        """Whether a copy in half precision was kept on the device of the points, for `rough` and `rough_sum`."""
        return self._half is not None and self._half.device == device

    def rough_sum(self, weights: Tensor) -> Tensor:
        """`weighted_sum` over all centers in half precision, float64 [B, d], off by `ROUGH_SUM_ERROR`."""
        assert self._half is not None
        half, rounded = self._half, weights.to(HALF)
        total = torch.zeros(len(weights), self.dim, dtype=torch.float64, device=weights.device)
        with full_precision(half.device):
            for start in range(0, self.count, _WIDE_BLOCK):
                span = slice(start, start + _WIDE_BLOCK)
                total += rounded[:, span] @ half[span]
        return total

    def weighted_sum(self, weights: Tensor, columns: Tensor | None = None, *, wide: bool = False) -> Tensor:
        """Sum the centred centers, Σ_j w_j (μ_j − middle), for weights [B, U] in their precision: float64 [B, d]."""
        device, block = weights.device, _WIDE_BLOCK if wide else _SUM_BLOCK
        total = torch.zeros(len(weights), self.dim, dtype=torch.float64, device=device)
        kept = self._copy_for(device, weights.dtype) if columns is None else None
        for start, rows in [(0, kept)] if kept is not None else self.chunks(device, weights.dtype, columns):
            for first in range(0, len(rows), block):
                part = rows[first : first + block]
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
        """Centred rows in `dtype`, a chunk at a time: kept ones, or in a buffer that stays in the processor's cache."""
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
            centred = buffer[: len(rows)]
            if rows.dtype == torch.uint8 and dtype == torch.float32:
                yield start, centred.copy_(rows).div_(255).sub_(middle)
            elif rows.dtype == dtype:
                yield start, torch.sub(rows, middle, out=centred)
            else:  # float64 has to see the float32 quotient that direct differences see
                yield start, centred.copy_(decode(rows)).sub_(middle)

    def _copy(self, dtype: torch.dtype) -> Tensor:
        """All centred rows, rounded from float32."""
        copy = torch.empty(self.data.shape, dtype=dtype, device=self.data.device)
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
