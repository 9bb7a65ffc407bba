"""Extraction: which samples are copies of which training image."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, check_same_shape, unique_rows

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
    of *any* samples; the second, or a look at the pairs, says whether they are copies.

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
    for name, value in (("quantile", quantile), ("margin", margin)):
        if not value > 0:
            raise UserError(f"{name} is {value}, but it must be above 0.")
    if quantile > 1:
        raise UserError(f"quantile is {quantile}, but a share of the samples is at most 1.")
    check_rows("samples", samples)
    check_rows("train", train, at_least=3)
    check_same_shape("samples", samples, "train", train.shape[1:])
    rows = unique_rows(train)
    k = min(neighbors, len(rows))
    if k < 3:
        raise UserError(
            f"neighbors is {neighbors} and train has {len(rows)} different images, but the score compares the nearest "
            "with at least two others: give 3 or more of both."
        )
    centers = Centers(train[rows] if len(rows) < len(train) else train)
    distance, index, flipped = _nearest(centers, samples, k, flips)
    others = distance[:, 1:].double().mean(1)
    score = torch.where(others > 0, distance[:, 0] / others, 1.0).float()
    keep = math.ceil(quantile * len(samples))
    candidate = torch.zeros(len(samples), dtype=torch.bool, device=score.device)
    candidate[score.argsort(stable=True)[:keep]] = True
    match = rows.to(index.device)[index[:, 0]]
    ratio = None
    flagged = candidate.clone()
    if featurize is not None:
        ratio = _feature_ratio(samples, train, rows, match, flipped, candidate, featurize)
        flagged &= ratio < margin
    root = math.sqrt(train[0].numel())
    return Extraction(flagged, match, score, (distance[:, 0] / root).float(), flipped, candidate, ratio)


def _nearest(centers: Centers, samples: Tensor, k: int, flips: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Distances and indexes [n, k] in the orientation that comes nearest, and whether that is the mirrored one."""
    found = centers.nearest(samples, k)
    distance, index = found.distance, found.index
    flipped = torch.zeros(len(samples), dtype=torch.bool, device=distance.device)
    if flips:
        mirrored = centers.nearest(samples.flip(-1), k)
        flipped = mirrored.distance[:, 0] < distance[:, 0]
        distance = torch.where(flipped[:, None], mirrored.distance, distance)
        index = torch.where(flipped[:, None], mirrored.index, index)
    return distance, index, flipped


def _feature_ratio(
    samples: Tensor,
    train: Tensor,
    rows: Tensor,
    match: Tensor,
    flipped: Tensor,
    candidate: Tensor,
    featurize: Featurize,
) -> Tensor:
    kept = candidate.nonzero().flatten()
    images = samples[kept]
    images = torch.where(flipped[kept].view(-1, *[1] * (images.ndim - 1)).to(images.device), images.flip(-1), images)
    reference = featurize(train[rows])
    check_rows("features of train", reference)
    own = featurize(images)
    check_rows("features of samples", own)
    place = torch.searchsorted(rows, match[kept].to(rows.device))
    matched = reference[place]
    # Nearest other: of the two nearest one is the match itself, at 0, unless another has equal features.
    found = Centers(reference).nearest(matched, 2)
    itself = found.index == place[:, None].to(found.index.device)
    other = torch.where(itself[:, 0], found.distance[:, 1], found.distance[:, 0])
    ratio = samples.new_full((len(samples),), math.nan, dtype=torch.float32)
    apart = (own - matched).flatten(1).norm(dim=1)
    ratio[kept] = torch.where(other > 0, apart / other, math.inf).float()
    return ratio
