"""Features on disk as checked shards, which any number of processes write together and a killed one goes on with."""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from smoothscore.errors import UserError
from smoothscore.neighbors.cache import (
    FORMAT,
    MANIFEST,
    Meta,
    damaged,
    folder_to_disk,
    read_manifest,
    to_disk,
    write_manifest,
)
from smoothscore.neighbors.digests import digest_file
from smoothscore.neighbors.extract import extract_rows, features_bar
from smoothscore.neighbors.npy import load_npy
from smoothscore.neighbors.processes import ALONE, Group

SHARDS = 256  # at most: the unit in which processes share the work, and in which a killed one resumes
PATIENCE = 1800.0  # seconds without a new shard after which the other processes are given up


class Features(NamedTuple):
    """Features with what is known of them: ``rows`` float32 [M, F], and the manifest's facts."""

    rows: Tensor
    meta: Meta


def write_features(
    data: Tensor,
    extractor: nn.Module,
    folder: str | Path,
    key: str,
    *,
    group: Group = ALONE,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> None:
    """Extract this process's share of the features into a folder, as ``features-00000.npy`` and so on.

    Shard s belongs to process s mod size. A shard appears whole; those that are there are not made again, whoever made
    them. Batches do not reach over shards, so the features equal those of one process bit for bit.

    Args:
        data: Images [M, *S], float in [0, 1] or uint8 meaning value/255.
        extractor: Any module from float images [B, *S] to features [B, F].
        folder: Where the shards go; it is made where it is absent.
        key: What the features depend on; a folder begun with another key is refused.
        group: This process's place among those that fill the folder.
        batch_size: Images per pass.
        device: Where the pass runs; None: where the extractor's weights are.
        progress: Show a progress bar once it takes more than two seconds.

    Raises:
        UserError: As ``extract_features``; if the folder holds other features; if the disk refuses.
    """
    folder = Path(folder)
    _open_folder(folder, key)
    plan = _plan(len(data), batch_size)
    mine = [number for number in range(len(plan)) if number % group.size == group.rank]
    total = sum(len(plan[number]) for number in mine)
    with features_bar(total, extractor, progress and group.rank == 0) as bar:
        for number in mine:
            if _shard(folder, number).exists():
                bar.update(len(plan[number]))
                continue
            _write_shard(folder, number, extract_rows(data, extractor, plan[number], batch_size, device, bar.update))


def finish_features(
    folder: str | Path, num_rows: int, meta: Meta, *, batch_size: int = 64, patience: float = PATIENCE
) -> None:
    """Wait for the shards of all processes, and close the folder with a manifest of their rows and SHA-256.

    Args:
        folder: A folder that ``write_features`` fills.
        num_rows: M.
        meta: Plain facts to keep.
        batch_size: As it was given to ``write_features``.
        patience: Seconds without a new shard after which the wait ends in an error.

    Raises:
        UserError: If no new shard appears for that long: another process has ended, or writes elsewhere.
    """
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        return
    plan = _plan(num_rows, batch_size)
    missing, since = list(range(len(plan))), time.monotonic()
    while missing := [number for number in missing if not _shard(folder, number).exists()]:
        before = len(missing)
        if time.monotonic() - since > patience:
            raise UserError(
                f"{folder} still lacks {before} of {len(plan)} shards of features, and none came for {patience:.0f} s: "
                "look for a process that ended, and see that all processes have the same cache_dir; run again to go on."
            )
        time.sleep(0.05)
        if any(_shard(folder, number).exists() for number in missing):
            since = time.monotonic()
    notes = [_note(folder, number) for number in range(len(plan))]
    shards = [json.loads(note.read_bytes()) for note in notes]
    write_manifest(folder, {"format": FORMAT, "kind": "features", "shards": shards, "meta": dict(meta)})
    for leftover in [*notes, folder / "key.json"]:
        leftover.unlink(missing_ok=True)


def read_features(folder: str | Path, *, budget: int | None = None) -> Features:
    """Read features back in one piece, every byte checked.

    Args:
        folder: A folder closed by ``finish_features``.
        budget: Bytes that they may take in memory; more are joined in a file beside the shards and mapped. None: no
            limit.

    Raises:
        UserError: If the folder is absent or unfinished, or a shard of it is damaged or missing.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, FORMAT)
    if manifest.get("kind") != "features":
        raise UserError(f"{folder} holds no features: pass a folder of `smoothscore neighbors export-features`.")
    shards = manifest["shards"]
    total, dim = sum(shard["rows"] for shard in shards), int(shards[0]["dim"])
    rows = _whole(folder / "joined.npy", (total, dim), budget)
    start = 0
    for number, shard in enumerate(shards):
        path = _shard(folder, number)
        try:
            if shard["name"] != path.name:  # a forged one might point out of the folder
                raise ValueError(f"the manifest calls it {shard['name']!r}")
            if digest_file(path) != shard["sha256"]:
                raise ValueError("its bytes differ from what was written")
            part = load_npy(path, mmap_mode="r")
            rows[start : start + len(part)] = torch.from_numpy(np.array(part))
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(folder, path.name, error) from error
        start += len(part)
    return Features(rows, manifest["meta"])


def _whole(path: Path, shape: tuple[int, int], budget: int | None) -> Tensor:
    if budget is None or 4 * shape[0] * shape[1] <= budget:
        return torch.empty(shape)
    return torch.from_numpy(np.lib.format.open_memmap(path, "w+", np.dtype(np.float32), shape))


def _plan(num_rows: int, batch_size: int) -> list[range]:
    """Rows of every shard: whole batches, and the same however many processes there are."""
    batches = -(-num_rows // batch_size)
    step = batch_size * -(-batches // SHARDS)
    return [range(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]


def _shard(folder: Path, number: int) -> Path:
    return folder / f"features-{number:05d}.npy"


def _note(folder: Path, number: int) -> Path:
    return folder / f"features-{number:05d}.json"


def _open_folder(folder: Path, key: str) -> None:
    note = folder / "key.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = [path for path in folder.iterdir() if path.suffix != ".tmp"]
        # Looked for after the others: whoever writes a shard has written its key before.
        if note.exists():
            found = json.loads(note.read_bytes())["key"]
        elif (folder / MANIFEST).exists():
            found = read_manifest(folder, FORMAT).get("meta", {}).get("key")
        elif others:
            raise UserError(f"{folder} holds other files: choose an empty folder for the features.")
        else:
            _write(note, json.dumps({"key": key}).encode())
            found = key
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder} cannot be used ({error}): choose another folder.") from error
    if found != key:
        raise UserError(f"{folder} was begun with other images or another extractor: delete it or choose another one.")


def _write_shard(folder: Path, number: int, features: Tensor) -> None:
    path = _shard(folder, number)
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, features.numpy(), allow_pickle=False)
            to_disk(file.fileno(), file.flush)
        facts = {"name": path.name, "rows": len(features), "dim": features.shape[1], "sha256": digest_file(Path(aside))}
        _write(_note(folder, number), json.dumps(facts).encode())
        os.replace(aside, path)  # last: a shard that is there is whole, and has its note
        folder_to_disk(folder)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): free some space or choose another folder.") from error
    finally:
        Path(aside).unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    handle, aside = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        to_disk(file.fileno(), file.flush)
    os.replace(aside, path)
