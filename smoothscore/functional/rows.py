"""What every measure asks of its images or features before it counts anything."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothscore.errors import UserError


def check_rows(name: str, rows: Tensor, *, at_least: int = 1) -> None:
    """Refuse rows that no measure can use.

    Args:
        name: what the caller calls these rows; the error begins with it.
        rows: [n, *S], uint8 or floating point.
        at_least: smallest n that is allowed.

    Raises:
        UserError: not [n, *S] with n ≥ ``at_least``; neither uint8 nor floating point; or a row that holds
            a NaN or an infinity (the first one is named).
    """
    if not (rows.dtype == torch.uint8 or rows.is_floating_point()):
        raise UserError(f"{name}: dtype {rows.dtype}; give uint8 (meaning value/255) or floating point.")
    if rows.ndim < 2:
        raise UserError(f"{name}: shape {list(rows.shape)}; give one row per image, [n, ...].")
    if len(rows) < at_least:
        raise UserError(f"{name}: {len(rows)} row(s), but at least {at_least} needed; give more images.")
    if rows.dtype == torch.uint8:
        return
    # One pass without a mask of the whole array: a sum is finite only where no term is NaN or infinite. A sum
    # of finite terms may overflow, so suspects are looked at again value by value.
    suspects = (~rows.flatten(1).sum(1).isfinite()).nonzero().flatten()
    bad = suspects[~rows[suspects].flatten(1).isfinite().all(1)]
    if len(bad):
        raise UserError(
            f"{name}: row {int(bad[0])} holds a NaN or an infinite value ({len(bad)} such row(s)); "
            f"remove it, or find out which image or training step made it."
        )


def check_same_shape(name: str, rows: Tensor, other: str, shape: torch.Size) -> None:
    """Refuse rows that lie in another space than the rows they are compared with.

    Args:
        name: what the caller calls ``rows``.
        rows: [n, *S].
        other: what the caller calls the rows of ``shape``.
        shape: S.

    Raises:
        UserError: the shapes of one row differ.
    """
    if rows.shape[1:] != shape:
        raise UserError(
            f"{name} has rows of shape {list(rows.shape[1:])} but {other} has rows of shape {list(shape)}; "
            "bring both to one resolution and one number of channels."
        )


def check_features(name: str, features: Tensor, *, at_least: int = 1, like: tuple[str, Tensor] | None = None) -> None:
    """Refuse what is not one floating-point feature vector per image.

    Args:
        name: what the caller calls these features; the error begins with it.
        features: [n, F].
        at_least: smallest n that is allowed.
        like: name and features of another set that must have the same F.

    Raises:
        UserError: not floating point [n, F] with n ≥ ``at_least``, another F, or a NaN (its row is named).
    """
    if features.ndim != 2 or not features.is_floating_point():
        raise UserError(
            f"{name}: {features.dtype} of shape {list(features.shape)}; give floating point features, "
            "one row per image, [n, F]."
        )
    check_rows(name, features, at_least=at_least)
    if like is not None and features.shape[1] != like[1].shape[1]:
        raise UserError(
            f"{name}: {features.shape[1]} features per row, but {like[0]} has {like[1].shape[1]}; use one extractor."
        )


def equal_rows(data: Tensor, *, flips: bool = False) -> Tensor:
    """Find the first row that equals each row.

    Args:
        data: [M, *S].
        flips: a row also equals another one mirrored along the last axis.

    Returns:
        Row numbers [M], int64; row i is a repeat where the result is below i.
    """
    count = len(data)
    both = torch.cat([data, data.flip(-1)]) if flips else data
    _, group = torch.unique(both.flatten(1), dim=0, return_inverse=True)
    if flips:  # equal up to mirroring: the same two groups, in either order
        _, group = torch.unique(torch.minimum(group[:count], group[count:]), return_inverse=True)
    first = torch.full((int(group.max()) + 1,), count, device=data.device)
    row = torch.arange(count, device=data.device)
    return first.scatter_reduce_(0, group, row, "amin")[group]


def unique_rows(data: Tensor, *, flips: bool = False) -> Tensor:
    """Return the first occurrence of every distinct row.

    Args:
        data: [M, *S].
        flips: a row that is another one mirrored along the last axis is no new row either.

    Returns:
        Row numbers [U], int64, ascending; ``data[unique_rows(data)]`` holds no row twice.
    """
    rows: Tensor = torch.unique(equal_rows(data, flips=flips))
    return rows
