"""Folders of arrays that are whole or absent: locked, written aside, renamed, checked when read."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from smoothscore.errors import UserError
from smoothscore.neighbors.digests import digest_file
from smoothscore.neighbors.npy import load_npy

FORMAT = 2  # of the folder, and of what the cached numbers mean
MANIFEST = "manifest.json"

Array: TypeAlias = npt.NDArray[Any]
Meta: TypeAlias = Mapping[str, str | int | float | bool | None]


class Folder(NamedTuple):
    """What a folder holds: named arrays and plain facts about them."""

    arrays: Mapping[str, Array]
    meta: Meta


def digest_key(parts: Mapping[str, str | int]) -> str:
    """Return the SHA-256 of named plain values, the format's version among them."""
    return hashlib.sha256(_encode({"format": FORMAT, **parts})).hexdigest()


def write_folder(path: str | Path, arrays: Mapping[str, Array], meta: Meta) -> None:
    """Write arrays as ``NAME.npy`` with a manifest of their SHA-256, so that the folder is whole or absent.

    Everything goes to a folder aside, reaches the disk, and is then renamed. An empty folder or one written here
    before is replaced.

    Raises:
        UserError: If something else lies at ``path``, or the disk refuses (full, no permission).
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and (not any(path.iterdir()) or (path / MANIFEST).exists())):
        raise UserError(f"{path} exists and is not a folder of arrays written by smoothscore: choose another path.")
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        new, old = aside / "new", aside / "old"
        new.mkdir()
        for name, array in arrays.items():
            with (new / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                to_disk(file.fileno(), file.flush)
        files = {name: digest_file(new / f"{name}.npy") for name in sorted(arrays)}
        write_manifest(new, {"format": FORMAT, "files": files, "meta": dict(meta)})
        if path.exists():
            path.rename(old)
        publish(new, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): free some space or choose another path.") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def read_folder(path: str | Path, *, verify: bool = True) -> Folder:
    """Map the arrays of a folder written by ``write_folder`` into memory, and check every byte of it.

    Args:
        path: The folder.
        verify: False checks the manifest and the arrays' headers only: for the other processes of a machine on which
            one process checks all.

    Raises:
        UserError: If the folder is absent, or any file of it is missing or differs from what was written.
    """
    path = Path(path)
    manifest = read_manifest(path, FORMAT)
    arrays = {}
    for name, digest in manifest["files"].items():
        try:
            if not re.fullmatch(r"[\w-]+", name):
                raise ValueError("its name would lead out of the folder")
            if verify and digest_file(path / f"{name}.npy") != digest:
                raise ValueError("its bytes differ from what was written")
            # Copy on write: the file stays as it is whatever is done to the array.
            arrays[name] = load_npy(path / f"{name}.npy", mmap_mode="c")
        except (OSError, ValueError) as error:
            raise damaged(path, f"{name}.npy", error) from error
    return Folder(arrays, manifest["meta"])


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write a folder's manifest together with the digest of itself, so that a flipped byte of it shows too."""
    with (folder / MANIFEST).open("wb") as file:
        file.write(_sealed(content))
        to_disk(file.fileno(), file.flush)


def read_manifest(folder: Path, version: int) -> dict[str, Any]:
    """Read a folder's manifest and check every byte of it, and the format it was written in.

    Raises:
        UserError: If it is absent, damaged, or of another format.
    """
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"there is no {folder / MANIFEST}: pass a folder that smoothscore wrote; if this is one, it is damaged: "
            "delete the folder and build it again."
        )
    try:
        written = (folder / MANIFEST).read_bytes()
        manifest: dict[str, Any] = json.loads(written)
        manifest.pop("sha256")
        if _sealed(manifest) != written:
            raise ValueError("its bytes differ from what was written")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise damaged(folder, MANIFEST, error) from error
    if manifest["format"] != version:
        raise UserError(
            f"{folder} has format {manifest['format']}, and this version of smoothscore reads format {version}: delete "
            "the folder and build it again."
        )
    return manifest


def publish(aside: Path, path: Path) -> None:
    """Rename a finished folder into its place, once all of it has reached the disk."""
    folder_to_disk(aside)
    aside.rename(path)
    folder_to_disk(path.parent)


def damaged(folder: Path, name: str, error: Exception) -> UserError:
    """Return the error that says which file of a folder is damaged."""
    return UserError(f"{folder / name} is damaged ({error}): delete the folder {folder} and build it again.")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a cached folder: one process builds it, others wait.

    Raises:
        UserError: If the cache cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        lock.acquire()
    except OSError as error:
        raise UserError(f"the cache {folder.parent} cannot be used ({error}): choose another `cache_dir`.") from error
    try:
        yield
    finally:
        lock.release()


def cached(folder: str | Path, key: str, build: Callable[[], Folder], *, verify: bool = True) -> Folder:
    """Return what ``folder`` holds; build and write it first where it is absent. One process builds, others wait.

    Args:
        folder: Where it is kept.
        key: What it depends on.
        build: What makes it.
        verify: See ``read_folder``.

    Raises:
        UserError: If the folder is damaged, or was written for another key.
    """
    folder = Path(folder)
    if not folder.exists():
        with locked(folder):
            if not folder.exists():
                for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a builder that was killed
                    shutil.rmtree(leftover, ignore_errors=True)
                built = build()
                write_folder(folder, built.arrays, {**built.meta, "key": key})
    found = read_folder(folder, verify=verify)
    if found.meta.get("key") != key:
        raise UserError(
            f"the cache folder {folder} is stale: it was written for key {found.meta.get('key')}, and key {key} is "
            "asked for: delete the folder and run again."
        )
    return found


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, indent=1).encode()


def _sealed(manifest: Mapping[str, Any]) -> bytes:
    return _encode({**manifest, "sha256": hashlib.sha256(_encode(manifest)).hexdigest()})


def to_disk(descriptor: int, flush: Callable[[], None]) -> None:
    """See a file's bytes on the disk."""
    flush()
    os.fsync(descriptor)


def folder_to_disk(path: Path) -> None:
    """Make the renames in a folder outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
