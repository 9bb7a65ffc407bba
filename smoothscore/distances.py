"""Exact nearest neighbours in plain torch: screened by a float32 matrix product, settled in float64.

A squared distance from a matrix product, ‖x‖² + ‖μ‖² − 2 x·μ, is fast, but its rounding error outgrows the
distance itself near a center. So it only says which centers *may* matter: `Centers.screen` comes with a bound
on its own error that holds for any order of summation, and what the bound leaves open is settled by direct
differences in float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError

_PRODUCT_BLOCK = 128  # terms summed inside one product: the error bound grows with it, and BLAS loses 5 % of its pace
_SUM_BLOCK = 1024  # the same for sums over centers
SUM_ERROR = (_SUM_BLOCK + 4) * 2.0**-24  # of `weighted_sum` in float32, relative to Σ_j |w_j| ‖μ_j − middle‖
_MEAN_ROWS = 1024  # rows that the centring is estimated from: any fixed point is right, a central one is tighter
_SPARE = 8  # candidates settled beyond k, so that the bound nearly always closes at the first try
_LARGEST_NORM = 1e15  # squares stay far from float32's overflow


class Nearest(NamedTuple):
    """The k nearest centers of every query, nearest first, ties to the lower index."""

    distance: Tensor  # [B, k] float32, not squared
    index: Tensor  # type: ignore[assignment]  # [B, k] int64; tuple.index is not missed


class Query(NamedTuple):
    """Points made ready for screening against one set of centers."""

    point: Tensor  # [B, d] float64, for direct differences
    centred: Tensor  # [B, d] the point minus the centers' middle, in the precision of the screening
    offset: Tensor  # [B] float64, ‖centred‖², which the screened values leave out
    slack: Tensor  # [B] float64, bound on |offset + screened − ‖x − μ‖²|, the same for all centers

    def take(self, rows: Tensor) -> "Query":
        """The query of some of the points, rows int64 [b]."""
        return Query(*(part[rows] for part in self))


def decode(images: Tensor) -> Tensor:
    """Images as numbers: uint8 becomes float32 value/255, half precision becomes float32, the rest stays."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images if images.dtype in (torch.float32, torch.float64) else images.to(torch.float32)


