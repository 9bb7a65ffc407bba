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

from smoothscore.errors import UserError
from smoothscore.functional.intervals import difference_interval, fraction_interval
from smoothscore.functional.training import Match, TrainingImages

PAPER_THRESHOLD = 2 / 3
THRESHOLDS = (1 / 3, 1 / 2, 2 / 3)


class RatioCurve(NamedTuple):
    """Share of samples below every threshold, with pointwise intervals: result of :meth:`MemorizationReport.curve`.

    Attributes:
        threshold: [P], float64.
        fraction: share of the samples with d1/d2 < threshold, [P], float64.
        low: lower end of the 95 % bootstrap interval at each threshold, [P], float64.
        high: upper end.
    """

    threshold: Tensor
    fraction: Tensor
    low: Tensor
    high: Tensor


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
        difference: ``fraction`` less that of the control, if any.
        difference_interval: its (low, high), the 95 % bootstrap interval over samples and control images.
        bootstrap: resamples of every interval.
        seed: of the bootstrap.
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
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    bootstrap: int = 1000
    seed: int = 0

    @property
    def control_count(self) -> int | None:
        """Memorized control images at ``threshold``; None without a control."""
        return None if self.control is None else self.control.count

    def curve(self, thresholds: Tensor | None = None) -> RatioCurve:
        """The whole curve: the share of samples below each threshold, so that no one threshold has to be believed.

        Args:
            thresholds: [P], in (0, 1]; None is 0.01, 0.02, …, 1.

        Returns:
            A :class:`RatioCurve`, on the CPU.

        Raises:
            UserError: a threshold outside (0, 1].
        """
        grid = torch.linspace(0.01, 1, 100, dtype=torch.float64) if thresholds is None else thresholds.double().cpu()
        _check_thresholds(grid.tolist())
        total = len(self.ratio)
        counts = torch.searchsorted(self.ratio.cpu().sort().values, grid.float())  # ratios strictly below
        interval = partial(fraction_interval, total=total, bootstrap=self.bootstrap, seed=self.seed)
        low, high = torch.tensor([interval(count) for count in counts.tolist()], dtype=torch.float64).unbind(1)
        return RatioCurve(grid, counts / total, low, high)


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
    flips: bool = False,
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
        flips: compare with every training image mirrored left to right too, as after training with random flips.
        seed: of the bootstrap; the same report twice is the same.

    Returns:
        A :class:`MemorizationReport`.

    Raises:
        UserError: as :func:`memorization_ratio`, for samples and control; fewer than two distinct training
            images; or a threshold or bootstrap out of range.

    Source: arXiv 2601.19285, Sec. B.3.2.
    """
    images = TrainingImages(train, flips=flips)

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
    _check_thresholds((threshold, *thresholds))
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
        difference=None if control is None else count / len(ratio) - control.fraction,
        difference_interval=None
        if control is None
        else difference_interval(
            (count, len(ratio)), (control.count, len(control.ratio)), bootstrap=bootstrap, seed=seed
        ),
        bootstrap=bootstrap,
        seed=seed,
    )


def _check_thresholds(thresholds: Sequence[float]) -> None:
    for value in thresholds:
        if not 0 < value <= 1:
            raise UserError(f"threshold: {value}; d1/d2 lies in [0, 1], so choose a threshold in (0, 1].")
