"""Images that are arrays already: tensors, or .npy files."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothscore.data.base import ImageDataModule
from smoothscore.data.images import ImageSet, Split, count_held_out, split_rows, subset
from smoothscore.data.packing import map_array
from smoothscore.errors import UserError


class Arrays(ImageDataModule):
    """Images [M, C, H, W], uint8 or float in [0, 1], given as tensors or as .npy files, which are memory-mapped.

    They are taken as they are: nothing is packed, resized or rounded.

    Args:
        images: training images.
        labels: integers [M]; None gives all images the label 0.
        test_images: held-out images; None holds out some of `images`, which copies them.
        test_labels: integers, one per held-out image.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=Arrays` lists them all.

    Raises:
        UserError: a file that is no array, another shape or type, values outside [0, 1], NaN (the row is named).
    """

    def __init__(
        self,
        *,
        images: Tensor | str,
        labels: Tensor | str | None = None,
        test_images: Tensor | str | None = None,
        test_labels: Tensor | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.images, self.labels = images, labels
        self.test_images, self.test_labels = test_images, test_labels

    def read(self) -> Split:
        """Check the arrays and split them."""
        images = self._image_set("images", self.images, self.labels)
        if self.test_images is None:
            num_test = count_held_out(len(images.pixels), self.num_train, self.num_test)
            return split_rows(images, self.num_train, num_test, self.split_seed)
        test = self._image_set("test_images", self.test_images, self.test_labels)
        return Split(
            subset(images, self.num_train, self.split_seed, "num_train"),
            subset(test, self.num_test, self.split_seed, "num_test"),
        )

    def _image_set(self, option: str, images: Tensor | str, labels: Tensor | str | None) -> ImageSet:
        pixels = _load(option, images)
        size = self.image_size
        if pixels.ndim != 4 or pixels.shape[2:] != (size, size):
            raise UserError(
                f"Arrays: {option} have shape {list(pixels.shape)}, expected [M, C, {size}, {size}]: set "
                "data.init_args.image_size to their side, or bring them to that shape."
            )
        if pixels.is_floating_point():
            inside = ((pixels >= 0) & (pixels <= 1)).flatten(1).all(1)  # False for NaN
            if not inside.all():
                row = int((~inside).nonzero()[0])
                raise UserError(f"Arrays: row {row} of {option} holds NaN or values outside [0, 1]: mend or drop it.")
        elif pixels.dtype != torch.uint8:
            raise UserError(f"Arrays: {option} are {pixels.dtype}, expected uint8, or float in [0, 1]: convert them.")
        given = torch.zeros(len(pixels), dtype=torch.int64) if labels is None else _load(f"labels of {option}", labels)
        if given.shape != (len(pixels),) or given.is_floating_point():
            raise UserError(
                f"Arrays: the labels of {option} are {given.dtype} {list(given.shape)}, expected integers "
                f"[{len(pixels)}], one per image."
            )
        return ImageSet(pixels, given.to(torch.int64))


def _load(option: str, array: Tensor | str) -> Tensor:
    if isinstance(array, Tensor):
        return array
    try:
        return map_array(Path(array))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"Arrays: {array}, given as {option}, is no .npy array ({error}).") from error
