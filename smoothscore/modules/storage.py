"""Checkpoints that are whole or absent: written aside, digested, renamed, and compared when they are read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from smoothscore.data.samples import PARTIAL, atomic_file
from smoothscore.data.seal import SealingWriter
from smoothscore.errors import UserError
from smoothscore.modules.checkpoint import read_checkpoint


def write_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint with the SHA-256 of its bytes, whole or not at all; `torch.load` reads it as any other.

    Args:
        content: what Lightning saves.
        path: the file; one that lies there is replaced once the new one has reached the disk.

    Raises:
        UserError: the disk refuses (full, no permission); a file that lay there before is still there, unchanged.
    """
    with atomic_file(path) as file:
        writer = SealingWriter(file)
        torch.save(dict(content), cast(BinaryIO, writer))
        writer.finish()


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's reading and writing of checkpoints, made safe: the plugin that `smoothscore fit` uses.

    Writing: to a file aside, to the disk, then renamed; an error of the disk is raised (Lightning's own hides a
    missing permission). Reading: nothing in the file is run, and every flipped byte is seen. What is addressed by a
    URL goes Lightning's own way, since object stores have their own digests and no renames.

    In Python: `Trainer(plugins=[CheckpointFiles()])`.

    Raises:
        UserError: the disk refuses; a file that is damaged, no checkpoint, or asks for code to be run.
    """

    def __init__(self) -> None:
        super().__init__()
        self._swept: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; Lightning calls this on the first process only."""
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if storage_options is not None:
            raise UserError("CheckpointFiles takes no storage_options: leave them out, or name a URL.")
        path = Path(path)
        self._sweep(path.parent)
        write_checkpoint(checkpoint, path)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint on the CPU, never running code that it may hold, whatever `weights_only` says."""
        if "://" in str(path):
            return super().load_checkpoint(path, weights_only=True)
        return read_checkpoint(Path(path), mmap=False)

    def _sweep(self, folder: Path) -> None:
        """Remove, once, what a process that was killed while writing has left."""
        if folder not in self._swept:
            self._swept.add(folder)
            for leftover in folder.glob(f".*.ckpt.*{PARTIAL}"):
                leftover.unlink(missing_ok=True)
