"""Reading .npy and .npz files of unknown origin: no objects, and one kind of error whatever is wrong with them."""

import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from tokenize import TokenError
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# What numpy lets out where a header or an archive is damaged, besides ValueError.
DAMAGED = (
    *(ValueError, TypeError, KeyError, IndexError, SyntaxError, TokenError, OverflowError, MemoryError, RecursionError),
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError),
)


def load_npy(file: str | Path | BytesIO, *, mmap_mode: Literal["r", "r+", "c"] | None = None) -> npt.NDArray[Any]:
    """Read one array.

    Args:
        file: a .npy file, or its bytes.
        mmap_mode: map it into memory instead, as `numpy.load` does.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no whole array of plain values.
    """
    try:
        array = np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except OSError:
        raise
    except DAMAGED as error:
        raise ValueError(f"it is no whole array: {' '.join(str(error).split())}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive of arrays, not one array")
    return array
