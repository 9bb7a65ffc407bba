"""The training pixels as uint8, beside the network if they fit there, so that a step gathers its neighbors at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smoothscore.errors import UserError
from smoothscore.neighbors.digests import digest_tensor
from smoothscore.neighbors.table import NeighborTable

_PIECE = 1 << 20  # bytes gathered at a time on the CPU: they stay in the cache until they are converted


class NeighborStore(nn.Module):
    """Training pixels and their table as buffers that follow the module, and never enter its state dict.

    Pixels within `device_budget` are such a buffer. Others stay on the host, and only the neighbors of a batch go to
    the device: within `host_budget` the pixels are kept in memory (page-locked where there is CUDA), beyond it they
    stay as they were given, so a memory-mapped array is read from the disk. The images are the same in each place.

    Args:
        table: Neighbors of every row of ``data``.
        data: Training images [M, *S], uint8 meaning value/255 (a quarter of the memory), or float in [0, 1].
        radius: Factor c of a radius neighborhood (``table.radius_mask``); None: all K neighbors take part.
        device_budget: Bytes that the pixels may take on the device; None: no limit.
        host_budget: Bytes that pixels beyond that may take in the host's memory; None: no limit.

    Raises:
        UserError: If table and data have different numbers of rows, or the table was built for other data.
    """

    pixels: Tensor
    indices: Tensor
    takes_part: Tensor | None

    def __init__(
        self,
        table: NeighborTable,
        data: Tensor,
        *,
        radius: float | None = None,
        device_budget: int | None = None,
        host_budget: int | None = None,
    ) -> None:
        super().__init__()
        if len(table) != len(data):
            raise UserError(
                f"the neighbor table has {len(table)} rows and the training data {len(data)}: build it for these data."
            )
        digest = digest_tensor(data)
        # Only equal types can be compared: a float copy of uint8 images is the same data with another digest.
        if table.data_digest.split(":")[0] == digest.split(":")[0] and table.data_digest != digest:
            raise UserError(
                "the neighbor table is stale: it was built for other images than the training data given "
                f"({table.data_digest[:19]}… against {digest[:19]}…): build it again."
            )
        self.image_shape = tuple(data.shape[1:])
        rows = data.detach().flatten(1)
        # As integers, float pixels survive module.half(), which casts every floating buffer.
        rows = rows if rows.dtype == torch.uint8 else rows.float().contiguous().view(torch.int32)
        if _fits(rows, device_budget):
            self.register_buffer("pixels", rows, persistent=False)
        else:  # a plain attribute stays where it is when the module moves
            self.pixels = rows.pin_memory() if _fits(rows, host_budget) and torch.cuda.is_available() else rows
        self.register_buffer("indices", table.indices.int(), persistent=False)
        mask = None if radius is None else table.radius_mask(radius)
        self.register_buffer("takes_part", mask, persistent=False)

    @property
    def k(self) -> int:
        """Neighbors per image, the image itself included."""
        return self.indices.shape[1]

    def images(self, index: Tensor, k: int | None = None, *, out: Tensor | None = None) -> Tensor:
        """Gather the k nearest training images of each given row, the row itself first.

        Args:
            index: Rows of the training data, int64 [B], on this store's device (where its table lies).
            k: How many; None: all K of the table.
            out: float32 [B, k, *S] to fill and return. Fresh memory costs the CPU more than the gather itself
                (the system clears every page), so a training loop is faster with a buffer of its own.

        Returns:
            Images, float32 [B, k, *S] in [0, 1]; uint8 values are divided by 255 exactly.

        Raises:
            UserError: If k is out of range.
        """
        k = self._width(k)
        rows = self.indices[:, :k].index_select(0, index).view(-1)
        if out is None:
            shape = (len(index), k, *self.image_shape)
            out = torch.empty(shape, dtype=torch.float32, device=self.indices.device)
        flat = out.view(len(rows), self.pixels.shape[1])
        if self.pixels.device != self.indices.device:
            _decode(self._bring(rows), flat)
            return out
        on_cpu = self.pixels.device.type == "cpu"
        step = max(1, _PIECE // self.pixels[0].nbytes) if on_cpu else max(1, len(rows))
        for piece, part in zip(torch.split(flat, step), torch.split(rows, step), strict=True):
            _decode(self.pixels.index_select(0, part), piece)
        return out

    def mask(self, index: Tensor, k: int | None = None) -> Tensor | None:
        """Return which neighbors of the given rows take part, bool [B, k]; None where all of them do."""
        k = self._width(k)
        return None if self.takes_part is None else self.takes_part[:, :k].index_select(0, index)

    def _bring(self, rows: Tensor) -> Tensor:
        """Rows of host pixels on the device, by way of page-locked memory, which the copy need not be waited for."""
        shape = (len(rows), self.pixels.shape[1])
        found = torch.empty(shape, dtype=self.pixels.dtype, pin_memory=rows.is_cuda)
        torch.index_select(self.pixels, 0, rows.cpu(), out=found)
        return found.to(rows.device, non_blocking=True)

    def _width(self, k: int | None) -> int:
        if k is None:
            return self.k
        if not 1 <= k <= self.k:
            raise UserError(f"k = {k} neighbors were asked of a table of k = {self.k}: build a table with a larger k.")
        return k


def _fits(rows: Tensor, budget: int | None) -> bool:
    return budget is None or rows.nbytes <= budget


def _decode(found: Tensor, out: Tensor) -> None:
    """Pixels as they are stored, to float32."""
    if found.dtype == torch.uint8:
        out.copy_(found).div_(255)
    else:
        out.copy_(found.view(torch.float32))
