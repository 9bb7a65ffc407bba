"""Memorization-informed Fréchet distance (MiFID), which grows where samples sit on training images."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from smoothscore.errors import UserError
from smoothscore.functional.frechet import FrechetReference
from smoothscore.functional.rows import check_features

_BLOCK = 4096  # rows of a matrix of cosines held at a time


class MiFID(NamedTuple):
    """Result of :func:`mifid`.

    Attributes:
        value: the Fréchet distance over the penalty; infinite where samples are exact copies.
        frechet: the Fréchet distance.
        distance: mean over samples of 1 − |cos| to the training image of the most similar direction.
    """

    value: float
    frechet: float
    distance: float


def mifid(real: Tensor, fake: Tensor, *, epsilon: float = 0.1, reference: FrechetReference | None = None) -> MiFID:
    """Fréchet distance over a memorization penalty: FD/m, m = s where s < ε and 1 elsewhere.

    s = mean_j min_i (1 − |cos(y_j, x_i)|) over samples y_j and training images x_i. What s is for images that are no
    copies depends on the features, so ε has to be chosen for them; 0.1 is a choice for Inception features. Torchmetrics
    takes the mean over real images instead, which differs from the source.

    Args:
        real: features [M, F] of the training images.
        fake: features [n, F] of the samples.
        epsilon: ε, in (0, 1]; at or above it there is no penalty.
        reference: what the Fréchet distance is taken to, factored once; None factors ``real``.

    Returns:
        A :class:`MiFID` of plain numbers.

    Raises:
        UserError: ε out of range, fewer than two rows, not [n, F], different F, or a NaN (its row is named).

    Source: Bai et al. 2021 (arXiv 2106.03062), Sec. 4.
    """
    if not 0 < epsilon <= 1:
        raise UserError(f"epsilon is {epsilon}, but 1 − |cos| lies in [0, 1]: choose a threshold in (0, 1].")
    check_features("real", real, at_least=2)
    check_features("fake", fake, at_least=2, like=("real", real))
    frechet = float((reference or FrechetReference.from_features(real)).distance(fake))
    distance = float(_nearest_directions(real, fake).mean())
    penalty = distance if distance < epsilon else 1.0
    value = frechet / penalty if penalty > 0 else float("inf")
    return MiFID(value, frechet, distance)


def _nearest_directions(real: Tensor, fake: Tensor) -> Tensor:
    """1 − max_i |cos(y_j, x_i)| for every sample, float64 [n]; rows of zeros have no direction and are at 1."""
    nearest = []
    for samples in torch.split(fake, _BLOCK):
        directions = normalize(samples.double(), dim=1)
        cosine = directions.new_zeros(len(directions))
        for images in torch.split(real, _BLOCK):
            cosine = torch.maximum(cosine, (directions @ normalize(images.double(), dim=1).T).abs().amax(1))
        nearest.append((1 - cosine).clamp_min(0))
    return torch.cat(nearest)
