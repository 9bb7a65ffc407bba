"""The embedded data set: 1,407 emoji, small, real, with many near-neighbors."""

from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from smoothscore.data.base import ImageDataModule
from smoothscore.data.images import ImageSet, Split, split_rows
from smoothscore.errors import UserError


class Emoji(ImageDataModule):
    """Noto emoji on white, 8 to 32 pixels wide: stands where the paper has Cat-Caracal.

    Five of the 1,412 images repeat another one exactly; the repeats are left out, so that no training image lies in
    the test set.

    Args:
        num_train: training images; None is all that are not held out.
        num_test: held-out images.
        categories: keep these kinds only, for instance ["Animals & Nature"]; None keeps all seven.
        split_seed: which images are held out and which are taken.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=Emoji` lists them all.

    Raises:
        UserError: an unknown category, a size outside 8 to 32, more images asked for than there are.
    """

    def __init__(
        self,
        *,
        num_train: int | None = None,
        num_test: int = 256,
        categories: list[str] | None = None,
        split_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if not 8 <= self.image_size <= 32:
            raise UserError(
                f"Emoji: image_size is {self.image_size}, but the embedded images serve sizes from 8 to 32."
            )
        self.num_train = num_train
        self.num_test = num_test
        self.categories = categories
        self.split_seed = split_seed

    def read(self) -> Split:
        """Load, leave out repeats and other categories, shrink, split."""
        images = load_emoji()
        keep = first_occurrences(images.pixels)
        if self.categories is not None:
            keep = keep[torch.isin(images.labels[keep], self._category_labels(images.classes))]
        images = images.rows(keep)
        wanted = (self.num_train or 2) + self.num_test
        if wanted > len(images.pixels):
            raise UserError(
                f"Emoji: num_train = {self.num_train} and num_test = {self.num_test} ask for more than the "
                f"{len(images.pixels)} images there are: lower one of them or name more categories."
            )
        images = images._replace(pixels=shrink(images.pixels, self.image_size))
        return split_rows(images, self.num_train, self.num_test, self.split_seed)

    def _category_labels(self, classes: tuple[str, ...]) -> Tensor:
        unknown = set(self.categories or ()) - set(classes)
        if unknown:
            raise UserError(f"Emoji: unknown categories {sorted(unknown)}; there are {list(classes)}.")
        return torch.tensor([classes.index(category) for category in self.categories or ()])


def load_emoji() -> ImageSet:
    """All 1,412 embedded images, 32×32, with their category as label."""
    with np.load(str(files("smoothscore.data") / "assets" / "emoji32.npz"), allow_pickle=False) as archive:
        pixels = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2).contiguous()
        labels = torch.from_numpy(archive["y"].astype(np.int64))
        return ImageSet(pixels, labels, tuple(archive["cats"].tolist()))


def first_occurrences(pixels: Tensor) -> Tensor:
    """Rows, ascending, of the images that do not repeat an earlier one exactly."""
    _, group = torch.unique(pixels.flatten(1), dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(pixels))
    return first.scatter_reduce(0, group, torch.arange(len(pixels)), "amin").sort().values


def shrink(pixels: Tensor, size: int) -> Tensor:
    """uint8 [M, C, H, W] to uint8 [M, C, size, size], by antialiased bicubic interpolation."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    small = interpolate(pixels.float(), size=(size, size), mode="bicubic", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)
