"""The embedded data set: 1,407 emoji, small, real, with many near-neighbors."""

from importlib.resources import files
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smoothscore.data.base import ImageDataModule
from smoothscore.data.decode import shrink
from smoothscore.data.images import ImageSet, Split, split_rows
from smoothscore.errors import UserError
from smoothscore.functional.rows import unique_rows


class Emoji(ImageDataModule):
    """Noto emoji on white, 8 to 32 pixels wide: stands where the paper has Cat-Caracal.

    Five of the 1,412 images repeat another one exactly; the repeats are left out, so that no training image lies in
    the test set.

    Args:
        num_test: held-out images.
        categories: keep these kinds only, for instance ["Animals & Nature"]; None keeps all seven.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=Emoji` lists them all.

    Raises:
        UserError: an unknown category, a size outside 8 to 32, more images asked for than there are.
    """

    def __init__(
        self,
        *,
        num_test: int = 256,
        categories: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_test=num_test, **options)
        if not 8 <= self.image_size <= 32:
            raise UserError(
                f"Emoji: image_size is {self.image_size}, but the embedded images serve sizes from 8 to 32."
            )
        self.num_test: int = num_test
        self.categories = categories

    def read(self) -> Split:
        """Load, leave out repeats and other categories, shrink, split."""
        images = load_emoji()
        keep = unique_rows(images.pixels)
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
