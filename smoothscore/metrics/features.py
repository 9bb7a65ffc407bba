"""The measures that look at single features of generated images, over batches and processes."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import auth_pct, c_t, kernel_distance, mifid, vendi
from smoothscore.functional.balls import Balls
from smoothscore.functional.fidelity import prdc_from_balls
from smoothscore.functional.frechet import FrechetReference
from smoothscore.functional.rows import check_features
from smoothscore.metrics.rows import PerSample

QUICK = ("prdc", "kernel")
MEASURES = (*QUICK, "diversity", "authenticity")
_NEIGHBOR = 5  # that a ball of precision, recall, density and coverage reaches
_SAMPLES_PER_CELL = 50  # of C_T, on average


class FeatureMeasures(PerSample):
    """Precision, recall, density, coverage, kernel distance, authenticity, C_T, MiFID and Vendi score of samples.

    Keeps the features of all samples, [n, F], and gathers them. What depends on the references alone is computed once.

    Args:
        train: features [m, F] of training images, as many as of ``test``.
        test: features [m, F] of held-out images.
        all_train: features [M, F] of all training images, for "authenticity".
        all_test: features [N, F] of all held-out images, for "authenticity".
        measures: which groups, of "prdc", "kernel", "diversity" and "authenticity".

    Raises:
        UserError: an unknown measure, not [n, F], or a NaN (its row is named).
    """

    def __init__(
        self,
        train: Tensor,
        test: Tensor,
        *,
        all_train: Tensor | None = None,
        all_test: Tensor | None = None,
        measures: Sequence[str] = MEASURES,
    ) -> None:
        check_measures(measures)
        if "authenticity" in measures and (all_train is None or all_test is None):
            raise UserError('measures: "authenticity" needs the features of all training and all held-out images.')
        check_features("train", train, at_least=2)
        check_features("test", test, at_least=2, like=("train", train))
        super().__init__(features=torch.empty(0, train.shape[1]))
        self.measures = tuple(measures)
        # Plain attributes: as buffers they would follow the precision of whoever owns the metric.
        self.references = {"train": train, "test": test}
        self._all = (all_train, all_test)
        # Held-out images are the reference: to a copy of a training image they owe nothing.
        self.balls = Balls("test", test, _NEIGHBOR) if "prdc" in measures and len(test) > _NEIGHBOR else None
        self._frechet = None if all_train is None else FrechetReference.from_features(all_train)

    def update(self, features: Tensor) -> None:
        """Add features [n, F] of samples.

        Raises:
            UserError: another number of features than the references, or a NaN (its row is named).
        """
        check_features("features", features, like=("the reference", self.references["train"]))
        self._add(features=features.float())

    def compute(self) -> dict[str, Tensor]:
        """The figures by name, such as prdc/precision, kernel/test, authenticity/auth_pct, diversity/vendi.

        A figure that so few samples do not have is left out.
        """
        samples = self.samples().to(self.references["train"].device)
        values: dict[str, float] = {}
        if self.balls is not None and len(samples) > _NEIGHBOR:
            for name, value in prdc_from_balls(self.balls, samples)._asdict().items():
                values[f"prdc/{name}"] = value
        if "kernel" in self.measures and len(samples) > 1:
            for side, reference in self.references.items():
                values[f"kernel/{side}"] = kernel_distance(reference, samples).mean
        if "diversity" in self.measures:
            values["diversity/vendi"] = vendi(samples)
        if "authenticity" in self.measures and len(samples) > 1:
            values |= self._authenticity(samples)
        return {name: torch.tensor(value, device=self.device) for name, value in values.items()}

    def _authenticity(self, samples: Tensor) -> dict[str, float]:
        train, test = self._all
        assert train is not None
        assert test is not None
        values = {"authenticity/auth_pct": auth_pct(train, samples)}
        cells = max(1, min(_NEIGHBOR, len(samples) // _SAMPLES_PER_CELL))
        least = 20 if cells > 1 else 1
        try:
            values["authenticity/c_t"] = c_t(train, test, samples, cells=cells, least=least).z
        except UserError:  # no cell holds both samples and held-out images
            values["authenticity/c_t"] = math.nan
        values["authenticity/mifid"] = mifid(train, samples, reference=self._frechet).value
        return values

    def samples(self) -> Tensor:
        """Features [n, F] of all samples that this process holds, or of all processes inside `sync_context`."""
        return self._columns()["features"]


def check_measures(measures: Sequence[str]) -> None:
    """Refuse measures that do not exist.

    Raises:
        UserError: an unknown one (it is named, with those there are).
    """
    for name in measures:
        if name not in MEASURES:
            raise UserError(f'measures: there is no "{name}"; choose among {", ".join(MEASURES)}.')
