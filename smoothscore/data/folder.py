"""A folder or zip of image files, classes as subfolders or all in one."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from smoothscore.data.base import ImageDataModule
from smoothscore.data.decode import SUFFIXES, decode_image
from smoothscore.data.files import FileTree, open_tree
from smoothscore.data.images import ImageSet, Split
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source
from smoothscore.errors import UserError


class ImageFolder(ImageDataModule):
    """Image files in a folder or zip; each subfolder is a class, files directly in it are one class without a name.

    Every image is brought to RGB on white, cropped to its central square and resized. Rows are stable as long as the
    files are. A zip is read where it lies, and one folder around all its class folders does not count.

    Args:
        root: the folder, or a zip of it.
        skip_bad: leave out files that cannot be read, and say how many, instead of stopping at the first.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=ImageFolder` lists them all.

    Raises:
        UserError: a missing or empty folder, a file that is no readable image or holds NaN (named).
    """

    def __init__(self, *, root: str, skip_bad: bool = False, **options: Any) -> None:
        super().__init__(root=root, **options)
        self.skip_bad = skip_bad

    def read(self) -> Split:
        """Pack the files, or open their pack, and split it."""
        tree = open_tree(Path(str(self.root)))
        names = image_names(tree)
        classes = {name: class_name(name) for name in names}
        parts = {"all": shuffled(names, self.split_seed)}
        source = image_source("ImageFolder", tree, parts, self.image_size, classes=classes)
        pack = open_pack(source, self.cache_dir, skip_bad=self.skip_bad)
        return pack.split(self.num_train, self.num_test, self.split_seed)


def image_source(
    data: str,
    tree: FileTree,
    parts: Mapping[str, Sequence[str]],
    image_size: int,
    *,
    classes: Mapping[str, str] | None = None,
    crop: int | None = None,
) -> Source:
    """Image files as something to be packed.

    Args:
        data: name of the data set.
        tree: where the files lie.
        parts: names of each part's files, in the order of their rows.
        image_size: side of the square images.
        classes: name of each file's class; None gives all images the label 0.
        crop: as in `decode_image`.
    """
    names = tuple(sorted(set(classes.values()))) if classes else ()
    labels = {name: label for label, name in enumerate(names)}

    def read(name: str) -> ImageSet:
        pixels = decode_image(tree.path / name, image_size, content=tree.read(name), crop=crop)
        return ImageSet(pixels[None], torch.tensor([labels[classes[name]] if classes else 0]))

    used = [name for part in parts.values() for name in part]
    return Source(data, image_size, tree.stamp(used), parts, read, {"crop": crop or 0}, names)


def image_names(tree: FileTree) -> list[str]:
    """Names of a tree's image files.

    Raises:
        UserError: there is none.
    """
    if not tree.images:
        raise UserError(
            f"The data folder {tree.path} holds no image file ({', '.join(sorted(SUFFIXES))}): expected images in it, "
            "or one subfolder of images per class."
        )
    return tree.images


def class_name(name: str) -> str:
    """The first folder of a file's name; "" where it lies in none."""
    return name.split("/")[0] if "/" in name else ""


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    """The names in an order fixed by the seed, so that train and test are two runs of rows."""
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    return [names[row] for row in order.tolist()]
