"""Plain records of images: what a data set is made of, and what a training step receives."""

from typing import NamedTuple

import torch
from torch import Tensor


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

    def rows(self, index: Tensor) -> "ImageSet":
        """The images at the given rows, in that order."""
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
