"""Building a neighbor table: check, look in the cache, extract features, search."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.errors import UserError
from smoothscore.neighbors.cache import cached, digest_key, digest_module, digest_tensor
from smoothscore.neighbors.features import Pixels, extract_features, extractor_name
from smoothscore.neighbors.index import Neighbors, require_faiss, search
from smoothscore.neighbors.table import NeighborTable


def build_neighbors(
    data: Tensor,
    k: int,
    *,
    extractor: nn.Module | None = None,
    labels: Tensor | None = None,
    cache_dir: str | Path | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> NeighborTable:
    """Find for every training image its k nearest training images, exactly.

    Args:
        data: Training images [M, *S], float, or uint8 meaning value/255.
        k: Neighbors per image, the image itself included; 1 ≤ k < M.
        extractor: Module from images to features [B, F] whose L2 distance is used; None: the pixels.
        labels: Integers [M]; with them only images of the same label are neighbors.
        cache_dir: Where tables are kept, found again by the digests of data, extractor, labels and k.
        batch_size: Images per pass of the extractor.
        device: Where the extractor runs; None: where its weights are.
        progress: Show progress bars once work takes more than two seconds.

    Returns:
        NeighborTable: ``indices`` int64 [M, k] and ``distances`` float32 [M, k], not squared, on the CPU; equally
        distant images stand in the order of their index.

    Raises:
        UserError: If k is out of range, data hold NaN or infinity (the row is named), a class has fewer than k
            images (it is named), faiss is missing, or the cache is damaged or stale. All before any long work.

    Source: arXiv 2601.19285, Sec. 3.2.
    """
    data = data.detach().cpu()
    _check_data(data, k)
    classes = None if labels is None else _check_labels(labels.detach().cpu(), len(data), k)
    data_digest = digest_tensor(data)

    def build() -> NeighborTable:
        require_faiss()
        if extractor is None or isinstance(extractor, Pixels):
            rows = data.flatten(1)
        else:
            rows = extract_features(data, extractor, batch_size=batch_size, device=device, progress=progress)
        space = extractor_name(extractor)
        with tqdm(total=len(rows), desc=f"neighbors ({space})", unit="row", disable=not progress, delay=2) as bar:
            found = _search_classes(rows, k, classes, bar.update) if classes else search(rows, k, advance=bar.update)
        variant = "class" if classes else "hard"
        return NeighborTable(*found, space=space, variant=variant, data_digest=data_digest)

    if cache_dir is None:
        return build()
    key = digest_key(
        {
            "data": data_digest,
            "extractor": digest_module(None if isinstance(extractor, Pixels) else extractor),
            "labels": "none" if labels is None else digest_tensor(labels.long()),
            "k": k,
        }
    )
    name = re.sub(r"[^\w.-]", "-", extractor_name(extractor))
    folder = Path(cache_dir) / f"{name}-k{k}-{key[:16]}"
    return NeighborTable.from_folder(cached(folder, key, lambda: build().to_folder()), folder)


def _search_classes(rows: Tensor, k: int, classes: list[Tensor], advance: Callable[[int], object]) -> Neighbors:
    indices = torch.empty(len(rows), k, dtype=torch.int64)
    distances = torch.empty(len(rows), k)
    for members in classes:  # ascending, so ties keep the order of their index
        found = search(rows[members], k, advance=advance)
        indices[members] = members[found.indices]
        distances[members] = found.distances
    return Neighbors(indices, distances)


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
