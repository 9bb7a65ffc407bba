"""The neighbor table: for every training image its K nearest training images, built once before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.neighbors.cache import Folder, Meta, read_folder, write_folder

_ROUNDING = 1e-5  # copies of an image differ by this much where an extractor saw them in different batches
_BLOCK = 1 << 24  # entries checked at a time
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


class Accuracy(NamedTuple):
    """How a table was searched, and how much of it is right.

    Attributes:
        index: "exact", "ivf_flat", "hnsw" or "ivf_pq"; the name of an imported table's engine.
        recall: Part of the true neighbors, the image itself not counted, that the table has; 1 where exact.
        sampled: Rows that were compared with all others to measure it; 0 where the table is exact.
        probes: Cells searched per row, or width of the walk through the graph; 0 where there are none.
    """

    index: str = "exact"  # type: ignore[assignment]  # the field hides tuple.index, which nobody calls
    recall: float = 1.0
    sampled: int = 0
    probes: int = 0

    def __str__(self) -> str:
        if not self.sampled:
            return f"{self.index} search"
        probes = f", {self.probes} probes" if self.probes else ""
        return f"recall {self.recall:.4f} on {self.sampled:,} rows compared with all others ({self.index}{probes})"


EXACT = Accuracy()


@dataclass(frozen=True)
class TableSummary:
    """What a table looks like: distances to the nearest other image, copies, and how often images are neighbors."""

    rows: int
    k: int
    space: str
    variant: str
    nearest: dict[float, float]  # quantile -> distance to the nearest other image
    farthest: dict[float, float]  # quantile -> distance to the last neighbor
    duplicates: int  # images that have an exact copy in this space
    in_degree: dict[float, int]  # quantile -> in how many other images' lists an image stands; the mean is k - 1
    never_neighbor: int  # images in nobody's list but their own
    accuracy: Accuracy = EXACT


@dataclass(frozen=True, eq=False)
class NeighborTable:
    """The K nearest training images of every training image, the image itself first, by identity.

    Attributes:
        indices: int64 [M, K]; ``indices[i, 0] == i`` even where row i has exact copies.
        distances: float32 [M, K], L2, not squared, in the space the neighbors were sought in; column 0 is 0.
        space: Name of that space, e.g. "pixels" or "lite0".
        variant: "hard" (the K nearest of all) or "class" (the K nearest of the same label).
        data_digest: Digest of the training data, empty where unknown.
        accuracy: How it was searched, with the recall that was measured.

    Raises:
        UserError: If shapes or types are wrong, a row does not begin with itself, an index is outside 0..M-1, or
            distances are negative, not finite or not ascending.

    Source: arXiv 2601.19285, Sec. 3.2.
    """

    indices: Tensor
    distances: Tensor
    space: str = "pixels"
    variant: str = "hard"
    data_digest: str = ""
    accuracy: Accuracy = EXACT

    def __post_init__(self) -> None:
        _check_shape(self.indices, self.distances)
        step = max(1, _BLOCK // self.k)
        for start in range(0, len(self), step):
            _check_rows(self.indices, self.distances, slice(start, start + step))

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def k(self) -> int:
        """Neighbors per image, the image itself included."""
        return self.indices.shape[1]

    def truncate(self, k: int) -> NeighborTable:
        """Return the table of the k nearest, a view of this one; 1 ≤ k ≤ K.

        Raises:
            UserError: If k is not in that range.
        """
        if not 1 <= k <= self.k:
            raise UserError(f"k = {k} cannot be cut from a table of k = {self.k}: build a table with a larger k.")
        cut = {"indices": self.indices[:, :k], "distances": self.distances[:, :k]}
        return self._unchecked({**vars(self), **cut})

    @classmethod
    def _unchecked(cls, values: Mapping[str, object]) -> NeighborTable:
        """Return a table whose rows are known to be good, without reading them."""
        table = object.__new__(cls)
        for name, value in values.items():
            object.__setattr__(table, name, value)
        return table

    def radius_mask(self, c: float) -> Tensor:
        """Return which neighbors lie within c times the distance from an image to its nearest other image.

        "Nearest other" is the nearest image that differs: an exact copy lies at distance 0, and a radius of 0 would
        leave an image that stands twice in the data with nothing to smooth it, just the one most in need. Copies are
        within every radius. Where a row holds nothing but copies, all of them take part. Images closer than 1e-5 of
        the distance to the K-th neighbor count as copies: an extractor's rounding parts them no less.

        Args:
            c: Positive factor.

        Returns:
            bool [M, K]; column 0, the image itself, is always True.

        Raises:
            UserError: If c is not positive.

        Source: arXiv 2601.19285, B.4.4.
        """
        if not c > 0:
            raise UserError(f"the radius factor of a neighborhood is {c}; it has to be positive, such as 1.5.")
        other = self.distances.where(~self._copies(), torch.inf).amin(1, keepdim=True)
        return self.distances <= c * other

    def describe(self) -> TableSummary:
        """Summarise the table: nearest distances, copies and hubs (images that are neighbors of very many)."""
        others = self.indices[:, 1:]
        in_degree = torch.bincount(others.reshape(-1), minlength=len(self))
        nearest = self.distances[:, min(1, self.k - 1)]
        return TableSummary(
            rows=len(self),
            k=self.k,
            space=self.space,
            variant=self.variant,
            nearest=_quantiles(nearest),
            farthest=_quantiles(self.distances[:, -1]),
            duplicates=int(self._copies()[:, 1:2].sum()),
            in_degree={q: int(value) for q, value in _quantiles(in_degree).items()},
            never_neighbor=int((in_degree == 0).sum()),
            accuracy=self.accuracy,
        )

    def _copies(self) -> Tensor:
        return self.distances <= _ROUNDING * self.distances[:, -1:]

    def save(self, path: str | Path) -> None:
        """Write the table as a folder: two .npy files and a manifest with their SHA-256; whole or absent.

        Raises:
            UserError: If something that is no table lies at ``path``, or the disk refuses.
        """
        folder = self.to_folder()
        write_folder(path, folder.arrays, folder.meta)

    @classmethod
    def load(cls, path: str | Path, *, k: int | None = None) -> NeighborTable:
        """Open a table and check every byte of it; it stays on the disk, mapped into memory.

        Processes of one machine share the mapped pages, so the table is read once for all of them.

        Args:
            path: Its folder.
            k: Cut to so many neighbors; None: all that it has.

        Raises:
            UserError: If there is no table at ``path``, a file of it was damaged, or it has fewer than k neighbors.
        """
        table = cls.from_folder(read_folder(path), path)
        return table if k is None else table.truncate(k)

    def to_folder(self) -> Folder:
        """Return the table as named arrays and plain facts, as they are written."""
        arrays = {"indices": self.indices.cpu().numpy(), "distances": self.distances.cpu().numpy()}
        meta: Meta = {
            "space": self.space,
            "k": self.k,
            "rows": len(self),
            "variant": self.variant,
            "data": self.data_digest,
            **self.accuracy._asdict(),
        }
        return Folder(arrays, meta)

    @classmethod
    def from_folder(cls, folder: Folder, path: str | Path, *, verify: bool = True) -> NeighborTable:
        """Return the table that was read from ``path``.

        Args:
            folder: What was read.
            path: Where from, for errors.
            verify: False leaves the rows unread: for the other processes of a machine on which one checks all.

        Raises:
            UserError: If the folder holds something else.
        """
        try:
            values = {
                "indices": torch.from_numpy(folder.arrays["indices"]),
                "distances": torch.from_numpy(folder.arrays["distances"]),
                "space": str(folder.meta["space"]),
                "variant": str(folder.meta["variant"]),
                "data_digest": str(folder.meta["data"]),
                "accuracy": _accuracy(folder.meta),
            }
        except KeyError as error:
            raise UserError(f"{path} holds no neighbor table ({error} is missing): pass the folder of one.") from error
        return cls(**values) if verify else cls._unchecked(values)  # type: ignore[arg-type]


def _check_shape(indices: Tensor, distances: Tensor) -> None:
    if indices.ndim != 2 or indices.shape != distances.shape or not indices.numel():
        raise UserError(
            f"a neighbor table has indices and distances [M, K], not {list(indices.shape)} and {list(distances.shape)}."
        )
    if indices.dtype != torch.int64 or distances.dtype != torch.float32:
        raise UserError(f"a neighbor table is int64 and float32, not {indices.dtype} and {distances.dtype}.")


def _check_rows(all_indices: Tensor, all_distances: Tensor, rows: slice) -> None:
    total, indices, distances = len(all_indices), all_indices[rows], all_distances[rows]
    itself = rows.start + torch.arange(len(indices), device=indices.device)
    outside = (indices < 0) | (indices >= total)
    others = indices[:, 1:] == itself[:, None]
    for wrong, what in (
        (outside.any(1), f"an index outside 0..{total - 1}"),
        ((indices[:, 0] != itself) | (distances[:, 0] != 0), "something else than itself at distance 0 in column 0"),
        (others.any(1), "itself a second time"),
        (~(distances.isfinite().all(1) & (distances[:, 1:] >= distances[:, :-1]).all(1)), "unsorted distances"),
    ):
        if wrong.any():
            row = rows.start + int(wrong.nonzero()[0])
            raise UserError(f"row {row} of the neighbor table holds {what}: build or import the table again.")


def _accuracy(meta: Meta) -> Accuracy:
    """Of a table's manifest; tables from before there were others are exact."""
    known = {name: meta[name] for name in Accuracy._fields if name in meta}
    return Accuracy(**known)  # type: ignore[arg-type]


def _quantiles(values: Tensor) -> dict[float, float]:
    ordered = values.sort().values
    return {q: float(ordered[round(q * (len(ordered) - 1))]) for q in QUANTILES}
