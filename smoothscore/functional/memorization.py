"""Memorization: is a generated image much closer to one training image than to any other?

A sample is memorized where its distance to the nearest training image is less than a threshold times the
distance to the second nearest. The measure is the same in pixels and in any feature space: give the rows of
that space. Source: arXiv 2601.19285, Sec. B.3.2, after Yoon et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.functional.intervals import fraction_interval
from smoothscore.functional.rows import check_rows, check_same_shape, unique_rows

PAPER_THRESHOLD = 2 / 3
THRESHOLDS = (1 / 3, 1 / 2, 2 / 3)


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


@dataclass(frozen=True, eq=False)
class MemorizationReport:
    """Result of :func:`memorization_report`.

    Attributes:
        count: memorized samples, those with ``ratio < threshold``.
        fraction: ``count`` over the number of samples.
        interval: (low, high), the 95 % bootstrap interval of ``fraction``.
        mean: mean ratio.
        minimum: smallest ratio.
        threshold: the threshold of ``count``.
        thresholds: the thresholds of the sweep.
        counts: memorized samples at each of ``thresholds``.
        ratio: d1/d2 of every sample, [n], float32.
        distance: d1 of every sample, [n], float32, not squared.
        nearest: row of the nearest training image of every sample, [n], int64; of a group of duplicates the
            lowest row.
        duplicates: training rows left out because an earlier row equals them.
        control: the same measures of held-out images, if any were given.
    """

    count: int
    fraction: float
    interval: tuple[float, float]
    mean: float
    minimum: float
    threshold: float
    thresholds: tuple[float, ...]
    counts: tuple[int, ...]
    ratio: Tensor
    distance: Tensor
    nearest: Tensor
    duplicates: int
    control: MemorizationReport | None = None

    @property
    def control_count(self) -> int | None:
        """Memorized control images at ``threshold``; None without a control."""
        return None if self.control is None else self.control.count


class TrainingImages:
    """Training images made ready for many :meth:`match`: exact duplicates grouped, norms computed once.

    Args:
        train: [M, *S], uint8 (meaning value/255) or floating point; held by reference.
        group: keep the first of every group of equal images; without it, duplicates hide one another.

    Attributes:
        rows: rows of ``train`` that are kept, [U], int64.
        duplicates: how many were left out.

    Raises:
        UserError: fewer than two images, or two distinct ones with ``group``; a NaN (its row is named).
    """

    def __init__(self, train: Tensor, *, group: bool = True) -> None:
        check_rows("train", train, at_least=2)
        self.rows = unique_rows(train) if group else torch.arange(len(train), device=train.device)
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
        found = self._centers.nearest(samples, k=2)
        first, second = found.distance.double().unbind(1)
        ratio = torch.where(second > 0, first / second, 1.0)
        nearest = self.rows.to(found.index.device)[found.index[:, 0]]
        return Match(ratio.float(), first.float(), nearest)


def memorization_ratio(samples: Tensor, train: Tensor) -> Tensor:
    """Distance to the nearest training image over the distance to the second nearest: d1/d2.

    A sample that equals two training images has 0/0, which is 1 here: in a training set with duplicates, a
    copied duplicate goes unseen. :func:`memorization_report` groups duplicates first.

    Args:
        samples: [n, *S], uint8 (meaning value/255) or floating point.
        train: [M, *S], likewise, M ≥ 2.

    Returns:
        [n], float32, in [0, 1]. Distances are not squared; settled in float64 and rounded once.

    Raises:
        UserError: no samples, fewer than two training images, different shapes, or a NaN (its row is named).

    Source: arXiv 2601.19285, Sec. B.3.2.
    """
    return TrainingImages(train, group=False).match(samples).ratio


def memorization_report(
    samples: Tensor,
    train: Tensor,
    *,
    control: Tensor | None = None,
    bootstrap: int = 1000,
    threshold: float = PAPER_THRESHOLD,
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
) -> MemorizationReport:
    """Count memorized samples, with an interval, a sweep of thresholds and held-out images as control.

    Exact duplicates in ``train`` are grouped first, so that a copy of a duplicated image counts as one.

    Args:
        samples: [n, *S], uint8 (meaning value/255) or floating point.
        train: [M, *S], likewise, at least two of them distinct.
        control: [m, *S] images that were not trained on: what the measure says where nothing was copied.
        bootstrap: resamples of the percentile bootstrap.
        threshold: a sample counts where its ratio is below.
        thresholds: the sweep; 1/3 is that of Yoon et al.
        seed: of the bootstrap; the same report twice is the same.

    Returns:
        A :class:`MemorizationReport`.

    Raises:
        UserError: as :func:`memorization_ratio`, for samples and control; fewer than two distinct training
            images; or a threshold or bootstrap out of range.

    Source: arXiv 2601.19285, Sec. B.3.2.
    """
    images = TrainingImages(train)

    report = partial(
        summarize,
        duplicates=images.duplicates,
        bootstrap=bootstrap,
        threshold=threshold,
        thresholds=thresholds,
        seed=seed,
    )
    held_out = None if control is None else report(images.match(control, name="control"))
    return report(images.match(samples), control=held_out)


def summarize(
    match: Match,
    *,
    duplicates: int = 0,
    control: MemorizationReport | None = None,
    bootstrap: int = 1000,
    threshold: float = PAPER_THRESHOLD,
    thresholds: Sequence[float] = THRESHOLDS,
    seed: int = 0,
) -> MemorizationReport:
    """Turn the ratios of all samples into a report.

    Args:
        match: ratios, distances and rows, [n] each, n ≥ 1.
        duplicates: training rows that were left out.
        control: report of the held-out images.
        bootstrap: resamples of the percentile bootstrap.
        threshold: a sample counts where its ratio is below.
        thresholds: the sweep.
        seed: of the bootstrap.

    Returns:
        A :class:`MemorizationReport`.

    Raises:
        UserError: no ratios, or a threshold or bootstrap out of range.
    """
    for value in (threshold, *thresholds):
        if not 0 < value <= 1:
            raise UserError(f"threshold: {value}; d1/d2 lies in [0, 1], so choose a threshold in (0, 1].")
    ratio = match.ratio
    if len(ratio) == 0:
        raise UserError("samples: 0 row(s), but at least 1 needed; generate some images first.")
    # Ratios are rounded to float32 once, thresholds too: a ratio of exactly 2/3 is not below 2/3.
    limits = torch.tensor([threshold, *thresholds], dtype=ratio.dtype, device=ratio.device)
    count, *counts = (ratio < limits[:, None]).sum(1).tolist()
    return MemorizationReport(
        count=count,
        fraction=count / len(ratio),
        interval=fraction_interval(count, len(ratio), bootstrap=bootstrap, seed=seed),
        mean=float(ratio.double().mean()),
        minimum=float(ratio.min()),
        threshold=threshold,
        thresholds=tuple(thresholds),
        counts=tuple(counts),
        ratio=ratio,
        distance=match.distance,
        nearest=match.nearest,
        duplicates=duplicates,
        control=control,
    )
