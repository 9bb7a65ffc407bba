"""CIFAR-10 as it is distributed: pickled or binary batches, in a folder or in their .tar.gz."""

import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch

from smoothscore.data.base import ImageDataModule
from smoothscore.data.decode import Array, shrink
from smoothscore.data.files import stamp_files, wrong_layout
from smoothscore.data.images import ImageSet, Split
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source
from smoothscore.errors import UserError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST = ("test_batch",)
_DAMAGED = (  # what reading a damaged pickle or archive can raise
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError, ImportError, OverflowError),
    *(MemoryError, pickle.UnpicklingError, tarfile.TarError, zlib.error),
)


class CIFAR10(ImageDataModule):
    """CIFAR-10: 50,000 training and 10,000 test images, 32×32, in ten classes, in their official order.

    Args:
        root: one of cifar-10-batches-py, cifar-10-batches-bin, cifar-10-python.tar.gz and cifar-10-binary.tar.gz, or
            the folder that one of them lies in. Pickles are read by an unpickler that makes numpy arrays only.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=CIFAR10` lists them all.

    Raises:
        UserError: another layout, a batch that is damaged or holds something else (named), a size above 32.

    Source: Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    def __init__(self, *, root: str, **options: Any) -> None:
        super().__init__(root=root, **options)
        if not 1 <= self.image_size <= 32:
            raise UserError(f"CIFAR10: image_size is {self.image_size}, but the images serve sizes up to 32.")

    def read(self) -> Split:
        """Pack the batches, or open their pack."""
        batches = _find(Path(str(self.root)))

        def read(name: str) -> ImageSet:
            pixels, labels = batches.read(name)
            images = torch.from_numpy(pixels.reshape(-1, 3, 32, 32))
            return ImageSet(shrink(images, self.image_size), torch.from_numpy(labels.astype(np.int64)))

        source = Source(
            "CIFAR10",
            self.image_size,
            stamp_files(batches.files),
            {"train": _TRAIN, "test": _TEST},
            read,
            classes=CLASSES,
            block=1,
        )
        return open_pack(source, self.cache_dir).split(self.num_train, self.num_test, self.split_seed)


class _Batches(NamedTuple):
    """Where the batches lie: six files in a folder, or one archive."""

    path: Path
    files: list[Path]
    binary: bool

    def read(self, name: str) -> tuple[Array, Array]:
        """Pixels uint8 [n, 3072] and labels [n] of one batch."""
        file = f"{name}.bin" if self.binary else name
        try:
            content = _read_member(self.path, file) if self.path.is_file() else (self.path / file).read_bytes()
            pixels, labels = _parse_binary(content) if self.binary else _parse_pickle(content)
            if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072 or len(pixels) != len(labels):
                raise ValueError(f"it holds {pixels.dtype} {list(pixels.shape)} and {len(labels)} labels")
            if len(labels) and not (labels.min() >= 0 and labels.max() <= 9):
                raise ValueError(f"its labels reach from {labels.min()} to {labels.max()}")
        except _DAMAGED as error:
            raise UserError(
                f"{self.path / file} is no batch of CIFAR-10 ({error}); expected uint8 [10000, 3072] and as many "
                "labels from 0 to 9: fetch it again."
            ) from error
        return pixels, labels


def _find(root: Path) -> _Batches:
    for place in (root, root / "cifar-10-batches-py", root / "cifar-10-batches-bin"):
        for binary in (False, True):
            files = [place / (f"{name}.bin" if binary else name) for name in (*_TRAIN, *_TEST)]
            if all(file.is_file() for file in files):
                return _Batches(place, files, binary)
    for archive in (root, root / "cifar-10-python.tar.gz", root / "cifar-10-binary.tar.gz"):
        batch = _first_batch(archive) if archive.is_file() else None
        if batch:
            return _Batches(archive, [archive], binary=batch.endswith(".bin"))
    raise wrong_layout(
        root,
        "cifar-10-batches-py (data_batch_1 to data_batch_5 and test_batch), cifar-10-batches-bin (the same with .bin), "
        "or cifar-10-python.tar.gz or cifar-10-binary.tar.gz",
    )


def _first_batch(archive: Path) -> str | None:
    try:
        with tarfile.open(archive) as tar:
            names = (PurePosixPath(member.name).name for member in tar)
            return next((name for name in names if name.removesuffix(".bin") in (*_TRAIN, *_TEST)), None)
    except (OSError, EOFError, tarfile.TarError, zlib.error):
        return None


def _read_member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        for member in tar:
            if PurePosixPath(member.name).name == name and (file := tar.extractfile(member)):
                return file.read()
    raise KeyError(f"{archive.name} has no {name}")


def _parse_binary(content: bytes) -> tuple[Array, Array]:
    if not content or len(content) % 3073:
        raise ValueError(f"its {len(content)} bytes are no multiple of 3073")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    return rows[:, 1:].copy(), rows[:, 0]


def _parse_pickle(content: bytes) -> tuple[Array, Array]:
    found = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    if not isinstance(found, Mapping):
        raise ValueError(f"it holds a {type(found).__name__}")
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
    return np.asarray(batch["data"]), np.asarray(batch["labels"])


class ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays in plain containers, and refuses everything that could run code."""

    _ALLOWED: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numeric", "_frombuffer"): np.empty(0).__reduce_ex__(5)[0],
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # how Python 3 writes bytes by protocol 2
    }

    def find_class(self, module: str, name: str) -> Any:
        """The function of that name, if arrays need it.

        Raises:
            pickle.UnpicklingError: any other name.
        """
        plain = module.removeprefix("numpy.core.").removeprefix("numpy._core.")  # of numpy 1 and 2
        if (plain, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only numpy arrays are let through")
        return self._ALLOWED[plain, name]
