"""Generated images on disk."""

import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from smoothscore.data.seal import SealingWriter, check_seal
from smoothscore.errors import UserError
from smoothscore.neighbors.cache import folder_to_disk
from smoothscore.neighbors.npy import DAMAGED

PARTIAL = ".partial"  # ends the names of files that are being written


@dataclass(frozen=True)
class SampleSet:
    """Images drawn from one model.

    Attributes:
        images: float32 [n, C, H, W], nothing clamped.
        seeds: int64 [n], the seed of each image.
        step: optimizer step of the model.
        nfe: score evaluations per image.
        seconds: wall time of the drawing.
    """

    images: Tensor
    seeds: Tensor
    step: int
    nfe: int
    seconds: float

    def save(self, path: Path) -> None:
        """Write an .npz archive with the digest of its bytes, whole or not at all."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in asdict(self).items()}
        np.savez_compressed(buffer, **arrays)
        with atomic_file(path) as file:
            writer = SealingWriter(file)
            writer.write(buffer.getbuffer())
            writer.finish()

    @classmethod
    def load(cls, path: Path) -> "SampleSet":
        """Read what `save` wrote.

        Raises:
            UserError: a missing or damaged file.
        """
        if not path.is_file():
            raise UserError(
                f"{path} does not exist: the run has drawn no samples yet; let it reach a validation, or run "
                "`smoothscore validate` or `smoothscore predict` with its config and checkpoint."
            )
        try:
            check_seal(path)
            with np.load(path, allow_pickle=False) as archive:
                return cls(
                    torch.from_numpy(archive["images"]),
                    torch.from_numpy(archive["seeds"]),
                    int(archive["step"]),
                    int(archive["nfe"]),
                    float(archive["seconds"]),
                )
        except DAMAGED as error:
            raise UserError(f"{path} is damaged ({error}): delete it and draw the samples again.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written.

    Raises:
        UserError: the disk refuses (full, no permission).
    """
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes its place once all of it has reached the disk, and leaves no trace otherwise.

    Raises:
        UserError: the disk refuses (full, no permission); a file that lay there before is still there, unchanged.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder_to_disk(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): free some space or choose another folder.") from error
