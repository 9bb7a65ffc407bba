"""Building a neighbor table: check, look in the cache, extract features, search."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.errors import UserError
from smoothscore.neighbors.approximate import Kind, choose_index, search_approximate
from smoothscore.neighbors.cache import cached, digest_key
from smoothscore.neighbors.digests import digest_module, digest_tensor
from smoothscore.neighbors.extract import extract_features
from smoothscore.neighbors.features import Pixels, extractor_name
from smoothscore.neighbors.index import Neighbors, num_gpus, require_faiss, search
from smoothscore.neighbors.processes import ALONE, Group
from smoothscore.neighbors.shards import finish_features, read_features, write_features
from smoothscore.neighbors.table import EXACT, NeighborTable


def build_neighbors(
    data: Tensor,
    k: int,
    *,
    extractor: nn.Module | None = None,
    labels: Tensor | None = None,
    index: Kind = "auto",
    recall_floor: float = 0.95,
    probes: int | None = None,
    memory_budget: int | None = None,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    group: Group = ALONE,
    progress: bool = True,
) -> NeighborTable:
    """Find for every training image its k nearest training images: exactly, or nearly all of them where M is large.

    Args:
        data: Training images [M, *S], float, or uint8 meaning value/255.
        k: Neighbors per image, the image itself included; 1 ≤ k < M.
        extractor: Module from images to features [B, F] whose L2 distance is used; None: the pixels.
        labels: Integers [M]; with them only images of the same label are neighbors.
        index: "exact" compares all pairs; "ivf_flat", "hnsw" and "ivf_pq" (least memory) search a part of them and
            compute the distances of what they find exactly; "auto" is exact up to 250,000 images and within a class,
            then "ivf_flat", and "ivf_pq" where the rows exceed the memory budget.
        recall_floor: Part of the true neighbors that an approximate table has to hold, in (0, 1]; it is measured
            against brute force on a sample, and a table under it is refused.
        probes: Cells searched per image (IVF), or width of the walk (HNSW); None: as many as the floor takes.
        memory_budget: Bytes that rows (pixels or features) may take in memory; None: half of the machine's.
        cache_dir: Where tables are kept, found again by the digests of data, extractor, labels, k and index. A table
            with more neighbors serves too, cut to k.
        batch_size: Images per pass of the extractor.
        device: Where the extractor runs; None: where its weights are.
        group: This process's place among those that build one table in one cache (``running_group``): each extracts
            a part of the features, one searches. All of them have to call.
        progress: Show progress bars once work takes more than two seconds.

    Returns:
        NeighborTable: ``indices`` int64 [M, k] and ``distances`` float32 [M, k], not squared, on the CPU; equally
        distant images stand in the order of their index. From a cache it is mapped into memory, not read.

    Raises:
        UserError: If k is out of range, data hold NaN or infinity (the row is named), a class has fewer than k
            images (it is named), an option cannot be met, faiss is missing, or the cache is damaged or stale: all
            before any long work. If the recall stays under its floor.

    Source: arXiv 2601.19285, Sec. 3.2.
    """
    data = data.detach().cpu()
    _check_data(data, k)
    classes = None if labels is None else _check_labels(labels.detach().cpu(), len(data), k)
    _check_index(index, recall_floor, probes, classes is not None)
    exact = classes is not None or choose_index(index, len(data), 0, budget=0) == "exact"
    extractor = None if isinstance(extractor, Pixels) else extractor
    space = extractor_name(extractor)
    budget = _half_of_memory() if memory_budget is None else memory_budget

    def find(rows: Tensor) -> NeighborTable:
        kind = "exact" if exact else choose_index(index, len(rows), rows[0].nbytes, budget=budget)
        accuracy = EXACT
        with tqdm(total=len(rows), desc=f"neighbors ({space})", unit="row", disable=not progress, delay=2) as bar:
            if classes is not None:
                found = _search_classes(rows, k, classes, bar.update)
            elif kind == "exact":
                found = search(rows, k, advance=bar.update)
            else:
                found, accuracy = search_approximate(
                    rows,
                    k,
                    index=kind,
                    recall_floor=recall_floor,
                    probes=probes,
                    advance=bar.update,
                    progress=progress,
                )
        if progress and kind != "exact":
            tqdm.write(f"neighbors ({space}): {accuracy}")
        variant = "class" if classes else "hard"
        return NeighborTable(*found, space=space, variant=variant, data_digest=data_digest, accuracy=accuracy)

    data_digest = digest_tensor(data)
    if cache_dir is None:
        require_faiss()
        if extractor is None:
            return find(data.flatten(1))
        return find(extract_features(data, extractor, batch_size=batch_size, device=device, progress=progress))

    name = re.sub(r"[^\w.-]", "-", space)
    parts: dict[str, str | int] = {
        "data": data_digest,
        "extractor": digest_module(extractor),
        "labels": "none" if labels is None else digest_tensor(labels.long()),
        # Nothing is added for exact tables, which there were before there were others.
        **({} if exact else {"index": index, "recall_floor": repr(recall_floor), "probes": probes or "tuned"}),
    }
    folder, key = _find_folder(Path(cache_dir), name, parts, k)
    aside = folder.with_name(f".{folder.name}.features")

    def extract() -> None:
        if extractor is not None:
            require_faiss()
            write_features(
                data, extractor, aside, key, group=group, batch_size=batch_size, device=device, progress=progress
            )

    def build() -> NeighborTable:
        require_faiss()
        extract()  # of a group's processes only what this one has not done yet
        if extractor is None:
            return find(data.flatten(1))
        finish_features(aside, len(data), {"key": key, "space": space, "data": data_digest}, batch_size=batch_size)
        return find(read_features(aside, budget=budget).rows)

    if group.size > 1 and not folder.exists():
        extract()
    # The others wait for the builder at a lock: a collective would give up long before a large table is done.
    stored = cached(folder, key, lambda: build().to_folder(), verify=group.first_of_host)
    if group.rank == 0:
        shutil.rmtree(aside, ignore_errors=True)  # the table is there: nobody needs the features any more
    return NeighborTable.from_folder(stored, folder, verify=group.first_of_host).truncate(k)


def _find_folder(cache_dir: Path, name: str, parts: dict[str, str | int], k: int) -> tuple[Path, str]:
    """Return folder and key of the table of k neighbors, or of the narrowest wider one that is in the cache."""

    def entry(width: int) -> tuple[Path, str]:
        key = digest_key({**parts, "k": width})
        return cache_dir / f"{name}-k{width}-{key[:16]}", key

    own = entry(k)
    if own[0].exists():
        return own
    there = (re.fullmatch(rf"{re.escape(name)}-k(\d+)-[0-9a-f]{{16}}", path.name) for path in cache_dir.glob("*"))
    widths = sorted({int(match[1]) for match in there if match and int(match[1]) > k})
    return next((entry(width) for width in widths if entry(width)[0].exists()), own)


def _search_classes(rows: Tensor, k: int, classes: list[Tensor], advance: Callable[[int], object]) -> Neighbors:
    """Search every class by itself, exactly, as many at a time as there are cores."""
    faiss = require_faiss()
    indices = torch.empty(len(rows), k, dtype=torch.int64)
    distances = torch.empty(len(rows), k)

    def one(members: Tensor) -> int:  # ascending, so ties keep the order of their index
        found = search(rows[members], k)
        indices[members] = members[found.indices]
        distances[members] = found.distances
        return len(members)

    cores = int(faiss.omp_get_max_threads())
    workers = 1 if num_gpus(faiss) else min(len(classes), cores)
    # The classes are what runs in parallel, so each has its share of the cores.
    with ThreadPoolExecutor(workers, initializer=lambda: faiss.omp_set_num_threads(cores // workers)) as pool:
        for count in pool.map(one, classes):
            advance(count)
    return Neighbors(indices, distances)


def _half_of_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _check_index(index: str, recall_floor: float, probes: int | None, by_class: bool) -> None:
    choose_index(index, 0, 0, budget=0)
    if not 0 < recall_floor <= 1:
        raise UserError(f"recall_floor = {recall_floor} is no recall: take a number in (0, 1], such as 0.95.")
    if probes is not None and probes < 1:
        raise UserError(f"probes = {probes} searches nothing: take 1 or more, or leave it unset to have it found.")
    if by_class and index not in ("auto", "exact"):
        raise UserError(
            f"index = {index!r} does not go with class-restricted tables, which are many small exact searches: leave "
            "index at 'auto'."
        )


def _check_data(data: Tensor, k: int) -> None:
    if data.ndim < 2 or len(data) < 2 or not data[0].numel():
        raise UserError(f"neighbors need at least two images [M, *S], and the data have shape {list(data.shape)}.")
    if data.dtype != torch.uint8 and not data.is_floating_point():
        raise UserError(f"training data are uint8 (meaning value/255) or float in [0, 1], not {data.dtype}: convert.")
    if k < 1:
        raise UserError(f"k = {k} neighbors is too few: k counts the image itself, so it is at least 1.")
    if k >= len(data):
        raise UserError(
            f"k = {k} neighbors is too many for {len(data)} images: take k ≤ {len(data) - 1}, or use "
            "smoothscore.score.Tempered, which smooths over all of them."
        )
    # A sum is NaN or infinite if any value is, and takes no second array; the rows are searched only then.
    if data.is_floating_point() and not data.sum().isfinite():
        bad = (~data.flatten(1).isfinite().all(1)).nonzero()
        if len(bad):
            raise UserError(f"row {int(bad[0])} of the training data holds NaN or infinity: repair or drop that image.")


def _check_labels(labels: Tensor, rows: int, k: int) -> list[Tensor]:
    if labels.shape != (rows,) or labels.is_floating_point():
        raise UserError(f"labels have to be integers [{rows}], one per image, not {labels.dtype} {list(labels.shape)}.")
    names, inverse, counts = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    for name, count in zip(names, counts, strict=True):
        if count < k:
            raise UserError(
                f"class {name} has {count} images, fewer than k = {k}: take k ≤ {counts.min()}, drop that class, or "
                "build the table without labels."
            )
    return list(torch.split(torch.from_numpy(inverse).argsort(stable=True), counts.tolist()))
