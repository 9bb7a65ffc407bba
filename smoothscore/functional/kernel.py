"""Kernel distance (KID): maximum mean discrepancy with a cubic kernel, whatever the number of samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional.rows import check_features

_BLOCK = 2048  # rows of a kernel matrix held at a time
_LARGEST_SUBSET = 1000  # as in Bińkowski et al. and in torchmetrics


class KernelDistance(NamedTuple):
    """Result of :func:`kernel_distance`.

    Attributes:
        mean: over the subsets.
        std: population standard deviation over the subsets, as the KID is usually reported; not an error of the mean.
    """

    mean: float
    std: float


def kernel_distance(
    real: Tensor,
    fake: Tensor,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
    seed: int = 0,
) -> KernelDistance:
    """Squared maximum mean discrepancy, the unbiased estimate, averaged over random subsets of equal size s.

    MMD² = (Σ_{i≠j} k(x_i, x_j) + Σ_{i≠j} k(y_i, y_j))/(s(s−1)) − 2 Σ_{ij} k(x_i, y_j)/s², k(x, y) = (γ x·y + c)^degree.
    With Inception features it is the KID. Unlike the Fréchet distance it is 0 on average for two sets of one
    distribution, whatever their size, and may be a little below 0.

    Args:
        real: features [M, F].
        fake: features [n, F].
        subsets: how many are drawn.
        subset_size: s ≥ 2; None is 1000, or the smaller set where that has fewer rows.
        degree: of the kernel.
        gamma: γ of the kernel; None is 1/F.
        coef: c of the kernel.
        seed: of the subsets: rows of real, then of fake, for one subset after the other, each a
            ``torch.randperm`` of a CPU generator, as torchmetrics draws them.

    Returns:
        A :class:`KernelDistance`; everything is summed in float64.

    Raises:
        UserError: an option out of range, fewer rows than a subset needs, not [n, F], different F, or a NaN (its row is
            named).

    Source: Bińkowski et al. 2018 (arXiv 1801.01401), Sec. 3 and 4.
    """
    check_features("real", real, at_least=2)
    check_features("fake", fake, at_least=2, like=("real", real))
    smaller = min(len(real), len(fake))
    size = min(_LARGEST_SUBSET, smaller) if subset_size is None else subset_size
    if subsets < 1 or not 2 <= size <= smaller:
        raise UserError(
            f"{subsets} subset(s) of {size} rows were asked for among {len(real)} real and {len(fake)} fake ones: take "
            f"at least 1, of 2 to {smaller} rows."
        )
    kernel = _Polynomial(degree, 1 / real.shape[1] if gamma is None else gamma, coef)
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        [torch.randperm(len(rows), generator=generator)[:size].to(rows.device) for rows in (real, fake)]
        for _ in range(subsets)
    ]
    # Subsets of small sets overlap: their kernel is computed once for all. Those of large sets are taken one by one.
    group = subsets if max(len(real), len(fake)) ** 2 <= subsets * size**2 else 1
    values = [
        _squared_mmd(
            kernel, (real, fake), [torch.stack(rows) for rows in zip(*drawn[start : start + group], strict=True)]
        )
        for start in range(0, subsets, group)
    ]
    value = torch.cat(values)
    return KernelDistance(float(value.mean()), float(value.std(correction=0)))


class _Polynomial(NamedTuple):
    """k(x, y) = (γ x·y + c)^degree."""

    degree: int
    gamma: float
    coef: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self._of(x @ y.T)

    def diagonal(self, x: Tensor) -> Tensor:
        return self._of(torch.linalg.vecdot(x, x))

    def _of(self, product: Tensor) -> Tensor:
        return product.mul_(self.gamma).add_(self.coef).pow_(self.degree)


def _squared_mmd(kernel: _Polynomial, sets: tuple[Tensor, Tensor], subsets: list[Tensor]) -> Tensor:
    """MMD² of each of S pairs of subsets, [S]; `subsets` holds rows of both sets, [S, s] each.

    A sum over a subset is the quadratic form aᵀ K b of its indicators, so all subsets share one kernel matrix, which
    is made a block at a time.
    """
    (x, a), (y, b) = (_used(rows, chosen) for rows, chosen in zip(sets, subsets, strict=True))
    size = subsets[0].shape[1]
    within = [_form(kernel, rows, rows, of, of) - kernel.diagonal(rows) @ of for rows, of in ((x, a), (y, b))]
    value: Tensor = (within[0] + within[1]) / (size * (size - 1)) - 2 * _form(kernel, x, y, a, b) / size**2
    return value


def _used(rows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that any subset has, float64 [m, F], and which subsets have them, 0 or 1, float64 [m, S]."""
    used, place = torch.unique(chosen, return_inverse=True)
    indicator = rows.new_zeros(len(used), len(chosen), dtype=torch.float64)
    return rows[used].double(), indicator.scatter_(0, place.T, 1)


def _form(kernel: _Polynomial, x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Σ_ij a_is k(x_i, y_j) b_js for every s, [S]."""
    total = a.new_zeros(a.shape[1])
    for rows, weights in zip(torch.split(x, _BLOCK), torch.split(a, _BLOCK), strict=True):
        for columns, others in zip(torch.split(y, _BLOCK), torch.split(b, _BLOCK), strict=True):
            total += (weights * (kernel(rows, columns) @ others)).sum(0)
    return total
