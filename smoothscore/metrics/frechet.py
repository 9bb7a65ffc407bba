"""Fréchet distance over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from smoothscore.errors import UserError
from smoothscore.functional.frechet import FrechetReference
from smoothscore.functional.rows import check_rows

_BATCH = 256  # images an extractor sees at a time


class FrechetDistance(Metric):
    """Fréchet distance between the samples seen so far and a fixed reference.

    Keeps sums, not features: Σ f and Σ f fᵀ in float64, taken about the reference's mean (the same in every
    process, so sums add; near the middle, so nothing cancels). The reference is factored once.

    Args:
        reference: features [n, F], or images [n, *S] if there is an extractor, or a factored reference.
        extractor: images → features [n, F], applied to the reference and to every update; None: both
            are features already, as where one feature pass feeds several metrics.
        name: of the features: the metric is "Fréchet distance (name)".

    Raises:
        UserError: fewer than two reference rows, not [n, F], or a NaN (its row is named).

    Source: Heusel et al. 2017 (arXiv 1706.08500), Sec. 3.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    count: Tensor
    total: Tensor
    outer: Tensor

    def __init__(
        self,
        reference: Tensor | FrechetReference,
        *,
        extractor: nn.Module | None = None,
        name: str = "features",
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.label = f"Fréchet distance ({name})"
        if isinstance(reference, Tensor):
            reference = FrechetReference.from_features(self._features(reference))
        self.reference = reference
        dim = len(reference.mean)
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(dim, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("outer", torch.zeros(dim, dim, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, samples: Tensor) -> None:
        """Add features [n, F], or images [n, *S] if there is an extractor.

        Raises:
            UserError: another number of features than the reference, or a NaN (its row is named).
        """
        features = self._features(samples)
        check_rows("features", features)
        if features.shape[1:] != self.total.shape:
            raise UserError(
                f"features: shape {list(features.shape)}, but the reference has {len(self.total)} per row; "
                "use the same extractor for both."
            )
        rows = features.double() - self._reference().mean
        self.count += len(rows)
        self.total += rows.sum(0)
        self.outer += rows.T @ rows

    def compute(self) -> Tensor:
        """The distance: float64 scalar.

        Raises:
            UserError: fewer than two samples.
        """
        count = int(self.count)
        if count < 2:
            raise UserError(f"samples: {count} row(s), but a covariance needs at least 2; generate more images.")
        reference = self._reference()
        shift = self.total / count
        cov = (self.outer - count * shift.outer(shift)) / (count - 1)
        return reference.distance_from_statistics(reference.mean + shift, cov)

    def _features(self, samples: Tensor) -> Tensor:
        if self.extractor is None:
            return samples
        with torch.no_grad():
            self.extractor.eval()  # whoever owns the metric may have called .train()
            return torch.cat([self.extractor(part) for part in torch.split(samples, _BATCH)])

    def _reference(self) -> FrechetReference:
        if self.reference.mean.device != self.total.device:  # the metric was moved
            self.reference = self.reference.to(self.total.device)
        return self.reference
