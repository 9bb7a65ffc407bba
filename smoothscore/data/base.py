"""The data module every data set shares: packed images, a split, batches, and the neighbor table attached."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Literal

import torch
from lightning import LightningDataModule
from torch import Tensor, nn

from smoothscore.data.exclusion import exclude_rows, half_rows, keep_rows
from smoothscore.data.images import ImageSet, Split
from smoothscore.data.rows import FixedLoader, RowStream, TrainLoader
from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborStore, NeighborTable, build_neighbors
from smoothscore.neighbors.approximate import Kind
from smoothscore.neighbors.processes import running_group


def default_cache_dir() -> Path:
    """Where packed images and neighbor tables are kept: $SMOOTHSCORE_CACHE, else the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SMOOTHSCORE_CACHE") or Path(base) / "smoothscore").expanduser()


class ImageDataModule(LightningDataModule, ABC):
    """Images with stable rows, split into train and test, with the training images' neighbor table.

    A data set is a subclass that reads its images: `read() -> Split`. Everything is read, checked and, where `k` is
    given, the neighbor table found (or taken from the cache) in `setup`, before training starts.

    Args:
        root: folder or file of the data set; a data set that is embedded needs none.
        image_size: side of the square images in pixels.
        num_train: training images; None is all that are not held out.
        num_test: held-out images; None is the official test set, or a tenth of the images where there is none.
        split_seed: which images are held out where there is no official test set, and which are taken of too many.
        batch_size: images per step and process.
        num_workers: worker processes that fetch batches; 0 is right for data in memory.
        k: neighbors per training image, itself included; None attaches no table.
        extractor: module from images to the features in which neighbors are found; None compares pixels.
        class_restricted: neighbors of the same label only.
        index: how neighbors are searched: "auto" (exact up to 250,000 images), "exact", "ivf_flat", "hnsw", "ivf_pq".
        recall_floor: part of the true neighbors that an approximate table has to hold, measured on a sample.
        probes: how much of an approximate index is searched; None is as much as the floor takes.
        table_path: folder of a saved or imported table to take instead of building one; it is cut to `k`.
        radius: keep of the k neighbors those within radius × (distance to the nearest other training image).
        exclude: list of training rows to leave out, as `smoothscore dedup` writes it for this data set; the others keep
            their order, and `train_rows` says which rows they had.
        half: train on one of two disjoint random halves of the images, "first" or "second", for the two-split
            test (`smoothscore analyze split`); held-out images stay the same. None is all.
        flip: mirror each training image with probability 1/2, together with its neighbors.
        epoch_steps: steps per epoch; None makes an epoch one pass over the training images.
        seed: order of the training images.
        cache_dir: where packed images and neighbor tables are kept; None is $SMOOTHSCORE_CACHE or the user's cache
            directory.
        device_budget: bytes of training pixels that the neighbors may take on the network's device; None is no limit.
        host_budget: bytes of training pixels beyond the device's budget that are kept in memory; more are read from
            the disk as they are needed. None is no limit.

    Raises:
        UserError: in `setup`, where the data cannot serve: no images, a batch larger than the training set, k ≥ M.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        image_size: int = 32,
        num_train: int | None = None,
        num_test: int | None = None,
        split_seed: int = 0,
        batch_size: int = 64,
        num_workers: int = 0,
        k: int | None = None,
        extractor: nn.Module | None = None,
        class_restricted: bool = False,
        index: Kind = "auto",
        recall_floor: float = 0.95,
        probes: int | None = None,
        table_path: str | None = None,
        radius: float | None = None,
        exclude: str | None = None,
        half: Literal["first", "second"] | None = None,
        flip: bool = False,
        epoch_steps: int | None = None,
        seed: int = 42,
        cache_dir: str | None = None,
        device_budget: int | None = None,
        host_budget: int | None = None,
    ) -> None:
        super().__init__()
        self.root = root
        self.image_size = image_size
        self.num_train = num_train
        self.num_test = num_test
        self.split_seed = split_seed
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.k = k
        self.extractor = extractor
        self.class_restricted = class_restricted
        self.index = index
        self.recall_floor = recall_floor
        self.probes = probes
        self.table_path = table_path
        self.radius = radius
        self.exclude = exclude
        self.half = half
        self.flip = flip
        self.epoch_steps = epoch_steps
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
        self.device_budget = device_budget
        self.host_budget = host_budget
        self.table: NeighborTable | None = None
        self.neighbors: NeighborStore | None = None
        self._split: Split | None = None
        self._train_rows: Tensor | None = None

    @abstractmethod
    def read(self) -> Split:
        """Read all images and split them; the rows of both sets must not depend on the process or the run."""

    @property
    def train(self) -> ImageSet:
        """The training images; row i is row i of the neighbor table."""
        return self._read_once().train

    @property
    def test(self) -> ImageSet:
        """Held-out images."""
        return self._read_once().test

    @property
    def train_rows(self) -> Tensor:
        """The row that each training image had before any was left out: int64 [M], ascending."""
        self._read_once()
        assert self._train_rows is not None
        return self._train_rows

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return tuple(self.train.pixels.shape[1:])

    def setup(self, stage: str | None = None) -> None:
        """Read the images, check them against the options, and attach the neighbor table."""
        num_train = len(self.train.pixels)
        if self.batch_size > num_train:
            raise UserError(
                f"batch_size is {self.batch_size}, but {type(self).__name__} has only {num_train} training images: "
                f"set data.init_args.batch_size to {num_train} or less."
            )
        if self.k is not None and self.table is None:
            self.table = self._find_neighbors(self.k)
            self.neighbors = NeighborStore(
                self.table,
                self.train.pixels,
                radius=self.radius,
                device_budget=self.device_budget,
                host_budget=self.host_budget,
            )

    def train_dataloader(self) -> TrainLoader:
        """Batches of shuffled training images; every batch is a function of (seed, step, rank)."""
        rank, world_size = self._processes()
        num_rows = len(self.train.pixels)
        stream = RowStream(num_rows, self.batch_size, seed=self.seed, rank=rank, world_size=world_size)
        one_pass = -(-num_rows // (self.batch_size * world_size))
        return TrainLoader(
            self.train,
            stream,
            epoch_steps=self.epoch_steps or one_pass,
            next_step=self.trainer.fit_loop.epoch_loop.total_batch_idx + 1 if self.trainer else 0,
            num_workers=self.num_workers,
        )

    def val_dataloader(self) -> FixedLoader:
        """Held-out images in order, each row on one process."""
        rank, world_size = self._processes()
        return FixedLoader(self.test, self.batch_size, rank=rank, world_size=world_size)

    def test_dataloader(self) -> FixedLoader:
        """The same held-out images as in validation."""
        return self.val_dataloader()

    def predict_dataloader(self) -> FixedLoader:
        """One image, so that the loop runs: `predict` draws samples, through the Generation callback."""
        return FixedLoader(self.train.rows(torch.zeros(1, dtype=torch.int64)), 1)

    def _find_neighbors(self, k: int) -> NeighborTable:
        if self.table_path is not None:
            return NeighborTable.load(self.table_path, k=k)
        if self.class_restricted and int(self.train.labels.min()) == int(self.train.labels.max()):
            raise UserError(
                f"class_restricted is set, but {type(self).__name__} has no labels that differ (all are "
                f"{int(self.train.labels[0])}): take a data set with classes, or set class_restricted to false."
            )
        return build_neighbors(
            self.train.pixels,
            k,
            extractor=self.extractor,
            labels=self.train.labels if self.class_restricted else None,
            index=self.index,
            recall_floor=self.recall_floor,
            probes=self.probes,
            cache_dir=self.cache_dir,
            device=self.trainer.strategy.root_device if self.trainer else None,
            group=running_group(self.cache_dir),
        )

    def _processes(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _read_once(self) -> Split:
        if self._split is None:
            split = self.read()
            for name, images in (("training", split.train), ("test", split.test)):
                if len(images.pixels) < 2:
                    raise UserError(
                        f"{type(self).__name__} has {len(images.pixels)} {name} images, but at least 2 are needed: "
                        "check the data's root, its subset options and the size of the split."
                    )
            self._train_rows = torch.arange(len(split.train.pixels))
            if self.exclude is not None:
                train, self._train_rows = exclude_rows(split.train, Path(self.exclude), self.cache_dir)
                split = split._replace(train=train)
            if self.half is not None:
                rows = half_rows(len(split.train.pixels), self.half, self.split_seed)
                if len(rows) < 2:
                    raise UserError(
                        f"half is {self.half}, but {type(self).__name__} has {len(split.train.pixels)} images, "
                        "and a half needs at least 2: give more images, or leave out half."
                    )
                split = split._replace(train=keep_rows(split.train, rows, self.cache_dir))
                self._train_rows = self._train_rows[rows]
            self._split = split
        return self._split
