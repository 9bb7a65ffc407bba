"""Exact nearest neighbors among the rows themselves: faiss finds candidates, direct differences settle them.

The only file that imports faiss, and the only one where squared distances become distances.
"""

import importlib
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smoothscore.errors import UserError

EXTRA = 4  # candidates beyond k, so that ties at the k-th place seldom need a second search
_COARSE = 2e-5  # relative error of a squared distance above which it is computed anew from differences
_QUERIES = 4096  # rows per search: faiss works in blocks of this size anyway
_CANDIDATES = 1 << 24  # candidates held at a time
_EPS = 2.0**-24
_GPU_WIDTH = 2048  # candidates per query that faiss can select on a GPU
_GPU_QUERIES = 1 << 16  # rows per search there: every search sends all rows to the GPU

Floats: TypeAlias = npt.NDArray[np.float32]


class Neighbors(NamedTuple):
    """The k nearest rows of every row, itself first: ``indices`` int64 [M, k], ``distances`` float32 [M, k]."""

    indices: Tensor
    distances: Tensor


class _Rows(NamedTuple):
    """Rows in the two forms a search needs, and what bounds its rounding."""

    direct: Tensor  # float32 [M, d], whole numbers where uint8 came: differences are taken here
    centered: Tensor  # float32 [M, d], mean removed: matrix products lose least here
    norm_sq: Tensor  # float32 [M], of the centered rows
    unit: float  # length of 1 in the units of ``direct``


class _Found(NamedTuple):
    distances_sq: Tensor  # float64 [n, k] in units of ``_Rows.direct``
    indices: Tensor  # int64 [n, k]
    complete: Tensor  # bool [n]: no row left out can belong here


def require_faiss() -> ModuleType:
    """Import and return faiss.

    Raises:
        UserError: If neither faiss-cpu nor faiss-gpu is installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise UserError(
            "searching neighbors needs faiss, which is not installed: run `pip install 'smoothscore[cpu]'`, or "
            "`pip install 'smoothscore[gpu]'` on a machine with an NVIDIA GPU; take exactly one of the two, since "
            "both install the same package."
        ) from error


def search(rows: Tensor, k: int, *, advance: Callable[[int], object] | None = None) -> Neighbors:
    """Find for every row its k nearest rows by L2 distance, itself first, exactly.

    A matrix product gives ‖x‖² + ‖y‖² − 2 x·y with an error below √d ε (‖x‖² + ‖y‖²), which is all there is for
    near-duplicates. So candidates whose error matters are computed anew from differences, and those whose order is
    still open in float64. Rows equally far stand in the order of their index, at the k-th place too.

    Args:
        rows: [M, d], float32, or uint8 meaning value/255 (searched in integers, where differences are exact).
        k: Neighbors per row, the row itself included; 1 ≤ k ≤ M.
        advance: Called with the number of rows that became ready.

    Returns:
        Neighbors(indices int64 [M, k], distances float32 [M, k], not squared); column 0 is the row itself, at 0.

    Raises:
        UserError: If faiss is not installed.
    """
    faiss = require_faiss()
    prepared = _prepare(rows)
    total = len(rows)
    indices = torch.empty(total, k, dtype=torch.int64)
    distances = torch.empty(total, k)
    step = _GPU_QUERIES if num_gpus(faiss) else _QUERIES
    for start in range(0, total, step):
        ids = torch.arange(start, min(start + step, total))
        width = min(total, k + EXTRA)
        while len(ids):
            left = []
            for part in torch.split(ids, max(1, _CANDIDATES // width)):
                found = _search_part(faiss, prepared, part, k, width)
                indices[part] = found.indices
                distances[part] = found.distances_sq.sqrt().div_(prepared.unit).float()
                left.append(part[~found.complete])
            ids = torch.cat(left)
            width = min(total, 4 * width)  # only rows with more ties at the k-th place than candidates
        if advance is not None:
            advance(min(step, total - start))
    return Neighbors(indices, distances)


def _prepare(rows: Tensor) -> _Rows:
    # A mean over some rows serves as well as over all; whole numbers keep uint8 rows exact.
    sample = rows[:: max(1, len(rows) // 256)].float()
    if rows.dtype == torch.uint8:
        direct = centered = rows.to(torch.float32).sub_(sample.mean(0).round_())
        unit = 255.0
    else:
        direct = rows.float().contiguous()
        centered = direct - sample.mean(0)
        unit = 1.0
    return _Rows(direct, centered, torch.linalg.vector_norm(centered, dim=1).square_(), unit)


def _search_part(faiss: ModuleType, rows: _Rows, ids: Tensor, k: int, width: int) -> _Found:
    total, dim = rows.centered.shape
    database = rows.centered.numpy()
    whole = len(ids) == total
    distance_sq, index = knn(faiss, database if whole else rows.centered[ids].numpy(), database, width)
    own = rows.norm_sq[ids, None]
    scale = _rounding(dim)
    error = scale * (own + rows.norm_sq[index])
    # Any row left out lies at least as far as the last candidate, up to the error of its own product; the norm of
    # one that could matter, closer than the last candidate, is bounded by the triangle inequality.
    last = distance_sq[:, -1] - scale * (3 * own[:, 0] + 2 * distance_sq[:, -1])
    found = (index == ids[:, None]).any(1)  # else pushed out by exact copies
    exact, index, error = settle(faiss, rows.direct, ids, distance_sq, index, error)
    complete = (exact[:, k - 1] + error[:, k - 1] < last) & found
    if width == total:  # nothing was left out
        complete[:] = True
    return _Found(exact[:, :k].clamp(min=0), index[:, :k], complete)


def knn(faiss: ModuleType, queries: Floats, database: Floats, width: int) -> tuple[Tensor, Tensor]:
    """Screen by a matrix product, on a GPU where faiss has one: squared distances and indices, both [n, width]."""
    if width <= _GPU_WIDTH and num_gpus(faiss):
        distance_sq, index = faiss.knn_gpu(_gpu_resources(), queries, database, width)
    else:
        distance_sq, index = faiss.knn(queries, database, width)
    return torch.from_numpy(distance_sq), torch.from_numpy(index)


def settle(
    faiss: ModuleType, rows: Tensor, ids: Tensor, distance_sq: Tensor, index: Tensor, error: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort candidates by distance and index, after computing anew what is not known well enough for it.

    Args:
        faiss: The module.
        rows: [M, d], float32 or uint8.
        ids: int64 [n], the rows whose candidates these are; each comes first among its own.
        distance_sq: float32 [n, w], as the search gave them, in the units of ``rows``; changed in place.
        index: int64 [n, w]; −1, with an infinite distance, where the search found nothing.
        error: float32 [n, w], bound of the error of ``distance_sq``; changed in place.

    Returns:
        Squared distance float64, index and error, [n, w] each.
    """
    itself = index == ids[:, None]
    coarse = (error > _COARSE * distance_sq) & ~itself & (index >= 0)
    query, place = coarse.nonzero(as_tuple=True)
    direct = _direct_float32(faiss, rows, ids[query], index[query, place])
    distance_sq[query, place] = direct
    error[query, place] = _rounding(rows.shape[1]) * direct
    distance_sq[itself] = -torch.inf
    error[itself] = 0
    exact, index, error = _sorted(distance_sq.double(), index, error)

    unsure = exact[:, 1:] - exact[:, :-1] <= error[:, 1:] + error[:, :-1]
    unsure = torch.nn.functional.pad(unsure, (1, 0)) | torch.nn.functional.pad(unsure, (0, 1))
    # a sum of squares that is 0 is exact
    query, place = (unsure & (exact > 0) & exact.isfinite()).nonzero(as_tuple=True)
    exact[query, place] = _direct_float64(rows, ids[query], index[query, place])
    error[query, place] = 0
    return _sorted(exact, index, error)


