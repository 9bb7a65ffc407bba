"""Generated images on disk."""

import io
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothscore.errors import UserError


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
        """Write an .npz archive, whole or not at all."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: np.asarray(value) for name, value in asdict(self).items()}
        np.savez_compressed(buffer, **arrays)
        write_atomically(path, buffer.getvalue())

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
            with np.load(path, allow_pickle=False) as archive:
                return cls(
                    torch.from_numpy(archive["images"]),
                    torch.from_numpy(archive["seeds"]),
                    int(archive["step"]),
                    int(archive["nfe"]),
                    float(archive["seconds"]),
                )
        except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError) as error:
            raise UserError(f"{path} is damaged ({error}): delete it and draw the samples again.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is never seen half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
