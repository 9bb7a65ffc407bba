"""Approximate nearest neighbors with a measured recall: probes are raised until a floor holds, distances are exact."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.neighbors.index import EXTRA, Neighbors, require_faiss, settle
from smoothscore.neighbors.structures import BLOCK, Candidates, Cells, Codes, Graph, Points, Structure, brute_force
from smoothscore.neighbors.table import Accuracy

Kind = Literal["auto", "exact", "ivf_flat", "hnsw", "ivf_pq"]
KINDS = ("auto", "exact", "ivf_flat", "hnsw", "ivf_pq")
EXACT_ROWS = 250_000  # up to here, "auto" compares all pairs
SAMPLE = 1000  # rows compared with all others, once to choose the probes and, other rows, once to judge the table
_STRUCTURES: dict[str, type[Cells] | type[Graph] | type[Codes]] = {"ivf_flat": Cells, "hnsw": Graph, "ivf_pq": Codes}
_FIRST_PROBES = {"ivf_flat": 4, "hnsw": 64, "ivf_pq": 4}
_CODE_ROWS = 256  # a product quantizer's centers cannot be told from fewer rows
_DEEPER = 4  # candidates re-ranked per neighbor: codes say roughly who is near
_DEEPEST = 64
_STANDSTILL = 0.01  # recall gained by twice the probes below which it is the codes that miss neighbors
_PAIRS = 1 << 22  # candidates settled at a time
_NEAR = 1e-5  # relative: neighbors that the rounding of a distance cannot tell apart are as good as each other


def choose_index(kind: str, rows: int, row_bytes: int, *, budget: int) -> str:
    """Resolve "auto" by the number of rows and the memory: exact, then IVF-Flat, then IVF-PQ where rows do not fit.

    Args:
        kind: One of ``KINDS``.
        rows: M.
        row_bytes: Bytes of a row.
        budget: Bytes of rows that the memory may hold.

    Raises:
        UserError: If there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"index = {kind!r} is no search structure: take one of {', '.join(KINDS)}.")
    if kind != "auto":
        return kind
    if rows <= EXACT_ROWS:
        return "exact"
    return "ivf_flat" if rows * row_bytes <= budget else "ivf_pq"


