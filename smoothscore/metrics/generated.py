"""Every measure of generated images, from one feature pass."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from smoothscore.functional.calibrated import calibrated_distance
from smoothscore.functional.frechet import FrechetReference, frechet_bias
from smoothscore.metrics.copies import LEAST_HELD_OUT, Copies
from smoothscore.metrics.features import QUICK, FeatureMeasures, check_measures
from smoothscore.metrics.frechet import FrechetDistance
from smoothscore.metrics.memorization import Memorization, memorization_figures

_NEIGHBORS = 50  # of the calibrated distance, or all training images where there are fewer

Featurize = Callable[[Tensor], Tensor]


class GeneratedImages(nn.Module):
    """All measures of one set of generated images: drawn once, featurised once.

    Memorization in pixels and the Fréchet distances are always measured; `measures` adds to them.

    Args:
        train: training images [M, *S].
        test: held-out images [N, *S], the control of memorization.
        featurize: from images to features [n, F].
        name: of the features, which every measure among them is named for.
        reference_train: rows of train that distances to train compare with.
        reference_test: rows of test, as many, for the distances to test, and for precision, recall, density and
            coverage.
        measures: of `smoothscore.metrics.MEASURES`; "authenticity" needs features of all images, and adds memorization
            among features, in `feature_memorization`, the share of samples with a calibrated distance below 1, and,
            where there are 30 held-out images or more, excess copies in pixels and features, in `copies`.
        train_features: features [M, F] of all training images, where they are known already.

    Raises:
        UserError: an unknown measure, or what the measures themselves refuse.

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
        measures: Sequence[str] = QUICK,
        train_features: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_measures(measures)
        self.featurize = featurize
        self.name = name
        self.memorization = Memorization(train, control=test)
        self.feature_memorization: Memorization | None = None
        self.calibrated: MeanMetric | None = None
        self.copies: Copies | None = None
        self.train_features: Tensor | None = None
        whole_train = whole_test = None
        if "authenticity" in measures:
            whole_train = _of_distinct(train, featurize(train) if train_features is None else train_features)
            self.train_features = whole_train
            whole_test = featurize(test)
            references = {"train": whole_train[reference_train], "test": whole_test[reference_test]}
            self.feature_memorization = Memorization(whole_train, control=whole_test)
            self.calibrated = MeanMetric()
            self._distinct = train[self.memorization.images.rows]
            self._calibrated_control = float(self._below_usual(test).mean())
            if len(test) >= LEAST_HELD_OUT:
                self.copies = Copies(self._spaces(train, whole_train), self._spaces(test, whole_test))
        else:
            references = {"train": featurize(train[reference_train]), "test": featurize(test[reference_test])}
        self.frechet = nn.ModuleDict(
            {
                f"{side}_{name}": FrechetDistance(FrechetReference.from_features(features), name=name)
                for side, features in references.items()
            }
        )
        self.features = FeatureMeasures(
            references["train"], references["test"], all_train=whole_train, all_test=whole_test, measures=measures
        )
        self._bias: dict[int, float] = {}

    def update(self, images: Tensor) -> None:
        """Add generated images [n, *S] to every measure."""
        self.memorization.update(images)
        features = self.featurize(images.clamp(0, 1))
        for metric in (*self.frechet.values(), self.feature_memorization, self.features):
            if isinstance(metric, Metric):
                metric.update(features)
        if self.calibrated is not None:
            self.calibrated.update(self._below_usual(images))
        if self.copies is not None:
            self.copies.update(self._spaces(images, features))

    def compute(self) -> dict[str, Tensor]:
        """All figures over all processes, under the names they are logged by; every process must call it.

        memorization/…, copies/…_NAME, frechet/train_NAME, frechet/test_NAME and frechet/ratio_NAME (test over train),
        and what `FeatureMeasures` gives, each with _NAME. frechet/bias_NAME stands beside them where samples or
        references are not more than features: what two parts of the reference are apart at that size, also as a
        warning.
        """
        report = self.memorization.report()
        figures = {f"memorization/{key}": value for key, value in memorization_figures(report).items()}
        if self.feature_memorization is not None:
            among = memorization_figures(self.feature_memorization.report())
            figures |= {f"memorization/features_{key}_{self.name}": value for key, value in among.items()}
        values = {name: torch.tensor(value) for name, value in figures.items()}
        if self.calibrated is not None:
            values["memorization/calibrated"] = self.calibrated.compute()
            values["memorization/calibrated_held_out"] = torch.tensor(self._calibrated_control)
        if self.copies is not None:
            values |= {f"copies/{name}_{self.name}": value for name, value in self.copies.compute().items()}
        for name, metric in self.frechet.items():
            assert isinstance(metric, Metric)
            values[f"frechet/{name}"] = metric.compute()
        to_train, to_test = (values[f"frechet/{side}_{self.name}"] for side in ("train", "test"))
        values[f"frechet/ratio_{self.name}"] = to_test / to_train
        bias = self._frechet_bias(len(report.ratio))
        if bias is not None:
            values[f"frechet/bias_{self.name}"] = torch.tensor(bias)
        values |= {f"{name}_{self.name}": value for name, value in self.features.compute().items()}
        return values

    def reset(self) -> None:
        """Forget the generated images; references stay."""
        for metric in self._metrics():
            metric.reset()

    def _metrics(self) -> list[Metric]:
        metrics = [self.memorization, *self.frechet.values(), self.feature_memorization, self.calibrated]
        metrics += [self.copies, self.features]
        return [metric for metric in metrics if isinstance(metric, Metric)]

    def _spaces(self, images: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {"pixels": images} | ({self.name: features} if self.name != "pixels" else {})

    def _below_usual(self, images: Tensor) -> Tensor:
        """Which images have a calibrated distance below 1, as 0 and 1."""
        neighbors = min(_NEIGHBORS, len(self._distinct))
        return (calibrated_distance(images, self._distinct, neighbors=neighbors) < 1).float()

    def _frechet_bias(self, samples: int) -> float | None:
        """Where a covariance is singular: what a perfect model would score at this size; said once for each size."""
        reference = self.features.references["test"]
        count, dim = reference.shape
        if min(samples, count) > dim or count < 4:
            return None
        if samples not in self._bias:
            self._bias[samples] = frechet_bias(reference, samples)
            warnings.warn(
                f"The Fréchet distances ({self.name}) are biased upwards: {dim:,} features, but only {samples:,} "
                f"samples and {count:,} reference images. Two parts of the held-out reference, of "
                f"{min(samples, count // 2):,} images and the rest, are {self._bias[samples]:.3g} apart, not 0: "
                "compare at equal numbers only, or read the kernel distance, which has no such bias.",
                stacklevel=2,
            )
        return self._bias[samples]


def _of_distinct(images: Tensor, features: Tensor) -> Tensor:
    """Give equal images equal features, which the place in a batch may round differently: they group as one."""
    _, group = torch.unique(images.flatten(1), dim=0, return_inverse=True)
    first = torch.full((len(images),), len(images), device=images.device)
    first.scatter_reduce_(0, group, torch.arange(len(images), device=images.device), "amin")
    return features[first[group]]
