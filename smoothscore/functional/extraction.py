"""Extraction: which samples are copies of which training image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.matching import Matcher, mirrored
from smoothscore.functional.rows import check_rows, check_same_shape

Featurize = Callable[[Tensor], Tensor]


class Extraction(NamedTuple):
    """What :func:`extract` finds, one entry per sample.

    Attributes:
        flagged: bool [n], a copy by both stages (by the first alone where no features are given).
        index: int64 [n], row of the training image that it would be a copy of; of duplicates the lowest.
        score: float32 [n], ℓ_1/mean(ℓ_2 … ℓ_k): small where one training image is much nearer than the rest.
        distance: float32 [n], ℓ_1 = ‖x − μ‖/√d.
        flipped: bool [n], nearer to the image mirrored left to right.
        candidate: bool [n], kept by the first stage.
        feature_ratio: float32 [n], distance in features over that of the match to its nearest other training image;
            NaN for samples that the first stage left out, None without features.
    """

    flagged: Tensor
    index: Tensor  # type: ignore[assignment]  # the field hides tuple.index, which nobody calls
    score: Tensor
    distance: Tensor
    flipped: Tensor
    candidate: Tensor
    feature_ratio: Tensor | None


def extract(
    samples: Tensor,
    train: Tensor,
    *,
    quantile: float = 0.05,
    neighbors: int = 50,
    flips: bool = False,
    featurize: Featurize | None = None,
    margin: float = 0.5,
) -> Extraction:
    """Find the samples that are most likely copies, in two stages.

    1. ℓ_j = ‖x − μ_j‖/√d to the k nearest training images; score = ℓ_1/mean(ℓ_2 … ℓ_k), and the lowest
       ``quantile`` of the samples go on.
    2. With features φ: a candidate is a copy of its match μ where ‖φ(x) − φ(μ)‖ < margin · min_{ν ≠ μ} ‖φ(ν) − φ(μ)‖.

    Exact duplicates in ``train`` count once, so they do not hide one another. The first stage alone flags its quantile
    of *any* samples; the second, or a look at the pairs, says whether they are copies. For sets that do not fit the
    memory, and for work that can be interrupted, use ``smoothscore extract``, which is made of the same parts.

    Args:
        samples: [n, *S], uint8 (meaning value/255) or floating point.
        train: [M, *S], likewise, at least three of them distinct.
        quantile: share of the samples that the first stage keeps, in (0, 1].
        neighbors: k, at most the number of distinct training images.
        flips: compare with the training images mirrored left to right too.
        featurize: images [n, *S] to features [n, F]; None stops after the first stage.
        margin: of the second stage, above 0.

    Returns:
        An :class:`Extraction`.

    Raises:
        UserError: an option out of range, too few images, different shapes, or a NaN (its row is named).

    Source: arXiv 2601.19285, Sec. B.4.5, after Carlini et al. 2023 (arXiv 2301.13188).
    """
    check_options(quantile=quantile, margin=margin)
    check_rows("samples", samples)
    matcher = Matcher(train, neighbors=neighbors, flips=flips, shown=1)
    found = matcher.match(samples)
    candidate = lowest(found.score, quantile)
    match = found.index[:, 0]
    ratio = None
    flagged = candidate.clone()
    if featurize is not None:
        kept = candidate.nonzero().flatten()
        images = mirrored(samples[kept.to(samples.device)], found.flipped[kept])
        reference = featurize(train[matcher.rows])
        place = torch.searchsorted(matcher.rows, match[kept].to(matcher.rows.device))
        ratio = samples.new_full((len(samples),), math.nan, dtype=torch.float32)
        ratio[kept] = feature_ratio(featurize(images), reference, place)
        flagged &= ratio < margin
    return Extraction(flagged, match, found.score, found.distance[:, 0], found.flipped, candidate, ratio)


def lowest(score: Tensor, quantile: float) -> Tensor:
    """The samples with the lowest scores: bool [n], True for ⌈quantile · n⌉ of them, ties to the lower row."""
    chosen = torch.zeros(len(score), dtype=torch.bool, device=score.device)
    chosen[score.argsort(stable=True)[: math.ceil(quantile * len(score))]] = True
    return chosen


def feature_ratio(features: Tensor, reference: Tensor, place: Tensor) -> Tensor:
    """The second stage: ‖φ(x) − φ(μ)‖ / min_{ν ≠ μ} ‖φ(ν) − φ(μ)‖ for samples x with matches μ.

    Args:
        features: φ of the samples, [n, F].
        reference: φ of all different training images, [U, F].
        place: row of each sample's match in ``reference``, int64 [n].

    Returns:
        float32 [n]; infinite where another training image has the features of the match, so that nothing is said.

    Raises:
        UserError: different shapes, fewer than two training images, or a NaN (its row is named).

    Source: arXiv 2601.19285, Sec. B.4.5.
    """
    check_rows("features of train", reference, at_least=2)
    check_rows("features of samples", features)
    check_same_shape("features of samples", features, "features of train", reference.shape[1:])
    place = place.to(reference.device)
    asked, back = torch.unique(place, return_inverse=True)
    # Nearest other: of the two nearest one is the match itself, at 0, unless another has equal features.
    found = Centers(reference).nearest(reference[asked], 2)
    itself = found.index[:, 0] == asked.to(found.index.device)
    other = torch.where(itself, found.distance[:, 1], found.distance[:, 0])[back]
    apart = (features.to(reference.device) - reference[place]).flatten(1).norm(dim=1)
    return torch.where(other > 0, apart / other, math.inf).float()


def check_options(*, quantile: float, margin: float) -> None:
    """Raise `UserError` unless 0 < quantile ≤ 1 and margin > 0."""
    for name, value in (("quantile", quantile), ("margin", margin)):
        if not value > 0:
            raise UserError(f"{name} is {value}, but it must be above 0.")
    if quantile > 1:
        raise UserError(f"quantile is {quantile}, but a share of the samples is at most 1.")
