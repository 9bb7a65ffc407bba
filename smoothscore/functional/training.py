"""The training images that samples are held against: for each sample its nearest, and how clearly."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, check_same_shape, unique_rows


class Match(NamedTuple):
    """The nearest training image of every sample.

    Attributes:
        ratio: d1/d2, [n], float32; 0/0 is 1.
        distance: d1, [n], float32, not squared.
        nearest: row of the nearest training image, [n], int64.
    """

    ratio: Tensor
    distance: Tensor
    nearest: Tensor


class TrainingImages:
    """Training images made ready for many :meth:`match`: exact duplicates grouped, norms computed once.

    Args:
        train: [M, *S], uint8 (meaning value/255) or floating point; held by reference.
        group: keep the first of every group of equal images; without it, duplicates hide one another.
        flips: compare with every image mirrored left to right too: its distance is that of the nearer one, and images
            that mirror one another are duplicates.

    Attributes:
        rows: rows of ``train`` that are kept, [U], int64.
        duplicates: how many were left out.

    Raises:
        UserError: fewer than two images, or two distinct ones with ``group``; a NaN (its row is named).
    """

    def __init__(self, train: Tensor, *, group: bool = True, flips: bool = False) -> None:
        check_rows("train", train, at_least=2)
        if flips and train.ndim < 3:
            raise UserError(
                f"flips: train has rows of shape {list(train.shape[1:])}; only images [M, ..., H, W] can be mirrored, "
                "so leave flips out for features."
            )
        self.flips = flips
        self.rows = unique_rows(train, flips=flips) if group else torch.arange(len(train), device=train.device)
        self.duplicates = len(train) - len(self.rows)
        if len(self.rows) < 2:
            raise UserError(
                f"train: all {len(train)} images are equal, but the ratio compares two; give different ones."
            )
        self._centers = Centers(train[self.rows] if self.duplicates else train)

    def match(self, samples: Tensor, *, name: str = "samples") -> Match:
        """Find the two nearest training images of every sample, and compare their distances.

        Args:
            samples: [n, *S], uint8 (meaning value/255) or floating point.
            name: what errors call ``samples``.

        Returns:
            A :class:`Match`; ``nearest`` counts rows of the ``train`` that was given.

        Raises:
            UserError: no samples, another shape than the training images, or a NaN (its row is named).
        """
        check_rows(name, samples)
        check_same_shape(name, samples, "train", self._centers.shape)
        distance, index = self._two_nearest(samples)
        first, second = distance.double().unbind(1)
        ratio = torch.where(second > 0, first / second, 1.0)
        nearest = self.rows.to(index.device)[index[:, 0]]
        return Match(ratio.float(), first.float(), nearest)

    def _two_nearest(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Distances and places [n, 2] of the two nearest images."""
        found = self._centers.nearest(samples, k=2)
        if not self.flips:
            return found.distance, found.index
        # Mirroring the sample or the image gives the same distance. An image is two of these four at most, and no
        # image but the nearest can come before the second nearest in either orientation.
        mirrored = self._centers.nearest(samples.flip(-1), k=2)
        distance = torch.cat([found.distance, mirrored.distance], dim=1)
        index = torch.cat([found.index, mirrored.index], dim=1)
        order = index.argsort(1)
        order = order.gather(1, distance.gather(1, order).argsort(dim=1, stable=True))
        distance, index = distance.gather(1, order), index.gather(1, order)
        other = (index != index[:, :1]).int().argmax(1, keepdim=True)  # the first place of another image
        places = torch.cat([torch.zeros_like(other), other], dim=1)
        return distance.gather(1, places), index.gather(1, places)
