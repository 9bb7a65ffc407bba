"""Search structures for many rows: each proposes candidates, whose distances are computed exactly afterwards."""

import math
from collections.abc import Iterable
from types import ModuleType
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from tqdm import tqdm, trange

from smoothscore.neighbors.index import Floats, knn

BLOCK = 1 << 27  # values of rows decoded at a time
_ITERATIONS = 10  # of k-means; more change the cells, hardly the recall
_PER_CELL = 64  # rows per cell that k-means sees
_LINKS = 32  # of a node of the graph
_BUILD_DEPTH = 80  # candidates kept while a node of the graph is linked
_CODE_BYTES = 64  # of a product quantizer's code, where a row has so many values
_CODES = 256  # centers per byte


class Candidates(NamedTuple):
    """Squared distances, as far as they are known, and rows [n, width]; −1 at an infinite distance where none is."""

    distance_sq: Tensor
    index: Tensor  # type: ignore[assignment]  # tuple.index is not missed


class Structure(Protocol):
    """What answers queries among the rows it was built from."""

    most: int  # probes beyond this change nothing

    def candidates(self, ids: Tensor, width: int, probes: int) -> Candidates:
        """Return up to `width` rows near each of the given rows, int64 [n]; more probes miss fewer."""
        ...


class Points:
    """Rows that stay where and what they are (uint8 or float, in memory or on disk), decoded a block at a time.

    A fixed point is subtracted, which changes no distance and spares matrix products most of their rounding.
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        middle = rows[:: max(1, len(rows) // 1024)].float().mean(0)
        self.middle = middle.round_() if rows.dtype == torch.uint8 else middle

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dim(self) -> int:
        """Values per row."""
        return self.rows.shape[1]

    def take(self, ids: Tensor | slice) -> Tensor:
        """Decode some rows: float32 [n, d]."""
        return torch.sub(self.rows[ids], self.middle)

    def blocks(self, description: str, progress: bool) -> Iterable[slice]:
        """Slices over all rows, with a progress bar."""
        step = max(1, BLOCK // self.dim)
        slices = [slice(start, start + step) for start in range(0, len(self), step)]
        return tqdm(slices, desc=description, disable=not progress, delay=2)

    def sample(self, count: int, seed: int) -> Tensor:
        """Some rows by chance, ascending: int64 [min(count, M)]."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return order[:count].sort().values


def brute_force(faiss: ModuleType, points: Points, ids: Tensor, width: int) -> Candidates:
    """Compare the given rows with all rows, a block of them at a time."""
    heap = faiss.ResultHeap(len(ids), width)
    queries = points.take(ids).numpy()
    for block in points.blocks("brute force", False):
        rows = points.take(block).numpy()
        distance_sq, index = knn(faiss, queries, rows, min(width, len(rows)))
        heap.add_result(distance_sq.numpy(), (index + block.start).numpy())
    return _finished(heap)


