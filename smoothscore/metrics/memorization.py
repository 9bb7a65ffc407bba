"""Memorization over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from smoothscore.functional.memorization import (
    PAPER_THRESHOLD,
    THRESHOLDS,
    MemorizationReport,
    summarize,
)
from smoothscore.functional.training import Match, TrainingImages
from smoothscore.metrics.rows import PerSample


class Memorization(PerSample):
    """Fraction of samples much closer to one training image than to any other, with its interval.

    The metric form of :func:`~smoothscore.functional.memorization_report`: training images are grouped and
    the control is measured once, then any number of batches in any number of processes add samples.

    Args:
        train: [M, *S] images or features, uint8 (meaning value/255) or floating point.
        control: [m, *S] held-out ones.
        bootstrap: resamples of the interval.
        threshold: a sample counts where d1/d2 is below.
        thresholds: the sweep.
        seed: of the bootstrap.

    Raises:
        UserError: as :func:`~smoothscore.functional.memorization_report`.

    Source: arXiv 2601.19285, Sec. B.3.2.
    """

    def __init__(
        self,
        train: Tensor,
        *,
        control: Tensor | None = None,
        bootstrap: int = 1000,
        threshold: float = PAPER_THRESHOLD,
        thresholds: Sequence[float] = THRESHOLDS,
        seed: int = 0,
    ) -> None:
        super().__init__(ratio=torch.empty(0), distance=torch.empty(0), nearest=torch.empty(0, dtype=torch.int64))
        self.images = TrainingImages(train)
        self._summarize = partial(
            summarize,
            duplicates=self.images.duplicates,
            bootstrap=bootstrap,
            threshold=threshold,
            thresholds=tuple(thresholds),
            seed=seed,
        )
        self.control = None if control is None else self._summarize(self.images.match(control, name="control"))

    def update(self, samples: Tensor) -> None:
        """Add samples [n, *S].

        Raises:
            UserError: no samples, another shape than the training images, or a NaN (its row is named).
        """
        self._add(**self.images.match(samples)._asdict())

    def compute(self) -> dict[str, Tensor]:
        """The figures to log, as scalars: ``fraction`` with ``low`` and ``high``, ``mean``, ``minimum``."""
        report = self._report()
        figures = {
            "fraction": report.fraction,
            "low": report.interval[0],
            "high": report.interval[1],
            "mean": report.mean,
            "minimum": report.minimum,
        }
        return {name: torch.tensor(value, device=self.device) for name, value in figures.items()}

    def report(self) -> MemorizationReport:
        """The whole record over all samples of all processes; every process must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._report()

    def _report(self) -> MemorizationReport:
        return self._summarize(Match(**self._columns()), control=self.control)


def memorization_figures(report: MemorizationReport) -> dict[str, float]:
    """The figures of a report that trainings log: shares, their interval, and those of the control where there is one.

    The shares below 1/3 and 1/2 are those of the first two of the sweep's default thresholds.
    """
    figures = {
        "fraction": report.fraction,
        "low": report.interval[0],
        "high": report.interval[1],
        "below_third": report.counts[0] / len(report.ratio),
        "below_half": report.counts[1] / len(report.ratio),
        "mean_ratio": report.mean,
        "min_ratio": report.minimum,
    }
    if report.control is not None and report.difference is not None and report.difference_interval is not None:
        figures["held_out"] = report.control.fraction
        figures["difference"] = report.difference
        figures["difference_low"], figures["difference_high"] = report.difference_interval
    return figures
