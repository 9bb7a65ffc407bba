"""Image sets of the Hugging Face library `datasets`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from smoothscore.data.base import ImageDataModule
from smoothscore.data.decode import decode_image
from smoothscore.data.files import stamp_files
from smoothscore.data.folder import shuffled
from smoothscore.data.images import ImageSet, Split
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source
from smoothscore.errors import UserError


class HuggingFace(ImageDataModule):
    """A data set in the format of `datasets`; it needs `pip install 'smoothscore[hf]'`.

    Args:
        root: a folder written by `save_to_disk`, or a name on the hub.
        image_column: the column of images.
        label_column: the column of labels, integers; None gives all images the label 0.
        train_split: name of the training images' split.
        test_split: name of the held-out images' split; None holds out a part of the training images.
        skip_bad: leave out images that cannot be read, and say how many, instead of stopping at the first.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=HuggingFace` lists them all.

    Raises:
        UserError: `datasets` is not installed, a data set, split or column that is not there, an image that is not
            readable (its row is named).
    """

    def __init__(
        self,
        *,
        root: str,
        image_column: str = "image",
        label_column: str | None = "label",
        train_split: str = "train",
        test_split: str | None = None,
        skip_bad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root=root, **options)
        self.image_column = image_column
        self.label_column = label_column
        self.train_split = train_split
        self.test_split = test_split
        self.skip_bad = skip_bad

    def read(self) -> Split:
        """Pack the images, or open their pack, and split it."""
        splits = self._load()
        names = {split: [f"{split}/{row}" for row in range(len(table))] for split, table in splits.items()}
        if self.test_split is None:
            parts = {"all": shuffled(names[self.train_split], self.split_seed)}
        else:
            parts = {"train": names[self.train_split], "test": names[self.test_split]}
        label_type = None if self.label_column is None else splits[self.train_split].features[self.label_column]
        files = [Path(file["filename"]) for table in splits.values() for file in table.cache_files]

        def read(name: str) -> ImageSet:
            split, row = name.rsplit("/", 1)
            return self._decode(splits[split][int(row)], Path(f"{self.root}/{name}"))

        source = Source(
            "HuggingFace",
            self.image_size,
            stamp_files(files),
            parts,
            read,
            {"root": str(self.root), "image_column": self.image_column, "label_column": self.label_column or ""},
            tuple(getattr(label_type, "names", ())),
        )
        pack = open_pack(source, self.cache_dir, skip_bad=self.skip_bad)
        return pack.split(self.num_train, self.num_test, self.split_seed)

    def _load(self) -> dict[str, Any]:
        """The splits by name, their images left encoded, so that there is one decoder."""
        try:
            import datasets
        except ImportError as error:
            raise UserError(
                "HuggingFace needs the package `datasets`: install it with pip install 'smoothscore[hf]'."
            ) from error
        root = str(self.root)
        try:
            loaded = datasets.load_from_disk(root) if Path(root).is_dir() else datasets.load_dataset(root)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{root} cannot be loaded by `datasets` ({error}): set data.init_args.root to a folder written by "
                "save_to_disk or to a name on the hub."
            ) from error
        splits: Mapping[str, Any] = loaded if isinstance(loaded, Mapping) else {self.train_split: loaded}
        wanted = {}
        for split in (self.train_split, self.test_split):
            if split is None:
                continue
            if split not in splits:
                raise UserError(
                    f"{root} has no split {split!r}; it has {sorted(splits)}: set data.init_args.train_split and "
                    "test_split to two of them, or test_split to null, which holds out a part of train_split."
                )
            for column in (self.image_column, self.label_column):
                if column is not None and column not in splits[split].features:
                    raise UserError(
                        f"{root} has no column {column!r}; it has {sorted(splits[split].features)}: set "
                        "data.init_args.image_column and label_column (null for none)."
                    )
            wanted[split] = splits[split].cast_column(self.image_column, datasets.Image(decode=False))
        return wanted

    def _decode(self, row: Mapping[str, Any], place: Path) -> ImageSet:
        image = row[self.image_column]
        if not image or not (image["bytes"] or image["path"]):
            raise UserError(f"{place} holds no image: remove it, or set skip_bad to leave such rows out.")
        label = 0 if self.label_column is None else row[self.label_column]
        if not isinstance(label, int):
            raise UserError(
                f"{place} has the label {label!r}, expected an integer: set label_column to another, or null."
            )
        if image["bytes"]:
            pixels = decode_image(place, self.image_size, content=image["bytes"])
        else:
            pixels = decode_image(Path(image["path"]), self.image_size)
        return ImageSet(pixels[None], torch.tensor([label]))