def num_cells(rows: int) -> int:
    """About 4 √M, as many as keep finding the cells and searching them at equal cost; never under 39 rows a cell."""
    return max(1, min(round(4 * math.sqrt(rows)), rows // 39))


class Cells:
    """IVF-Flat: rows by their nearest k-means center; a query meets the rows of its nearest cells.

    Queries are gathered by cell, so that each cell is one matrix product instead of a scan per query. The rows are
    not copied: only their order by cell is kept.
    """

    def __init__(self, faiss: ModuleType, points: Points, *, seed: int, progress: bool) -> None:
        self._faiss, self._points = faiss, points
        self.most = num_cells(len(points))
        self._centers = _train_cells(faiss, points, self.most, seed, progress)
        cell = torch.empty(len(points), dtype=torch.int64)
        for block in points.blocks("sorting rows into cells", progress):
            cell[block] = knn(faiss, points.take(block).numpy(), self._centers, 1)[1][:, 0]
        order = cell.argsort(stable=True)
        self._members = torch.split(order, torch.bincount(cell, minlength=self.most).tolist())

    def candidates(self, ids: Tensor, width: int, probes: int) -> Candidates:
        """Search the `probes` nearest cells of each row."""
        queries = self._points.take(ids)
        cells = knn(self._faiss, queries.numpy(), self._centers, probes)[1].flatten()
        by_cell = torch.split(cells.argsort(stable=True), torch.bincount(cells, minlength=self.most).tolist())
        heap = self._faiss.ResultHeap(len(ids), width)
        for pairs, members in zip(by_cell, self._members, strict=True):
            if len(pairs) and len(members):
                asking = pairs // probes
                rows = self._points.take(members).numpy()
                distance_sq, place = knn(self._faiss, queries[asking].numpy(), rows, min(width, len(rows)))
                heap.add_result_subset(asking.numpy(), distance_sq.numpy(), members[place].numpy())
        return _finished(heap)


class Graph:
    """HNSW: a navigable graph over all rows, which are copied into it."""

    def __init__(self, faiss: ModuleType, points: Points, *, seed: int, progress: bool) -> None:
        self._points = points
        self.most = len(points)
        self._index = faiss.IndexHNSWFlat(points.dim, _LINKS)
        self._index.hnsw.efConstruction = _BUILD_DEPTH
        step = 4096
        starts = trange(0, len(points), step, desc="linking the graph", disable=not progress, delay=2)
        for start in starts:
            self._index.add(points.take(slice(start, start + step)).numpy())

    def candidates(self, ids: Tensor, width: int, probes: int) -> Candidates:
        """Keep `probes` candidates (efSearch) on the walk through the graph."""
        self._index.hnsw.efSearch = max(probes, width)
        return _found(*self._index.search(self._points.take(ids).numpy(), width))


class Codes:
    """IVF-PQ: of every row only its cell and a code of some bytes are in memory; the rows are read to re-rank."""

    def __init__(self, faiss: ModuleType, points: Points, *, seed: int, progress: bool) -> None:
        self._points = points
        self.most = num_cells(len(points))
        code_bytes = min(_CODE_BYTES, -(-points.dim // 4))
        self._padding = -points.dim % code_bytes  # zeros, which change no distance
        dim = points.dim + self._padding
        self._quantizer = faiss.IndexFlatL2(dim)  # held here: the index does not own it
        centers = _train_cells(faiss, points, self.most, seed, progress)
        self._quantizer.add(self._padded(torch.from_numpy(centers)))
        self._index = faiss.IndexIVFPQ(self._quantizer, dim, self.most, code_bytes, 8)
        self._index.pq.cp.min_points_per_centroid = 1  # no warning where rows are few: the recall is measured
        self._index.train(self._padded(points.take(points.sample(_CODES * _PER_CELL, seed + 1))))
        for block in points.blocks("encoding rows", progress):
            self._index.add(self._padded(points.take(block)))

    def candidates(self, ids: Tensor, width: int, probes: int) -> Candidates:
        """Search the codes of the `probes` nearest cells."""
        self._index.nprobe = probes
        return _found(*self._index.search(self._padded(self._points.take(ids)), width))

    def _padded(self, rows: Tensor) -> Floats:
        padded: Floats = pad(rows, (0, self._padding)).numpy()
        return padded


def _train_cells(faiss: ModuleType, points: Points, count: int, seed: int, progress: bool) -> Floats:
    rows = points.take(points.sample(count * _PER_CELL, seed)).numpy()
    kmeans = faiss.Kmeans(
        points.dim, count, niter=1, seed=seed, min_points_per_centroid=1, max_points_per_centroid=len(rows)
    )
    centers = None
    # One iteration a call gives a bar; the seed only chooses the first centers.
    for _ in trange(_ITERATIONS, desc="training cells", disable=not progress, delay=2):
        kmeans.train(rows, init_centroids=centers)
        centers = kmeans.centroids
    return kmeans.centroids  # type: ignore[no-any-return]


def _finished(heap: object) -> Candidates:
    heap.finalize()  # type: ignore[attr-defined]
    return _found(heap.D, heap.I)  # type: ignore[attr-defined]


def _found(distance_sq: Floats, index: Floats) -> Candidates:
    found = Candidates(torch.from_numpy(distance_sq), torch.from_numpy(index))
    found.distance_sq[found.index < 0] = torch.inf
    return found
