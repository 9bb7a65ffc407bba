"""Exact nearest neighbors in plain torch: screened by a float32 matrix product, settled in float64.

A squared distance from a matrix product, ‖x‖² + ‖μ‖² − 2 x·μ, is fast, but its rounding error outgrows the
distance itself near a center. So it only says which centers *may* matter: `Centers.screen` comes with a bound
on its own error that holds for any order of summation, and what the bound leaves open is settled by direct
differences in float64.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances.precision import decode, full_precision
from smoothscore.distances.rows import CenteredRows, check_rows
from smoothscore.errors import UserError

_PRODUCT_BLOCK = 128  # terms summed inside one product: the error bound grows with it, and BLAS loses 5 % of its pace
_SPARE = 8  # candidates settled beyond k, so that the bound nearly always closes at the first try


class Nearest(NamedTuple):
    """The k nearest centers of every query, nearest first, ties to the lower index."""

    distance: Tensor  # [B, k] float32, not squared
    index: Tensor  # type: ignore[assignment]  # [B, k] int64; tuple.index is not missed


class Query(NamedTuple):
    """Points made ready for screening against one set of centers."""

    point: Tensor  # [B, d] float64, for direct differences
    centered: Tensor  # [B, d] the point minus the centers' middle, in the precision of the screening
    offset: Tensor  # [B] float64, ‖centered‖², which the screened values leave out
    slack: Tensor  # [B] float64, bound on |offset + screened − ‖x − μ‖²|, the same for all centers
    rounding: Tensor  # [B] float64, bound on the error of a product with a center, in its norm and float32's rounding

    def take(self, rows: Tensor | slice) -> "Query":
        """The query of some of the points, rows int64 [b] or a slice."""
        return Query(*(part[rows] for part in self))


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


class Centers(CenteredRows):
    """Centers made ready for many queries: screened by a product, settled by direct differences.

    Args, errors: those of `CenteredRows`.
    """

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
        check_rows(query.offset.sqrt(), "x")
        return query

    def ready(self, point: Tensor, dtype: torch.dtype) -> Query:
        """Make points [B, d] that are already decoded and checked ready for `screen` in another precision."""
        centered = point - self.middle.to(point.device)
        norm = torch.linalg.vector_norm(centered, dim=1)
        if self._bytewise(point.device, dtype):
            # seven roundings in float32, and every value off by its share of the largest one
            rounding = 7 * norm + 1.1 * self.dim**0.5 * centered.abs().amax(1)
        else:
            block, blocks = self._blocks()  # inside a block any order of summation; then one addition per block
            rounding = (block + blocks + 4) * norm
        query = Query(point, centered.to(dtype), norm.square(), norm, rounding)
        return query._replace(slack=self.slack(query, self.radius))

    def slack(self, query: Query, radius: Tensor | float) -> Tensor:
        """Bound the screening error for centers within `radius` of the middle.

        It comes from γ_n Σ|x_i μ_i| ≤ γ_n ‖x‖ ‖μ‖ and is linear in the radius, so that a root mean square of radii
        gives a bound on the root mean square of errors.
        """
        dtype, norm = query.centered.dtype, query.offset.sqrt()
        unit = torch.finfo(dtype).eps / 2
        bytewise = self._bytewise(norm.device, dtype)
        blocks = 1 if bytewise else self._blocks()[1]
        # roundings of the operands, which for float64 data are relative to the number before centering
        product = 2 * (query.rounding * radius + (1 if bytewise else 4) * norm * self._size)
        start = ((blocks + 4) * self.radius + (2 if bytewise else 4) * self._size) * radius
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
        device, dtype = query.point.device, query.centered.dtype
        if self._bytewise(device, dtype):
            assert self.bytes is not None
            product = self.bytes.products(query.point - self.middle, columns)
            norm_sq = self.norm_sq if columns is None else self.norm_sq[columns]
            return torch.add(norm_sq.float(), product, alpha=-2, out=product)
        block, _ = self._blocks()
        known = self.norm_sq if columns is None else self.norm_sq[columns.to(self.norm_sq.device)]
        value = torch.empty(len(query.centered), len(known), dtype=dtype, device=device)
        for start, rows in self.chunks(device, dtype, columns):
            stop = start + len(rows)
            norm_sq = known[start:stop].to(device) if dtype == torch.float32 else self._norm_sq(rows)
            part = value[:, start:stop].copy_(norm_sq)
            with full_precision(device):
                for first in range(0, self.dim, block):
                    span = slice(first, first + block)
                    part.addmm_(query.centered[:, span], rows[:, span].T, alpha=-2)
        return value

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
            raise UserError(f"k = {k} neighbors were asked for among {self.count} images: take 1 ≤ k ≤ {self.count}.")
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

    def _bytewise(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Whether products with points on a device, in a precision, are those of bytes."""
        return dtype == torch.float32 and self.bytes is not None and self.bytes.rows.device == device

    def _blocks(self) -> tuple[int, int]:
        """Terms per block of the inner product, and how many blocks there are."""
        block = max(_PRODUCT_BLOCK, int(self.dim**0.5))
        return block, -(-self.dim // block)