def _rounding(dim: int) -> float:
    return float((dim**0.5 + 8) * _EPS)  # 8: the rounding of the centered rows themselves


def num_gpus(faiss: ModuleType) -> int:
    """Return how many GPUs this faiss can use: none where it is faiss-cpu."""
    return int(faiss.get_num_gpus())


@cache
def _gpu_resources() -> object:
    """A GPU's scratch memory, made once; one thread at a time may use it."""
    return require_faiss().StandardGpuResources()


def _sorted(distance_sq: Tensor, index: Tensor, error: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort every row by (distance, index), touching only the rows that are not sorted yet."""
    step = distance_sq[:, 1:] - distance_sq[:, :-1]
    wrong = ((step < 0) | ((step == 0) & (index[:, 1:] < index[:, :-1]))).any(1).nonzero()[:, 0]
    part = index[wrong]
    order = part.argsort(1)
    order = order.gather(1, distance_sq[wrong].gather(1, order).argsort(dim=1, stable=True))
    index[wrong] = part.gather(1, order)
    distance_sq[wrong] = distance_sq[wrong].gather(1, order)
    error[wrong] = error[wrong].gather(1, order)
    return distance_sq, index, error


def _direct_float32(faiss: ModuleType, rows: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """‖x − y‖² for pairs of rows [n], each difference rounded once."""
    if rows.dtype == torch.uint8:  # whole numbers, so this is exact
        return _direct_float64(rows, left, right).float()
    table, first, second = rows.numpy(), left.contiguous().numpy(), right.contiguous().numpy()
    out = np.empty(len(first), dtype=np.float32)
    pointer = faiss.swig_ptr
    faiss.pairwise_indexed_L2sqr(
        rows.shape[1], len(first), pointer(table), pointer(first), pointer(table), pointer(second), pointer(out)
    )
    return torch.from_numpy(out)


def _direct_float64(rows: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """‖x − y‖² for pairs of rows [n] in float64, a few pairs at a time so that they stay in the cache."""
    out = torch.empty(len(left), dtype=torch.float64)
    step = max(1, (1 << 17) // rows.shape[1])
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        difference = rows[left[part]].double().sub_(rows[right[part]])
        torch.linalg.vecdot(difference, difference, out=out[part])
    return out
