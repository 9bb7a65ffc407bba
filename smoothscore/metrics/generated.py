"""Every measure of generated images, from one feature pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from smoothscore.functional.frechet import FrechetReference
from smoothscore.metrics.frechet import FrechetDistance
from smoothscore.metrics.memorization import Memorization

Featurize = Callable[[Tensor], Tensor]


class GeneratedImages(nn.Module):
    """Memorization and Fréchet distances of one set of generated images: drawn once, featurised once.

    Args:
        train: training images [M, *S].
        test: held-out images [N, *S], the control of memorization.
        featurize: from images to features [n, F].
        name: of the features, which the Fréchet distances are named for.
        reference_train: rows of train that the Fréchet distance to train compares with.
        reference_test: rows of test, as many, for the distance to test.
        train_features: features [M, F] of all training images, where they are known: memorization is then measured
            among features as well, in `feature_memorization`.

    Source: arXiv 2601.19285, Sec. B.3.2 and 5.2.
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        *,
        featurize: Featurize,
        name: str,
        reference_train: Tensor,
        reference_test: Tensor,
        train_features: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.featurize = featurize
        self.memorization = Memorization(train, control=test)
        self.feature_memorization: Memorization | None = None
        if train_features is None:
            references = {"train": featurize(train[reference_train]), "test": featurize(test[reference_test])}
        else:
            test_features = featurize(test)
            references = {"train": train_features[reference_train], "test": test_features[reference_test]}
            self.feature_memorization = Memorization(train_features, control=test_features)
        self.frechet = nn.ModuleDict(
            {
                f"{side}_{name}": FrechetDistance(FrechetReference.from_features(features), name=name)
                for side, features in references.items()
            }
        )

    def update(self, images: Tensor) -> None:
        """Add generated images [n, *S] to every measure."""
        self.memorization.update(images)
        features = self.featurize(images.clamp(0, 1))
        for metric in self._metrics()[1:]:
            metric.update(features)

    def compute(self) -> dict[str, Tensor]:
        """All figures over all processes, under the names they are logged by; every process must call it."""
        report = self.memorization.report()
        figures = {
            "memorization/fraction": report.fraction,
            "memorization/low": report.interval[0],
            "memorization/high": report.interval[1],
            "memorization/below_third": report.counts[0] / len(report.ratio),
            "memorization/mean_ratio": report.mean,
            "memorization/min_ratio": report.minimum,
        }
        if report.control is not None:
            figures["memorization/held_out"] = report.control.fraction
        values = {name: torch.tensor(value) for name, value in figures.items()}
        for name, metric in self.frechet.items():
            assert isinstance(metric, Metric)
            values[f"frechet/{name}"] = metric.compute()
        return values

    def reset(self) -> None:
        """Forget the generated images; references stay."""
        for metric in self._metrics():
            metric.reset()

    def _metrics(self) -> list[Metric]:
        metrics = [self.memorization, *self.frechet.values(), self.feature_memorization]
        return [metric for metric in metrics if isinstance(metric, Metric)]
