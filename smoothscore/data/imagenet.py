"""ImageNet at 64×64: the official downsampled batches, or folders of images."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smoothscore.data.base import ImageDataModule
from smoothscore.data.decode import shrink
from smoothscore.data.files import FileTree, open_tree, stamp_files, wrong_layout
from smoothscore.data.folder import image_source
from smoothscore.data.images import ImageSet, Split
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source
from smoothscore.errors import UserError
from smoothscore.neighbors.npy import DAMAGED

NUM_CLASSES = 1000


class ImageNet64(ImageDataModule):
    """Downsampled ImageNet: 1,281,167 training images, and the 50,000 validation images as test set.

    Args:
        root: a folder with the official train_data_batch_1.npz and so on and val_data.npz (the arrays `data`
            [N, 12288] and `labels` from 1), or with train/ and val/, each with one subfolder of images per class (a
            zip of these two serves too).
        image_size: side of the square images in pixels.
        skip_bad: leave out image files that cannot be read, and say how many, instead of stopping at the first; a
            batch that cannot be read is an error in any case.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=ImageNet64` lists them all.

    Raises:
        UserError: another layout, a batch or image that is damaged (named), a size above that of the batches.

    Source: Chrabaszcz et al., arXiv 1707.08819.
    """

    def __init__(self, *, root: str, image_size: int = 64, skip_bad: bool = False, **options: Any) -> None:
        super().__init__(root=root, image_size=image_size, **options)
        self.skip_bad = skip_bad

    def read(self) -> Split:
        """Pack the batches or images, or open their pack."""
        root = Path(str(self.root))
        batches = sorted(root.rglob("train_data_batch_*.npz"), key=_batch_number)
        source = self._batch_source(root, batches) if batches else self._image_source(root)
        pack = open_pack(source, self.cache_dir, skip_bad=self.skip_bad and not batches)
        return pack.split(self.num_train, self.num_test, self.split_seed)

    def _batch_source(self, root: Path, train: list[Path]) -> Source:
        test = sorted(root.rglob("val_data.npz"))
        numbers = [_batch_number(path) for path in train]
        if len(test) != 1 or numbers != list(range(1, len(train) + 1)):
            raise wrong_layout(root, "train_data_batch_1.npz and so on without a gap, and one val_data.npz")
        paths = {path.name: path for path in [*train, *test]}
        return Source(
            "ImageNet64",
            self.image_size,
            stamp_files(paths.values()),
            {"train": [path.name for path in train], "test": [test[0].name]},
            lambda name: _read_batch(paths[name], self.image_size),
            classes=tuple(str(number) for number in range(1, NUM_CLASSES + 1)),
            block=1,
        )

    def _image_source(self, root: Path) -> Source:
        expected = (
            "train_data_batch_1.npz and so on with val_data.npz, or the folders train/ and val/, each with one "
            "subfolder of images per class"
        )
        if not root.exists():
            raise wrong_layout(root, expected)
        tree = open_tree(root)
        parts = {part: _part(tree, folder) for part, folder in (("train", "train"), ("test", "val"))}
        classes = {name: name.split("/")[1] for names in parts.values() for name in names}
        if not all(parts.values()):
            raise wrong_layout(root, expected)
        unknown = {classes[name] for name in parts["test"]} - {classes[name] for name in parts["train"]}
        if unknown:
            raise UserError(f"{root}: val/ has the class {min(unknown)}, which train/ has not: expected {expected}.")
        return image_source("ImageNet64", tree, parts, self.image_size, classes=classes)


def _part(tree: FileTree, folder: str) -> list[str]:
    """Images in the class folders of train/ or val/."""
    return [name for name in tree.images if name.startswith(f"{folder}/") and name.count("/") > 1]


def _batch_number(path: Path) -> int:
    found = re.fullmatch(r"train_data_batch_(\d+)", path.stem)
    return int(found[1]) if found else 0


def _read_batch(path: Path, image_size: int) -> ImageSet:
    """One official batch: rows of red, green and blue planes, labels from 1."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            data, labels = archive["data"], archive["labels"].astype(np.int64)
        side = int((data.shape[-1] // 3) ** 0.5)
        if data.dtype != np.uint8 or data.shape != (len(labels), 3 * side**2):
            raise ValueError(f"it holds {data.dtype} {list(data.shape)} and {len(labels)} labels")
        if not 1 <= labels.min() <= labels.max() <= NUM_CLASSES:
            raise ValueError(f"its labels reach from {labels.min()} to {labels.max()}")
    except DAMAGED as error:
        raise UserError(
            f"{path} is no batch of downsampled ImageNet ({error}); expected `data` uint8 [N, 12288] and `labels` from "
            f"1 to {NUM_CLASSES}: fetch it again."
        ) from error
    if image_size > side:
        raise UserError(f"ImageNet64: image_size is {image_size}, but {path} holds images of size {side}.")
    pixels = torch.from_numpy(data.reshape(-1, 3, side, side))
    return ImageSet(shrink(pixels, image_size), torch.from_numpy(labels - 1))
