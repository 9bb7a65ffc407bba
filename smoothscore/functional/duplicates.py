"""Duplicates within one set of images: equal rows, rows closer than a threshold, and the clusters they form."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows

_MOST_PAIRS = 200  # per row: more say that the threshold is no threshold of duplicates
_KEEP = 2**30  # bytes of a centered copy of the images that saves converting them for every block


class NearPairs(NamedTuple):
    """Pairs of rows that are closer than a threshold.

    Attributes:
        pairs: int64 [P, 2], the lower row first, sorted.
        distance: float32 [P], L2, not squared.
        flipped: bool [P], one of the two is mirrored left to right.
    """

    pairs: Tensor
    distance: Tensor
    flipped: Tensor


@torch.no_grad()
def near_pairs(
    data: Tensor,
    threshold: float,
    *,
    flips: bool = False,
    advance: Callable[[int], object] | None = None,
    memory_budget: int = 2**28,
) -> NearPairs:
    """Find all pairs of rows with ‖x_i − x_j‖₂ ≤ threshold, i < j, exactly.

    Args:
        data: [M, *S], uint8 (meaning value/255) or floating point; images, or features [M, F]. Groups of many equal
            rows give a pair for each two of them, so give one row of each.
        threshold: not squared, at least 0.
        flips: a pair counts also where one of the two mirrored along the last axis is close to the other.
        advance: called with the number of rows that became ready.
        memory_budget: bytes of working memory beyond the data and a copy of at most 1 GiB.

    Returns:
        `NearPairs`; a pair that is close both ways is given once, in the closer way.

    Raises:
        UserError: fewer than two rows, a NaN (its row is named), a negative threshold, or one so large that there are
            more than 200 pairs per row.
    """
    check_rows("data", data, at_least=2)
    if not threshold >= 0:
        raise UserError(f"threshold is {threshold}, but a distance is at least 0.")
    centers = Centers(data, memory_budget=memory_budget, keep=_KEEP)
    step = max(1, memory_budget // (10 * centers.count + 32 * centers.dim))
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    total = 0
    for start in range(0, len(data), step):
        part = data[start : start + step]
        for way in (part, part.flip(-1)) if flips else (part,):
            pairs, distance = _close(centers, way, start, threshold, _MOST_PAIRS * len(data) - total)
            found.append((pairs, distance, torch.full((len(pairs),), way is not part, device=pairs.device)))
            total += len(pairs)
        if advance is not None:
            advance(len(part))
    return _once(*(torch.cat(column) for column in zip(*found, strict=True)))


def clusters(pairs: Tensor, count: int) -> Tensor:
    """Join rows that are connected by pairs (union-find): int64 [count], the lowest row of each row's cluster.

    Closeness is no equivalence: two rows of a cluster may be far apart, with a chain of close ones between them.

    Args:
        pairs: int64 [P, 2], rows below ``count``.
        count: M, number of rows.
    """
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]  # halve the path
            row = parent[row]
        return row

    for first, second in pairs.tolist():
        one, other = root(first), root(second)
        parent[max(one, other)] = min(one, other)
    return torch.tensor([root(row) for row in range(count)], dtype=torch.int64)


def _close(centers: Centers, rows: Tensor, start: int, threshold: float, most: int) -> tuple[Tensor, Tensor]:
    """Pairs (start + row, column) of a block with column > row, settled: int64 [P, 2] and float32 [P]."""
    query = centers.query(rows)
    value = centers.screen(query)
    limit = (threshold**2 - query.offset + query.slack).float()[:, None]
    row, column = torch.nextafter(limit, limit.new_tensor(torch.inf)).ge(value).nonzero(as_tuple=True)
    later = column > row + start
    row, column = row[later], column[later]
    if len(row) > most:
        raise UserError(
            f"threshold {threshold:g} finds more than {_MOST_PAIRS} pairs per row, {len(row):,} in rows {start:,} to "
            f"{start + len(rows) - 1:,} alone: such pairs are no duplicates; lower it."
        )
    distance = centers.distance_sq(query, row, column).sqrt()
    close = distance <= threshold
    return torch.stack([row + start, column], dim=1)[close], distance[close].float()


def _once(pairs: Tensor, distance: Tensor, flipped: Tensor) -> NearPairs:
    order = distance.argsort(stable=True)
    for column in (1, 0):
        order = order[pairs[order, column].argsort(stable=True)]
    pairs, distance, flipped = pairs[order], distance[order], flipped[order]
    first = torch.ones(len(pairs), dtype=torch.bool, device=pairs.device)
    first[1:] = (pairs[1:] != pairs[:-1]).any(1)
    return NearPairs(pairs[first], distance[first], flipped[first])
