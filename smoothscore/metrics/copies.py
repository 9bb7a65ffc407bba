"""Excess copies over batches and processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from smoothscore.functional.excess import CopyReference, CopyScores, ExcessCopies
from smoothscore.metrics.rows import PerSample

LEAST_HELD_OUT = 30  # images that p-values of 5 % take


class Copies(PerSample):
    """Share of samples that are nearer to training images than fresh ones would be, with p-values.

    The metric form of :func:`~smoothscore.functional.excess_copies`: training and held-out images are made ready once,
    then any number of batches in any number of processes add samples, in any order but with the same result.

    Args:
        train: training images by space, such as {"pixels": [M, C, H, W], "lite0": [M, F]}.
        held_out: held-out images [N, *S] in the same spaces, at least 28.
        seed: of the division of the held-out images and of the draws.

    Raises:
        UserError: as :func:`~smoothscore.functional.excess_copies`.
    """

    def __init__(self, train: Mapping[str, Tensor], held_out: Mapping[str, Tensor], *, seed: int = 0) -> None:
        score, nearest = torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
        super().__init__(
            score=score,
            nearest=nearest,
            place=nearest.new_empty(0, len(train)),
            weight=score.new_empty(0, len(train)),
        )
        self.reference = CopyReference(train, held_out, seed=seed)
        self._seed = seed

    def update(self, samples: Mapping[str, Tensor]) -> None:
        """Add samples by space, [n, *S] each.

        Raises:
            UserError: other spaces or shapes than the training images, or a NaN (its row is named).
        """
        self._add(**self.reference.score(samples)._asdict())

    def compute(self) -> dict[str, Tensor]:
        """The figures to log: p_value, label_p_value, excess with low and high, and flagged, a share."""
        report = self._report()
        figures = {
            "p_value": report.p_value,
            "label_p_value": report.label_p_value,
            "excess": report.excess,
            "excess_low": report.interval[0],
            "excess_high": report.interval[1],
            "flagged": float(report.flagged.double().mean()),
        }
        return {name: torch.tensor(value, device=self.device) for name, value in figures.items()}

    def report(self) -> ExcessCopies:
        """The whole record over all samples of all processes; every process must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=self._to_sync):
            return self._report()

    def _report(self) -> ExcessCopies:
        return self.reference.report(CopyScores(**self._columns()), seed=self._seed)
