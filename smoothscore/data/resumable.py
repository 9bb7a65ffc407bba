"""Arrays that are computed block by block and kept on disk, so that work that was killed goes on where it stood."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from smoothscore.data.packing import map_array
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError
from smoothscore.neighbors.cache import locked

_PROGRESS = "progress.json"
_FORMAT = 1

Parts = Mapping[str, str | int | float | bool | None]


class Column(NamedTuple):
    """One array: its type, and the shape of one row."""

    dtype: torch.dtype
    shape: tuple[int, ...] = ()


def fill_rows(
    folder: Path,
    parts: Parts,
    columns: Mapping[str, Column],
    total: int,
    compute: Callable[[slice], Mapping[str, Tensor]],
    *,
    block: int,
    progress: str,
    unit: str = "row",
) -> dict[str, Tensor]:
    """Compute rows of some arrays, or go on computing them, and return the arrays mapped from disk.

    Rows reach the disk before the note that says so, block by block, so after a kill at any moment at most one block
    is computed again. Of several processes one computes and the others wait.

    Args:
        folder: where the arrays and the note of progress lie.
        parts: everything that the rows depend on, digests of data among it.
        columns: name → type and shape of a row.
        total: number of rows.
        compute: from a slice of rows to these rows of every column.
        block: rows between two notes of progress.
        progress: what the bar is called.
        unit: what a row is called.

    Returns:
        name → array [total, *shape], memory-mapped.

    Raises:
        UserError: the folder holds the work of other parts (they are named), or cannot be written.
    """
    with locked(folder):
        try:
            done = _open(folder, parts, columns, total)
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in columns}
            with tqdm(total=total, initial=done, desc=progress, unit=unit, delay=2) as bar:
                for start in range(done, total, block):
                    rows = slice(start, min(start + block, total))
                    for name, values in compute(rows).items():
                        arrays[name][rows] = values.cpu().numpy()
                    for array in arrays.values():
                        array.flush()
                    _note(folder, parts, rows.stop)
                    bar.update(rows.stop - start)
        except OSError as error:
            raise UserError(
                f"{folder} cannot be written ({error}): free some space or choose another folder."
            ) from error
    return {name: map_array(folder / f"{name}.npy") for name in columns}


def _open(folder: Path, parts: Parts, columns: Mapping[str, Column], total: int) -> int:
    """Rows that are done; a folder without a note is begun."""
    note = folder / _PROGRESS
    if note.exists():
        return _read_note(note, parts)
    folder.mkdir(parents=True, exist_ok=True)
    for name, column in columns.items():
        dtype = torch.empty(0, dtype=column.dtype).numpy().dtype
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (total, *column.shape)).flush()
    _note(folder, parts, 0)
    return 0


def _read_note(note: Path, parts: Parts) -> int:
    try:
        content = json.loads(note.read_bytes())
        before, done = dict(content["parts"]), int(content["done"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{note} is damaged ({error}): delete the folder {note.parent} and run again.") from error
    if content.get("format") != _FORMAT or before != dict(parts):
        names = sorted(set(before) | set(parts))
        changed = [name for name in names if before.get(name) != parts.get(name)] or ["format"]
        raise UserError(
            f"{note.parent} is stale: it holds work for other {', '.join(changed)}. Run with what it was begun with, "
            "name another folder, or delete this one."
        )
    return done


def _note(folder: Path, parts: Parts, done: int) -> None:
    content = {"format": _FORMAT, "parts": dict(parts), "done": done}
    write_atomically(folder / _PROGRESS, json.dumps(content, indent=1).encode())
