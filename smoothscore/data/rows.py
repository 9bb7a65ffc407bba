"""A loader whose every batch is a function of (seed, batches drawn so far): it resumes anywhere, bit for bit."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from smoothscore.data.images import Batch, ImageSet


class RowStream:
    """Endless stream of training rows: one permutation of all rows after another, cut into batches.

    Process `rank` of `world_size` takes every world_size-th batch; a batch may reach over the end of a permutation,
    so no row is dropped, padded or drawn twice within a pass.
    """

    def __init__(self, num_rows: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed
        self.rank, self.world_size = rank, world_size

    def batch(self, step: int) -> Tensor:
        """Rows int64 [batch_size] of this process at the step, counted from the first of the whole training."""
        start = (step * self.world_size + self.rank) * self.batch_size
        passes = range(start // self.num_rows, (start + self.batch_size - 1) // self.num_rows + 1)
        rows = torch.cat([self._permutation(number) for number in passes])
        return rows[start - passes[0] * self.num_rows :][: self.batch_size]

    def _permutation(self, number: int) -> Tensor:
        if getattr(self, "_cached", (None,))[0] != number:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
            self._cached = (number, torch.randperm(self.num_rows, generator=generator))
        return self._cached[1]


class _Rows(Dataset[Batch]):
    """A map from a list of rows to one Batch (a whole batch is one indexing call)."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, rows: Tensor) -> Batch:
        return Batch(self.images.pixels[rows], rows, self.images.labels[rows])

    def __len__(self) -> int:
        return len(self.images.pixels)


class _StreamSampler:
    """Batches from wherever `next_step` stands to the end of its epoch."""

    def __init__(self, stream: RowStream, epoch_steps: int, next_step: int) -> None:
        self.stream, self.epoch_steps, self.next_step = stream, epoch_steps, next_step

    def __len__(self) -> int:
        return self.epoch_steps

    def __iter__(self) -> Iterator[Tensor]:
        first = self.next_step
        last = (first // self.epoch_steps + 1) * self.epoch_steps
        return (self.stream.batch(step) for step in range(first, last))


class TrainLoader:
    """Training batches of `RowStream`, with the state of a loader: `state_dict` after n batches resumes at batch n.

    It is no `DataLoader` itself, so that a Trainer neither re-creates it nor swaps its sampler, and it takes no notice
    of epoch numbers: a training that stopped inside an epoch goes on with the batch after its last one.
    """

    def __init__(
        self, images: ImageSet, stream: RowStream, *, epoch_steps: int, next_step: int = 0, num_workers: int = 0
    ) -> None:
        self.sampler = _StreamSampler(stream, epoch_steps, next_step)
        self._loader = DataLoader(
            _Rows(images),
            sampler=self.sampler,  # type: ignore[arg-type]  # yields whole batches of rows
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            self.sampler.next_step += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The number of batches drawn since training began."""
        return {"next_step": self.sampler.next_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the batch after the last one drawn."""
        self.sampler.next_step = state["next_step"]


class FixedLoader:
    """The rows of one process ([rank::world_size]) in order, for validation and test: none twice, none padded."""

    def __init__(self, images: ImageSet, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        self._images = _Rows(images)
        self._batches = torch.split(torch.arange(len(images.pixels))[rank::world_size], batch_size)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return (self._images[rows] for rows in self._batches)
