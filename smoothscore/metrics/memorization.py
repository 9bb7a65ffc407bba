"""Memorization over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric

from smoothscore.functional.memorization import (
    PAPER_THRESHOLD,
    THRESHOLDS,
    MemorizationReport,
    summarize,
)
from smoothscore.functional.training import Match, TrainingImages


class Memorization(Metric):
    """Fraction of samples much closer to one training image than to any other, with its interval.

    The metric form of :func:`~smoothscore.functional.memorization_report`: training images are grouped and
    the control is measured once, then any number of batches in any number of processes add samples. After
    gathering, samples stand in the order of processes, batch by batch.

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

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    ratio: list[Tensor]
    distance: list[Tensor]
    nearest: list[Tensor]

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
        super().__init__()
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
        for name in Match._fields:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._start()

    def update(self, samples: Tensor) -> None:
        """Add samples [n, *S].

        Raises:
            UserError: no samples, another shape than the training images, or a NaN (its row is named).
        """
        for name, value in self.images.match(samples)._asdict().items():
            getattr(self, name).append(value.to(self.device))

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

    def reset(self) -> None:
        """Forget all samples; training images and control stay."""
        super().reset()
        self._start()

    def _start(self) -> None:
        # Gathering needs equal types in all processes, also from one that never saw a sample.
        self.ratio, self.distance = [torch.empty(0, device=self.device)], [torch.empty(0, device=self.device)]
        self.nearest = [torch.empty(0, dtype=torch.int64, device=self.device)]

    def _report(self) -> MemorizationReport:
        states = (getattr(self, name) for name in Match._fields)
        match = Match(*(torch.cat(state) if isinstance(state, list) else state for state in states))
        return self._summarize(match, control=self.control)
