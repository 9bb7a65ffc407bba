"""Hand-off to other engines: features go out as shards, neighbors come back and are checked first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.errors import UserError
from smoothscore.neighbors.approximate import SAMPLE, check_recall, exact_distances, measure_recall
from smoothscore.neighbors.cache import Meta, digest_key
from smoothscore.neighbors.digests import digest_module, digest_tensor
from smoothscore.neighbors.features import Pixels, extractor_name
from smoothscore.neighbors.npy import load_npy
from smoothscore.neighbors.shards import finish_features, read_features, write_features
from smoothscore.neighbors.table import Accuracy, NeighborTable

_ROWS = 1 << 16  # checked at a time
_SAME = 0.2  # relative: codes give distances so far from the true ones, a square or other features farther


def export_features(
    data: Tensor,
    folder: str | Path,
    *,
    extractor: nn.Module | None = None,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> None:
    """Write the features of all images as float32 shards ``features-00000.npy``, … with a manifest; resumable.

    Args:
        data: Training images [M, *S], float in [0, 1] or uint8 meaning value/255.
        folder: Where they go: an empty or absent folder, or one that an earlier call did not finish.
        extractor: Module from images to features [B, F]; None: the pixels.
        batch_size: Images per pass.
        device: Where the extractor runs; None: where its weights are.
        progress: Show a progress bar once it takes more than two seconds.

    Raises:
        UserError: If the features are not usable, the folder holds something else, or the disk refuses.
    """
    extractor = extractor or Pixels()
    digest = digest_tensor(data)
    facts: dict[str, str | int] = {"data": digest, "extractor": digest_module(extractor), "batch_size": batch_size}
    key = digest_key(facts)
    write_features(data, extractor, folder, key, batch_size=batch_size, device=device, progress=progress)
    meta: Meta = {"key": key, "space": extractor_name(extractor), "data": digest, "rows": len(data)}
    finish_features(folder, len(data), meta, batch_size=batch_size)


def import_table(
    features: str | Path,
    indices: Sequence[str | Path],
    distances: Sequence[str | Path],
    *,
    squared: bool,
    k: int | None = None,
    with_self: bool = False,
    engine: str = "imported",
    recall_floor: float = 0.95,
    progress: bool = True,
) -> NeighborTable:
    """Check the neighbors that another engine found among exported features, and make a table of them.

    Ids have to be in range, none the row's own (unless declared), none twice in a row; distances have to ascend, and
    to be what they are declared to be, which a sample tells. The recall is measured by brute force on 1000 rows. The
    table then holds distances computed anew, exact to float32, as those of every other table.

    Args:
        features: The folder that ``export_features`` wrote.
        indices: Files int64 [m, K], which together have a row for each of the M images, in their order.
        distances: Files float32 [m, K] beside them.
        squared: Whether the distances are squared.
        k: Keep so many neighbors, the image itself included, after the distances were computed anew: an engine that
            works with codes is asked for more. None: all.
        with_self: Whether every row lists itself too; it is then dropped by its id, wherever it stands, and rows
            that lack it lose their last neighbor.
        engine: What to call the search in the table.
        recall_floor: Part of the true neighbors that the table has to hold.
        progress: Show a progress bar once it takes more than two seconds.

    Returns:
        NeighborTable of k neighbors, by default K + 1, or K where ``with_self`` is set; the image itself comes first.

    Raises:
        UserError: If a check fails: the file, or the first bad row, is named.
    """
    rows, meta = read_features(features)
    given = _join(indices, np.dtype(np.int64), len(rows))
    lengths = _join(distances, np.dtype(np.float32), len(rows))
    if given.shape != lengths.shape:
        raise UserError(f"indices are {list(given.shape)} and distances {list(lengths.shape)}: give files that match.")
    own = given.shape[1] + (0 if with_self else 1)
    k = own if k is None else k
    if not 1 <= k <= own:
        raise UserError(f"k = {k} cannot be kept of {own} neighbors (itself included): ask the engine for more.")
    neighbors = torch.empty(len(rows), own, dtype=torch.int64)
    for start in range(0, len(rows), _ROWS):
        part = slice(start, start + _ROWS)
        _check(given[part], lengths[part], start, len(rows), with_self)
        neighbors[part] = _own_first(given[part], start, with_self)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    sample = order[:SAMPLE].sort().values
    few = sample[:: max(1, len(sample) // 200)]
    _check_meaning(rows, given[few], lengths[few], few, squared)
    kept = exact_distances(rows, neighbors[sample], sample).indices[:, :k]
    accuracy = Accuracy(engine, measure_recall(rows, kept, sample), len(sample))
    check_recall(accuracy, recall_floor)
    with tqdm(total=len(rows), desc="exact distances", unit="row", disable=not progress, delay=2) as bar:
        found = exact_distances(rows, neighbors, advance=bar.update)
    return NeighborTable(
        found.indices[:, :k].contiguous(),
        found.distances[:, :k].contiguous(),
        space=str(meta["space"]),
        data_digest=str(meta["data"]),
        accuracy=accuracy,
    )


def _join(paths: Sequence[str | Path], dtype: "np.dtype[np.generic]", total: int) -> Tensor:
    parts = []
    for path in paths:
        try:
            part = load_npy(path, mmap_mode="c")
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} is no .npy array ({error}): give the files that the engine's recipe saves."
            ) from error
        if part.dtype != dtype or part.ndim != 2:
            raise UserError(f"{path} holds {part.dtype} {list(part.shape)}, expected {dtype} [m, K]: convert it.")
        parts.append(torch.from_numpy(part))
    if len({part.shape[1] for part in parts}) != 1:
        raise UserError(f"the files {', '.join(map(str, paths))} have different numbers of columns: give one search.")
    rows = sum(map(len, parts))
    if rows != total:
        raise UserError(
            f"{paths[0]} and those after it have {rows} rows, but there are {total} features: give all files."
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _check(indices: Tensor, distances: Tensor, start: int, total: int, with_self: bool) -> None:
    itself = start + torch.arange(len(indices))
    ordered = indices.sort(1).values
    rising = (distances[:, 1:] >= distances[:, :-1]).all(1)
    mine = (indices == itself[:, None]).any(1)
    for wrong, what, cure in (
        (((indices < 0) | (indices >= total)).any(1), f"an index outside 0..{total - 1}", "search again"),
        (mine & (not with_self), "itself", "declare it with --with_self true, and it is dropped"),
        ((ordered[:, 1:] == ordered[:, :-1]).any(1), "a neighbor twice", "merge the engine's parts by id"),
        (
            ~(distances.isfinite() & (distances >= 0)).all(1),
            "a distance that is negative or not finite",
            "search again",
        ),
        (~rising, "unsorted distances", "sort every row by distance"),
    ):
        if wrong.any():
            raise UserError(f"row {start + int(wrong.nonzero()[0])} of the imported neighbors holds {what}: {cure}.")


def _own_first(indices: Tensor, start: int, with_self: bool) -> Tensor:
    itself = start + torch.arange(len(indices))[:, None]
    if not with_self:
        return torch.cat([itself, indices], 1)
    mine = indices == itself
    mine[~mine.any(1), -1] = True  # the one that goes where a row does not list itself
    return torch.cat([itself, indices[~mine].view(len(indices), -1)], 1)


def _check_meaning(rows: Tensor, indices: Tensor, distances: Tensor, ids: Tensor, squared: bool) -> None:
    true = torch.linalg.vector_norm(rows[indices] - rows[ids, None], dim=2)
    declared = distances.sqrt() if squared else distances
    error = float((declared - true).abs().sum() / true.sum().clamp(min=1e-30))
    if error > _SAME:
        other = float(((distances if squared else distances.sqrt()) - true).abs().sum() / true.sum().clamp(min=1e-30))
        hint = f"they are {'plain' if squared else 'squared'}: say --squared {str(not squared).lower()}"
        raise UserError(
            f"the distances are declared {'squared' if squared else 'plain'}, but differ by {error:.0%} from the true "
            f"ones of {len(ids)} rows: {hint if other <= _SAME else 'they belong to other features'}."
        )
