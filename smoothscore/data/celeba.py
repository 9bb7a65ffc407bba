"""CelebA at 64×64 and CelebA-HQ at 256×256."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoothscore.data.base import ImageDataModule
from smoothscore.data.files import FileTree, open_tree, stem, wrong_layout
from smoothscore.data.folder import image_source, shuffled
from smoothscore.data.images import Split
from smoothscore.data.pack import open_pack
from smoothscore.errors import UserError

CROP = 140  # of the aligned images' 178×218 pixels: the face
_IMAGES = "img_align_celeba"
_PARTITION = "list_eval_partition"


class CelebA64(ImageDataModule):
    """Aligned CelebA: the central 140×140 pixels, resized to 64×64.

    Where list_eval_partition.txt (or .csv) lies beside the images, its parts 0 and 2 are train and test, and part 1
    is left out; without it a tenth is held out.

    Args:
        root: the folder img_align_celeba or img_align_celeba.zip, or the folder that one of them lies in.
        image_size: side of the square images in pixels.
        skip_bad: leave out files that cannot be read, and say how many, instead of stopping at the first.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=CelebA64` lists them all.

    Raises:
        UserError: another layout, a partition that names other images, a file that is no readable image (named).

    Source: Liu et al., Deep Learning Face Attributes in the Wild, ICCV 2015; the crop is that of arXiv 2011.13456.
    """

    def __init__(self, *, root: str, image_size: int = 64, skip_bad: bool = False, **options: Any) -> None:
        super().__init__(root=root, image_size=image_size, **options)
        self.skip_bad = skip_bad

    def read(self) -> Split:
        """Pack the images, or open their pack, and split it."""
        tree = _find_aligned(Path(str(self.root)))
        partition = _read_partition(tree)
        if partition is None:
            parts = {"all": shuffled(tree.images, self.split_seed)}
        else:
            names = {stem(name): name for name in tree.images}
            _check_partition(partition, names, tree.path)
            parts = {
                part: [name for image, name in names.items() if partition[image] == number]
                for part, number in (("train", 0), ("test", 2))
            }
        source = image_source("CelebA64", tree, parts, self.image_size, crop=CROP)
        pack = open_pack(source, self.cache_dir, skip_bad=self.skip_bad)
        return pack.split(self.num_train, self.num_test, self.split_seed)


class CelebAHQ256(ImageDataModule):
    """CelebA-HQ: 30,000 faces, resized to 256×256; a tenth is held out.

    Args:
        root: a folder or zip of the images, at 256×256 or 1024×1024; subfolders do not count.
        image_size: side of the square images in pixels.
        skip_bad: leave out files that cannot be read, and say how many, instead of stopping at the first.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=CelebAHQ256` lists them all.

    Raises:
        UserError: no images there, a file that is no readable image (named).

    Source: Karras et al., Progressive Growing of GANs, ICLR 2018.
    """

    def __init__(self, *, root: str, image_size: int = 256, skip_bad: bool = False, **options: Any) -> None:
        super().__init__(root=root, image_size=image_size, **options)
        self.skip_bad = skip_bad

    def read(self) -> Split:
        """Pack the images, or open their pack, and split it."""
        root = Path(str(self.root))
        tree = open_tree(root)
        if not tree.images:
            raise wrong_layout(root, "the images of CelebA-HQ, 00000.jpg or .png and so on, in a folder or zip")
        parts = {"all": shuffled(tree.images, self.split_seed)}
        source = image_source("CelebAHQ256", tree, parts, self.image_size)
        pack = open_pack(source, self.cache_dir, skip_bad=self.skip_bad)
        return pack.split(self.num_train, self.num_test, self.split_seed)


def _find_aligned(root: Path) -> FileTree:
    inside = [] if root.name == _IMAGES else [root / _IMAGES, root / f"{_IMAGES}.zip"]
    for path in (*inside, root):
        if path.exists():
            tree = open_tree(path)
            if tree.images:
                return tree
    raise wrong_layout(root, f"{_IMAGES} (a folder of 000001.jpg and so on) or {_IMAGES}.zip")


def _read_partition(tree: FileTree) -> dict[str, int] | None:
    """Part of each image by its number, where the list is there: beside the images, under Eval, or among them."""
    for folder in (tree.path.parent, tree.path.parent / "Eval"):
        for suffix in (".txt", ".csv"):
            path = folder / f"{_PARTITION}{suffix}"
            if path.is_file():
                return _parse_partition(path, path.read_text())
    for name in tree.names:
        if stem(name) == _PARTITION:
            return _parse_partition(tree.path / name, tree.read(name).decode(errors="replace"))
    return None


def _parse_partition(path: Path, text: str) -> dict[str, int]:
    """Lines "000001.jpg 0"; the .csv has a header and commas."""
    partition = {}
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.replace(",", " ").split()
        if not fields or fields == ["image_id", "partition"]:
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise UserError(f"{path}, line {number}: expected an image and its part 0, 1 or 2, found {line!r}.")
        partition[stem(fields[0])] = int(fields[1])
    return partition


def _check_partition(partition: Mapping[str, int], names: Mapping[str, str], path: Path) -> None:
    missing, unlisted = sorted(partition.keys() - names.keys()), sorted(names.keys() - partition.keys())
    if missing or unlisted:
        culprit, count = (missing[0], len(missing)) if missing else (unlisted[0], len(unlisted))
        what = "missing, although listed" if missing else "not listed"
        raise UserError(
            f"{path}: image {culprit} is {what} in {_PARTITION} (one of {count}): complete the images or the list, or "
            f"remove {_PARTITION} to hold out a tenth."
        )
