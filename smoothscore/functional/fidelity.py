"""Precision, recall, density and coverage: do samples lie where real images lie, and everywhere there?"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from smoothscore.functional.balls import Balls


class PRDC(NamedTuple):
    """Result of :func:`prdc`.

    Attributes:
        precision: share of samples inside some real ball: are they realistic?
        recall: share of real images inside some ball of samples: are all kinds drawn?
        density: mean number of real balls around a sample, over k; about 1 for real images, and not bounded by 1.
        coverage: share of real balls that hold a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: Tensor, fake: Tensor, *, k: int = 5) -> PRDC:
    """Compare samples with real images through balls that reach to the k-th nearest neighbor.

    With B_i the closed ball around real image x_i that reaches to its k-th nearest other real image, and B'_j the same
    around sample y_j among samples:
    precision = mean_j 1[y_j ∈ ∪_i B_i], recall = mean_i 1[x_i ∈ ∪_j B'_j],
    density = (1/k) mean_j Σ_i 1[y_j ∈ B_i], coverage = mean_i 1[∃ j: y_j ∈ B_i].

    All four depend on the sizes of both sets: compare only at equal sizes. None of them sees copying; copies of the
    real images score best.

    Args:
        real: [M, *S] features or images, M > k.
        fake: [n, *S], n > k.
        k: which neighbor a ball reaches; 5 for density and coverage, 3 in Kynkäänniemi et al.

    Returns:
        A :class:`PRDC` of plain numbers.

    Raises:
        UserError: k out of range, different shapes, or a NaN (its row is named).

    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), Eq. 1 and 2; Naeem et al. 2020 (arXiv 2002.09797), Eq. 3 and 4.
    """
    return prdc_from_balls(Balls("real", real, k), fake)


def prdc_from_balls(real: Balls, fake: Tensor) -> PRDC:
    """:func:`prdc` with the balls around real images made once and compared with many sets of samples.

    Raises:
        UserError: as :func:`prdc`.
    """
    k = real.k
    of_fake, of_real = real.hold("fake", fake), Balls("fake", fake, k).hold(real.name, real.rows)
    return PRDC(
        precision=float((of_fake.balls > 0).double().mean()),
        recall=float((of_real.balls > 0).double().mean()),
        density=float(of_fake.balls.double().mean() / k),
        coverage=float(of_fake.hit.double().mean()),
    )
