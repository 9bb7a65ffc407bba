"""Plain records of images: what a data set is made of, and what a training step receives."""

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError


class Batch(NamedTuple):
    """Clean images of one training step.

    Attributes:
        image: [B, C, H, W], float in [0, 1], or uint8 meaning value/255.
        index: int64 [B], stable row of each image in the training array; neighbors are looked up by it.
        label: int64 [B].
    """

    image: Tensor
    index: Tensor  # type: ignore[assignment]  # the field hides tuple.index, which nobody calls
    label: Tensor


class ImageSet(NamedTuple):
    """Images with stable rows.

    Attributes:
        pixels: uint8 [M, C, H, W].
        labels: int64 [M].
        classes: names of the labels.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...] = ()

    def rows(self, index: Tensor | slice) -> "ImageSet":
        """The images at the given rows, in that order; a slice copies nothing."""
        return self._replace(pixels=self.pixels[index], labels=self.labels[index])


class Split(NamedTuple):
    """A training set and the held-out images that serve as its control."""

    train: ImageSet
    test: ImageSet


def split_rows(images: ImageSet, num_train: int | None, num_test: int, seed: int) -> Split:
    """Cut one set into disjoint train and test rows by a permutation fixed by the seed; None takes all the rest."""
    order = torch.randperm(len(images.pixels), generator=torch.Generator().manual_seed(seed))
    test, train = order[:num_test], order[num_test:]
    train = train if num_train is None else train[:num_train]
    return Split(images.rows(train.sort().values), images.rows(test.sort().values))


def count_held_out(total: int, num_train: int | None, num_test: int | None) -> int:
    """How many of all images are held out: `num_test`, or where it is None a tenth, at least 2.

    Raises:
        UserError: train and test together are more than there are.
    """
    num_test = max(2, total // 10) if num_test is None else num_test
    if (num_train or 2) + num_test > total:
        raise UserError(
            f"There are {total} images, too few for num_train = {num_train} and num_test = {num_test}: lower one of "
            "them."
        )
    return num_test


def subset(images: ImageSet, count: int | None, seed: int, option: str) -> ImageSet:
    """So many of the images, chosen by the seed, in their order; None is all of them, uncopied.

    Args:
        images: all of a part.
        count: how many.
        seed: which of them.
        option: what the caller's user sets `count` by, for the error.

    Raises:
        UserError: more images than there are.
    """
    if count is None:
        return images
    if count > len(images.pixels):
        raise UserError(f"{option} = {count} is more than the {len(images.pixels)} images there are: lower it.")
    order = torch.randperm(len(images.pixels), generator=torch.Generator().manual_seed(seed))
    return images.rows(order[:count].sort().values)


def equal_reference_rows(train: Tensor, test: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of train and test with the same number of images per class from both.

    A Fréchet distance depends on the size of its reference, so the two distances are comparable only at equal sizes.

    Args:
        train: int64 [M] labels of the training images.
        test: int64 [N] labels of the test images.
        seed: which rows are taken where one side has more.

    Returns:
        Row indexes into train and into test, of equal length; classes that one side lacks are left out.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: tuple[list[Tensor], list[Tensor]] = ([], [])
    for label in torch.unique(train).tolist():
        members = [(labels == label).nonzero().flatten() for labels in (train, test)]
        count = min(len(member) for member in members)
        for kept, member in zip(rows, members, strict=True):
            kept.append(member[torch.randperm(len(member), generator=generator)[:count]])
    return torch.cat(rows[0]).sort().values, torch.cat(rows[1]).sort().values