def search_approximate(
    rows: Tensor,
    k: int,
    *,
    index: str,
    recall_floor: float = 0.95,
    probes: int | None = None,
    seed: int = 0,
    advance: Callable[[int], object] | None = None,
    progress: bool = False,
) -> tuple[Neighbors, Accuracy]:
    """Find for every row nearly all of its k nearest rows, with exact distances and a measured recall.

    Candidates come from the search structure; their distances are then computed as in the exact search. The recall
    is measured against brute force: on 1000 rows to choose the probes, before the long search begins, and on 1000
    others to judge the result.

    Args:
        rows: [M, d], float32, or uint8 meaning value/255; memory-mapped ones are read a block at a time.
        k: Neighbors per row, the row itself included.
        index: "ivf_flat", "hnsw" or "ivf_pq".
        recall_floor: Recall below which the table is refused.
        probes: Cells searched per row (IVF), or width of the walk (HNSW); None: the fewest of 4, 8, 16, … (64, 128, …)
            whose recall lies two standard errors above the floor.
        seed: Chooses the sampled rows and the first centers of the cells.
        advance: Called with the number of rows that became ready.
        progress: Show progress bars of the stages before.

    Returns:
        Neighbors as of the exact search, and how accurate they are.

    Raises:
        UserError: If the recall stays under the floor, rows are too few for the structure, or faiss is missing.
    """
    faiss = require_faiss()
    if index == "ivf_pq" and len(rows) < _CODE_ROWS:
        raise UserError(f"{len(rows)} rows are too few for index = 'ivf_pq', which learns 256 codes: take 'exact'.")
    rows = rows if rows.dtype == torch.uint8 else rows.float().contiguous()
    points = Points(rows)
    search = _Search(faiss, points, k, _STRUCTURES[index](faiss, points, seed=seed, progress=progress))
    chosen = points.sample(2 * SAMPLE, seed + 2)
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
    tuned, judged = chosen[: len(chosen) // 2], chosen[len(chosen) // 2 :]
    setting = _tune(search, tuned, index, recall_floor, probes)

    total = len(rows)
    indices = torch.empty(total, k, dtype=torch.int64)
    distances = torch.empty(total, k)
    for ids in search.blocks(torch.arange(total)):
        part = slice(int(ids[0]), int(ids[-1]) + 1)
        indices[part], distances[part] = search.neighbors(ids, setting)
        if advance is not None:
            advance(len(ids))
    found = Neighbors(indices, distances)
    recall = _recall(distances[judged], search.truth(judged).distances)
    accuracy = Accuracy(index, float(recall.mean()), len(judged), setting.probes)
    check_recall(accuracy, recall_floor)
    return found, accuracy


def check_recall(accuracy: Accuracy, floor: float) -> None:
    """Refuse a table that misses too many neighbors.

    Raises:
        UserError: If the recall is under the floor; it says what to change.
    """
    if accuracy.recall >= floor:
        return
    cure = f"give more probes (now {accuracy.probes}), or leave probes unset" if accuracy.probes else "search again"
    raise UserError(
        f"the {accuracy.index} table has a recall of {accuracy.recall:.4f} on {accuracy.sampled} rows, under "
        f"recall_floor = {floor}: {cure}, take another index, or lower the floor."
    )


def measure_recall(rows: Tensor, found: Tensor, ids: Tensor) -> float:
    """Measure how many of the true nearest neighbors of some rows were found, against brute force.

    recall = mean over rows and places of [d_found ≤ d_k], d_k the distance to the true k-th neighbor; the row itself
    is not counted, and neighbors that float32 cannot tell apart are as good as each other.

    Args:
        rows: All rows, [M, d], float32 or uint8.
        found: int64 [n, k], the neighbors found for ``ids``, the row itself first.
        ids: int64 [n].

    Returns:
        Recall in [0, 1].
    """
    search = _Search(require_faiss(), Points(rows), found.shape[1], None)
    return float(_recall(search.given(ids, found).distances, search.truth(ids).distances).mean())


def exact_distances(
    rows: Tensor, found: Tensor, ids: Tensor | None = None, *, advance: Callable[[int], object] | None = None
) -> Neighbors:
    """Compute the distances of neighbors found elsewhere, and sort every row by distance and index.

    Args:
        rows: All rows, [M, d], float32 or uint8.
        found: int64 [n, k], each row itself first.
        ids: int64 [n], whose neighbors they are; None: all rows, in order.
        advance: Called with the number of rows that became ready.

    Returns:
        Neighbors as of the exact search, [n, k].
    """
    search = _Search(require_faiss(), Points(rows), found.shape[1], None)
    indices, distances = torch.empty_like(found), torch.empty(found.shape)
    start = 0
    for part in search.blocks(torch.arange(len(rows)) if ids is None else ids):
        span = slice(start, start + len(part))
        indices[span], distances[span] = search.given(part, found[span])
        start = span.stop
        if advance is not None:
            advance(len(part))
    return Neighbors(indices, distances)


class _Setting(NamedTuple):
    probes: int
    width: int  # candidates whose distances are computed


class _Search:
    """A structure together with the rows it proposes."""

    def __init__(self, faiss: ModuleType, points: Points, k: int, structure: Structure | None) -> None:
        self._faiss, self._points, self.k, self.structure = faiss, points, k, structure
        self._unit = 255.0 if points.rows.dtype == torch.uint8 else 1.0

    def blocks(self, ids: Tensor) -> Iterator[Tensor]:
        yield from torch.split(ids, max(1, BLOCK // self._points.dim))

    def truth(self, ids: Tensor) -> Neighbors:
        width = min(len(self._points), self.k + EXTRA)
        return self.settled(ids, brute_force(self._faiss, self._points, ids, width))

    def neighbors(self, ids: Tensor, setting: _Setting) -> Neighbors:
        assert self.structure is not None
        found = self.settled(ids, self.structure.candidates(ids, setting.width, setting.probes))
        short = (found.indices < 0).any(1).nonzero()[:, 0]  # the probed cells held fewer than k rows
        if len(short):
            found.indices[short], found.distances[short] = self.truth(ids[short])
        return found

    def given(self, ids: Tensor, found: Tensor) -> Neighbors:
        return self.settled(ids, Candidates(torch.zeros(found.shape), found.clone()))

    def settled(self, ids: Tensor, candidates: Candidates) -> Neighbors:
        step = max(1, _PAIRS // candidates.index.shape[1])
        parts = zip(*(torch.split(part, step) for part in (ids, *candidates)), strict=True)
        settled = [self._settled(*part) for part in parts]
        return Neighbors(*(torch.cat(part) for part in zip(*settled, strict=True)))

    def _settled(self, ids: Tensor, distance_sq: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        lost = ~(index == ids[:, None]).any(1)  # the row itself, pushed out by exact copies or not met
        index[lost, -1] = ids[lost]
        distance_sq[index >= 0] = 0
        error = torch.full_like(distance_sq, torch.inf)
        exact, index, _ = settle(self._faiss, self._points.rows, ids, distance_sq, index, error)
        distances = exact[:, : self.k].clamp(min=0).sqrt().div_(self._unit).float()
        return index[:, : self.k], distances


def _tune(search: _Search, ids: Tensor, index: str, floor: float, probes: int | None) -> _Setting:
    """Find the cheapest setting whose recall lies surely above the floor, by doubling."""
    assert search.structure is not None
    truth, most = search.truth(ids).distances, search.structure.most
    total = len(search._points)
    width = min(total, search.k * (_DEEPER if index == "ivf_pq" else 1) + EXTRA)
    widest = min(total, search.k * _DEEPEST + EXTRA) if index == "ivf_pq" else width
    setting = _Setting(min(probes or _FIRST_PROBES[index], most), width)
    before = 0.0
    while True:
        recall = _recall(search.neighbors(ids, setting).distances, truth)
        mean = float(recall.mean())
        if probes is not None:
            check_recall(Accuracy(index, mean, len(ids), setting.probes), floor)
        if probes is not None or mean - 2 * float(recall.std()) / len(ids) ** 0.5 >= floor or mean == 1.0:
            return setting
        codes_miss = mean - before < _STANDSTILL or setting.probes == most
        if codes_miss and setting.width < widest:
            setting = setting._replace(width=min(widest, 2 * setting.width))
        elif setting.probes < most:
            setting = setting._replace(probes=min(most, 2 * setting.probes))
        else:
            raise UserError(
                f"index = {index!r} reaches a recall of {mean:.4f} at most on {len(ids)} rows, not surely recall_floor "
                f"= {floor}: take index = 'ivf_flat' or 'exact', or lower the floor."
            )
        before = mean


def _recall(found: Tensor, truth: Tensor) -> Tensor:
    """Of every row, which part of its neighbors is as near as the true ones: float64 [n]."""
    if truth.shape[1] == 1:
        return torch.ones(len(truth), dtype=torch.float64)
    return (found[:, 1:] <= truth[:, -1:] * (1 + _NEAR)).double().mean(1)
