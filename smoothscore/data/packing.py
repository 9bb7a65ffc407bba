"""Packing: images are decoded in parallel into one uint8 file, in a folder that is whole or absent."""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from smoothscore.data.images import ImageSet
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError
from smoothscore.neighbors.cache import MANIFEST, digest_key, publish, write_manifest
from smoothscore.neighbors.digests import digest_tensor
from smoothscore.neighbors.npy import load_npy

FORMAT = 1  # of the pack, and of how its pixels come from the files
FILES = ("pixels.npy", "labels.npy")
_PROGRESS = "progress.json"


@dataclass(frozen=True)
class Source:
    """What is to be packed.

    Attributes:
        name: of the data set.
        image_size: side of the square images.
        stamp: digest of the files' names, sizes and modification times.
        parts: names of the items (image files, or files of many images) in the order of their rows; either "train"
            and "test", or "all".
        read: from an item's name to its images, uint8 [n, 3, image_size, image_size]; it raises `UserError` where
            the item is unreadable, and is called from several threads.
        options: what else the pixels depend on.
        classes: names of the labels.
        block: items between two notes of progress, as many as are read at the same time.
    """

    name: str
    image_size: int
    stamp: str
    parts: Mapping[str, Sequence[str]]
    read: Callable[[str], ImageSet]
    options: Mapping[str, str | int] | None = None
    classes: tuple[str, ...] = ()
    block: int = 512

    @property
    def key(self) -> str:
        """Digest of everything that the pack depends on."""
        listed = json.dumps([[part, *names] for part, names in self.parts.items()] + [list(self.classes)])
        facts: dict[str, str | int] = {
            "pack": FORMAT,
            "class": self.name,
            "image_size": self.image_size,
            "stamp": self.stamp,
        }
        return digest_key({**facts, "items": sha256(listed.encode()).hexdigest(), **(self.options or {})})


def build_pack(source: Source, folder: Path, skip_bad: bool) -> None:
    """Pack everything in a folder aside, block by block, and rename it into place.

    A build that was killed goes on where its last block ended, and the pack is the same byte for byte.

    Raises:
        UserError: an unreadable item, where `skip_bad` is not set; nothing but such items; a disk that refuses.
    """
    aside = folder.with_name(f".{folder.name}.partial")
    try:
        aside.mkdir(exist_ok=True)
        progress = _decode(source, aside, skip_bad)
        manifest = {
            "format": FORMAT,
            "key": source.key,
            "class": source.name,
            "classes": source.classes,
            "parts": progress.parts,
            "left_out": progress.left_out,
            "num_left_out": len(progress.left_out),
            "bytes": {name: (aside / name).stat().st_size for name in FILES},
            "digests": {name: digest_tensor(map_array(aside / name)) for name in FILES},
        }
        write_manifest(aside, manifest)
        for leftover in set(aside.iterdir()) - {aside / name for name in (*FILES, MANIFEST)}:
            leftover.unlink()
        publish(aside, folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error}): free some space or set data.init_args.cache_dir."
        ) from error
    finally:
        if aside.exists() and not (aside / _PROGRESS).exists():
            shutil.rmtree(aside, ignore_errors=True)  # nothing to go on from


def map_array(path: Path) -> Tensor:
    """An array on disk as a tensor."""
    # Copy on write: the file stays as it is whatever is done to the tensor, and no byte is read before it is used.
    return torch.from_numpy(load_npy(path, mmap_mode="c"))


@dataclass
class _Progress:
    """How far a build has come: items read, rows of each part, and the names of unreadable items."""

    items: int
    parts: dict[str, int]
    left_out: list[str]

    @property
    def rows(self) -> int:
        return sum(self.parts.values())


def _decode(source: Source, aside: Path, skip_bad: bool) -> _Progress:
    """Write pixels and labels of all items that were not yet."""
    note = aside / _PROGRESS
    done = (
        _Progress(**json.loads(note.read_bytes()))
        if note.exists()
        else _Progress(0, dict.fromkeys(source.parts, 0), [])
    )
    items = [(part, name) for part, names in source.parts.items() for name in names]

    def read(item: tuple[str, str]) -> ImageSet | UserError:
        try:
            return source.read(item[1])
        except UserError as error:
            return error

    with (
        _Column(aside / FILES[0], "|u1", (3, source.image_size, source.image_size)) as pixels,
        _Column(aside / FILES[1], "<i8", ()) as labels,
        ThreadPoolExecutor(min(32, os.cpu_count() or 1)) as pool,
        tqdm(total=len(items), initial=done.items, desc=f"packing {source.name}", unit="file", delay=2) as bar,
    ):
        for start in range(done.items, len(items), source.block):
            block = items[start : start + source.block]
            kept, row = [], done.rows
            for (part, name), found in zip(block, pool.map(read, block), strict=True):
                if isinstance(found, ImageSet):
                    kept.append(found)
                    done.parts[part] += len(found.pixels)
                elif skip_bad:
                    done.left_out.append(name)
                else:
                    raise found
                bar.update()
            if kept:
                pixels.write(torch.cat([images.pixels for images in kept]), row)
                labels.write(torch.cat([images.labels for images in kept]), row)
            done.items += len(block)
            write_atomically(note, json.dumps(asdict(done)).encode())
        if not done.rows:
            raise UserError(
                f"{source.name}: none of the {len(items)} files can be read, the first of them {items[0][1]}."
            )
        pixels.end(done.rows)
        labels.end(done.rows)
    return done


class _Column:
    """A .npy file that grows by rows; numpy's header leaves room for a larger number of them."""

    def __init__(self, path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        self._file = path.open("r+b" if path.exists() else "w+b")
        self._dtype, self._shape = np.dtype(dtype), shape
        self._row_bytes = self._dtype.itemsize * int(np.prod(shape))
        self._write_header(0)
        self._start = self._file.tell()

    def __enter__(self) -> "_Column":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: Tensor, at: int) -> None:
        """Put rows at a row of the file, and see them on the disk."""
        self._file.seek(self._start + at * self._row_bytes)
        self._file.write(np.ascontiguousarray(rows.numpy(), self._dtype).data)
        self._to_disk()

    def end(self, num_rows: int) -> None:
        """Let the file have so many rows."""
        self._file.truncate(self._start + num_rows * self._row_bytes)
        self._write_header(num_rows)
        self._to_disk()

    def _to_disk(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_header(self, num_rows: int) -> None:
        self._file.seek(0)
        descr = np.lib.format.dtype_to_descr(self._dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (num_rows, *self._shape)}
        np.lib.format.write_array_header_1_0(self._file, header)