def nearest(x: Tensor, data: Tensor, k: int = 1, *, memory_budget: int = 2**28) -> Nearest:
    """Find the k rows of `data` nearest to every row of `x`, exactly: argmin_j ‖x − μ_j‖₂.

    Args:
        x: queries [B, *S], float, or uint8 meaning value/255.
        data: centers [M, *S], float or uint8; uint8 is converted chunk by chunk.
        k: how many, 1 ≤ k ≤ M.
        memory_budget: bytes of working memory beyond the arguments and the answer.

    Returns:
        distance [B, k] float32 and index [B, k] int64, nearest first, ties to the lower index.

    Raises:
        UserError: shapes that do not match, k out of range, a row that is NaN or infinite.
    """
    return Centers(data, memory_budget=memory_budget).nearest(x, k)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply matrices in true float32: no autocast, TF32 or bfloat16, whatever a trainer has set."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Centers:
    """Centers made ready for many queries: norms and middle are computed once.

    Args:
        data: centers [M, *S], float, or uint8 meaning value/255; on any device. It is held by reference.
        memory_budget: bytes of working memory that a call may use beyond its arguments and answer.
        keep: bytes that a centred float32 copy of the data may take; where it needs more, and by default, none is kept,
            and every pass over the centers centres them again, a chunk at a time.

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
        if 4 * self.data.numel() <= keep:
            kept = torch.empty(self.data.shape, device=self.data.device)
            for start, rows in self.chunks(self.data.device, torch.float32):
                kept[start : start + len(rows)] = rows
            self._kept = kept
        # of the centred rows; float64 since it is added to a product that nearly cancels it
        self.norm_sq = torch.cat([self._norm_sq(rows) for _, rows in self.chunks(self.data.device, torch.float32)])
        _check_rows(self.norm_sq.sqrt(), "data")
        self.radius = float(self.norm_sq.max()) ** 0.5
        self._size = self.radius + 2 * float(self.middle.double().norm())  # bounds ‖μ‖ + ‖middle‖

    def query(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Query:
        """Make points ready for `screen`, which then works in `dtype` on the points' device.

        Args:
            x: points [B, *S], float, or uint8 meaning value/255.
            dtype: float32, or float64 where the float32 bound is too wide.

        Raises:
            UserError: x of another shape than the data, or a row that is NaN or infinite.
        """
        if x.shape[1:] != self.shape:
            raise UserError(
                f"x has shape {list(x.shape)}, but the data's images have shape {list(self.shape)}: "
                f"give x as [B, {', '.join(map(str, self.shape))}]."
            )
        query = self.ready(decode(x.detach()).flatten(1).to(torch.float64), dtype)
        _check_rows(query.offset.sqrt(), "x")
        return query

    def ready(self, point: Tensor, dtype: torch.dtype) -> Query:
        """Make points [B, d] that are already decoded and checked ready for `screen` in another precision."""
        centred = point - self.middle.to(point.device)
        norm = torch.linalg.vector_norm(centred, dim=1)
        return Query(point, centred.to(dtype), norm.square(), self.slack(norm, self.radius, dtype))

    def slack(self, norm: Tensor, radius: Tensor | float, dtype: torch.dtype) -> Tensor:
        """Bound the screening error for points at `norm` from the middle and centers within `radius` of it.

        It comes from γ_n Σ|x_i μ_i| ≤ γ_n ‖x‖ ‖μ‖ and is linear in the radius, so that a root mean square of radii
        gives a bound on the root mean square of errors.
        """
        unit = torch.finfo(dtype).eps / 2
        block, blocks = self._blocks()
        # inside a block any order of summation; then one addition per block; then roundings of the operands,
        # which for float64 data are relative to the number before centring
        product = 2 * norm * ((block + blocks + 4) * radius + 4 * self._size)
        start = ((blocks + 4) * self.radius + 4 * self._size) * radius
        norms = 2.0**-53 * (self.dim + 8) * (norm + self.radius) ** 2  # of the offset and of norm_sq, in float64
        slack: Tensor = 1.01 * (unit * (product + start) + norms)
        return slack

    def screen(self, query: Query, columns: Tensor | None = None) -> Tensor:
        """Approximate squared distances less the query's offset: ‖x − μ_j‖² = offset + value ± slack.

        Args:
            query: the points, of `query` or `ready`.
            columns: which centers, int64 [U]; None is all M.

        Returns:
            value [B, U] in the query's precision, on the query's device.
        """
        device, dtype = query.point.device, query.centred.dtype
        block, _ = self._blocks()
        known = self.norm_sq if columns is None else self.norm_sq[columns.to(self.norm_sq.device)]
        value = torch.empty(len(query.centred), len(known), dtype=dtype, device=device)
        for start, rows in self.chunks(device, dtype, columns):
            stop = start + len(rows)
            norm_sq = known[start:stop].to(device) if dtype == torch.float32 else self._norm_sq(rows)
            part = norm_sq.to(dtype).repeat(len(value), 1)
            with full_precision(device):
                for first in range(0, self.dim, block):
                    span = slice(first, first + block)
                    part.addmm_(query.centred[:, span], rows[:, span].T, alpha=-2)
            value[:, start:stop] = part
        return value

    def weighted_sum(self, weights: Tensor, columns: Tensor | None = None) -> Tensor:
        """Sum the centred centers, Σ_j w_j (μ_j − middle), for weights [B, U] in their precision: float64 [B, d]."""
        device = weights.device
        total = torch.zeros(len(weights), self.dim, dtype=torch.float64, device=device)
        for start, rows in self.chunks(device, weights.dtype, columns):
            for first in range(0, len(rows), _SUM_BLOCK):
                part = rows[first : first + _SUM_BLOCK]
                with full_precision(device):
                    total += weights[:, start + first : start + first + len(part)] @ part
        return total

    def differences(self, query: Query, row: Tensor, column: Tensor) -> Tensor:
        """Subtract directly: μ_column − x_row for every pair, float64 [P, d]."""
        rows = self.data[column.to(self.data.device)].to(query.point.device)
        return decode(rows).to(torch.float64).sub_(query.point[row])

    def distance_sq(self, query: Query, row: Tensor, column: Tensor) -> Tensor:
        """Squared distances ‖x_row − μ_column‖² by direct differences, float64 [P], in bounded memory."""
        step = max(1, self.memory_budget // (24 * self.dim))
        pairs = zip(torch.split(row, step), torch.split(column, step), strict=True)
        parts = [torch.linalg.vector_norm(self.differences(query, r, c), dim=1).square_() for r, c in pairs]
        return torch.cat(parts) if parts else query.offset.new_empty(0)

    def query_rows(self, bytes_per_pair: int) -> int:
        """How many queries fit the memory budget at once, when each of their M pairs takes so many bytes."""
        return max(1, self.memory_budget // (bytes_per_pair * self.count + 32 * self.dim))

    @torch.no_grad()
    def nearest(self, x: Tensor, k: int = 1) -> Nearest:
        """The k nearest centers of every x [B, *S]; see `smoothscore.distances.nearest`."""
        if not 1 <= k <= self.count:
            raise UserError(f"k = {k} neighbours were asked for among {self.count} images: take 1 ≤ k ≤ {self.count}.")
        queries = (self.query(part) for part in torch.split(x, self.query_rows(16)))
        found = [self.nearest_among(query, self.screen(query), k) for query in queries]
        distance_sq = torch.cat([part for part, _ in found])
        return Nearest(distance_sq.sqrt().to(torch.float32), torch.cat([part for _, part in found]))

    def nearest_among(self, query: Query, value: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Squared distance, float64, and index of the k nearest centers, [B, k], from the screened values."""
        size = len(value)
        kept = min(self.count, k + k // 4 + _SPARE)
        screened, column = value.topk(kept, largest=False)
        column = column.sort(dim=1).values  # so that the stable sort below leaves ties at the lower index
        row = torch.arange(size, device=value.device).repeat_interleave(kept)
        direct = self.distance_sq(query, row, column.flatten()).view(size, kept)
        distance_sq, order = (part[:, :k] for part in direct.sort(dim=1, stable=True))
        column = column.gather(1, order)
        if kept < self.count:
            # a center left out is at least as far as the last one kept, less the slack
            farthest = distance_sq[:, -1] - query.offset
            doubtful = (farthest >= screened[:, -1] - query.slack).nonzero().squeeze(1)
            if len(doubtful):
                contenders = value[doubtful] <= (farthest + query.slack)[doubtful, None]
                distance_sq[doubtful], column[doubtful] = self._settle(query, doubtful, contenders, k)
        return distance_sq, column

    def _settle(self, query: Query, rows: Tensor, contenders: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Settle all that may be among the k nearest: contenders bool [b, M], at least k in every row."""
        row, column = contenders.nonzero(as_tuple=True)
        distance_sq = self.distance_sq(query, rows[row], column)
        order = distance_sq.argsort(stable=True)  # pairs come by row, then column: two stable sorts keep the lower
        order = order[row[order].argsort(stable=True)]
        count = contenders.sum(1)
        first = (count.cumsum(0) - count)[:, None] + torch.arange(k, device=row.device)
        best = order[first]
        return distance_sq[best], column[best]

    def _blocks(self) -> tuple[int, int]:
        """Terms per block of the inner product, and how many blocks there are."""
        block = max(_PRODUCT_BLOCK, int(self.dim**0.5))
        return block, -(-self.dim // block)

    def chunks(
        self, device: torch.device, dtype: torch.dtype, columns: Tensor | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Centred rows in `dtype`, a chunk at a time: kept ones, or in a buffer that stays in the processor's cache."""
        count = self.count if columns is None else len(columns)
        if self._kept is not None and columns is None and dtype == torch.float32 and device == self._kept.device:
            # on a CPU, so many that the products with them stay in the cache
            step = max(1, (2**22 if device.type == "cpu" else 2**25) // self.dim)
            for start in range(0, count, step):
                yield start, self._kept[start : start + step]
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

    def _norm_sq(self, rows: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        return norm.square_()


def _check_rows(norm: Tensor, name: str) -> None:
    """Raise for the first row whose norm is not a usable number: the one look at the values that we need."""
    bad = ~(norm < _LARGEST_NORM)
    if bool(bad.any()):
        raise UserError(
            f"Row {int(bad.nonzero()[0])} of {name} holds NaN, infinite or overly large values "
            f"(norm {float(norm[bad][0])}): remove or mend it, pixels are expected in [0, 1]."
        )
