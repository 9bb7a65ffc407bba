"""Excess copies over batches and processes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric

from smoothscore.functional.excess import CopyReference, CopyScores, ExcessCopies

LEAST_HELD_OUT = 30  # images that p-values of 5 % take


class Copies(Metric):
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

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    score: list[Tensor]
    nearest: list[Tensor]
    place: list[Tensor]
    weight: list[Tensor]

    def __init__(self, train: Mapping[str, Tensor], held_out: Mapping[str, Tensor], *, seed: int = 0) -> None:
        super().__init__()
        self.reference = CopyReference(train, held_out, seed=seed)
        self._seed = seed
        self._spaces = len(train)
        for name in CopyScores._fields:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._start()

    def update(self, samples: Mapping[str, Tensor]) -> None:
        """Add samples by space, [n, *S] each.

        Raises:
            UserError: other spaces or shapes than the training images, or a NaN (its row is named).
        """
        for name, value in self.reference.score(samples)._asdict().items():
            getattr(self, name).append(value.to(self.device))

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

    def reset(self) -> None:
        """Forget all samples; the references stay."""
        super().reset()
        self._start()

    def _start(self) -> None:
        # Gathering needs equal types in all processes, also from one that never saw a sample.
        score = torch.empty(0, dtype=torch.float64, device=self.device)
        nearest = torch.empty(0, dtype=torch.int64, device=self.device)
        self.score, self.weight = [score], [score.new_empty(0, self._spaces)]
        self.nearest, self.place = [nearest], [nearest.new_empty(0, self._spaces)]

    def _report(self) -> ExcessCopies:
        states = (getattr(self, name) for name in CopyScores._fields)
        columns = (torch.cat(state) if isinstance(state, list) else state for state in states)
        return self.reference.report(CopyScores(*columns), seed=self._seed)
