"""Fréchet distance between two sets of features, each taken as a Gaussian.

The measure is a distance over *some* features and is named for them: "Fréchet distance (lite0)". Only with
the Inception weights of the original is it the FID.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional.rows import check_features

_CHUNK = 8192  # rows brought to float64 at a time
_ROUNDING = 4  # an eigenvalue below so many units of rounding of the largest may be a zero
_ACCURACY = 1e-6  # relative, of a distance: how much rounding, pessimistically, may do to it before more work is done
_BLOCK = 256  # columns of a triangular product at a time: wide enough for a fast matrix product


def feature_statistics(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased covariance, in float64.

    Args:
        features: [n, F], n ≥ 2.

    Returns:
        Mean [F] and covariance [F, F] with divisor n − 1, both float64.

    Raises:
        UserError: fewer than two rows, not [n, F], or a NaN (its row is named).
    """
    check_features("features", features, at_least=2)
    mean = features.mean(0, dtype=torch.float64)
    cov = mean.new_zeros(len(mean), len(mean))
    for chunk in torch.split(features, _CHUNK):
        centered = chunk.double() - mean
        cov.addmm_(centered.T, centered)
    return mean, cov.div_(len(features) - 1)


@dataclass(frozen=True, eq=False)
class FrechetReference:
    """One side of a Fréchet distance, factored once and compared with many sets.

    Σ = A Aᵀ with A [F, r]. For n ≤ F rows, A is the rows themselves, less the mean: nothing is decomposed. For
    more rows it is the Cholesky factor, or the scaled eigenvectors of the non-zero part of a singular Σ.

    Attributes:
        mean: [F], float64.
        factor: A, [F, r], float64.
        triangular: whether A is lower triangular, which makes products with it a third of the work.
    """

    mean: Tensor
    factor: Tensor
    triangular: bool = False

    @classmethod
    def from_features(cls, features: Tensor) -> FrechetReference:
        """Factor the covariance of ``features`` [n, F].

        Raises:
            UserError: fewer than two rows, not [n, F], or a NaN (its row is named).
        """
        check_features("features", features, at_least=2)
        if len(features) > features.shape[1]:
            mean, cov = feature_statistics(features)
            return cls(mean, *_factor(cov))
        mean, centered = _scaled(features)
        return cls(mean, centered.T)

    @classmethod
    def from_statistics(cls, mean: Tensor, cov: Tensor) -> FrechetReference:
        """Factor a covariance [F, F] that is already known, with its mean [F].

        Raises:
            UserError: shapes that do not belong together, a NaN, or an asymmetric ``cov``.
        """
        _check_statistics("mean1", mean, "cov1", cov)
        return cls(mean.double(), *_factor(cov.double()))

    def to(self, device: torch.device | str) -> FrechetReference:
        """Return the same reference on ``device``."""
        return replace(self, mean=self.mean.to(device), factor=self.factor.to(device))

    def distance(self, features: Tensor) -> Tensor:
        """Fréchet distance to ``features`` [n, F]: float64 scalar.

        tr (Σ1 Σ2)^½ is the nuclear norm of A1ᵀ A2 for any factors. With X the rows over √(n−1), less the mean,
        this is Σ_k s_k(X A1), exact where covariances are singular. Where both sides have more rows than
        features, the covariance is smaller than X, and eigenvalues are cheaper.

        Raises:
            UserError: fewer than two rows, not [n, F], or a NaN (its row is named).
        """
        check_features("features", features, at_least=2)
        dim, rank = self.factor.shape
        if features.shape[1] != dim:
            raise UserError(f"features: {features.shape[1]} per row, but the reference has {dim}; use one extractor.")
        if len(features) > dim and rank == dim:
            return self.distance_from_statistics(*feature_statistics(features))
        mean, centered = _scaled(features)
        root_trace = torch.linalg.svdvals(centered @ self.factor).sum()
        return self._combine(mean, centered.square().sum(), root_trace)

    def distance_from_statistics(self, mean: Tensor, cov: Tensor) -> Tensor:
        """Fréchet distance to a Gaussian (mean [F], cov [F, F]): float64 scalar.

        tr (Σ1 Σ2)^½ = Σ_k √λ_k(A1ᵀ Σ2 A1): a symmetric problem, where Σ1 Σ2 itself has none. An eigenvalue
        that may be zero counts with √ of its rounding: where that matters Σ2 is factored too, and the singular values
        of A1ᵀ A2, which are exact to rounding itself, are summed.

        Raises:
            UserError: shapes that do not belong together, a NaN, or an asymmetric ``cov``.
        """
        _check_statistics("mean2", mean, "cov2", cov)
        if len(mean) != len(self.mean):
            raise UserError(f"mean2: {len(mean)} features, but mean1 has {len(self.mean)}; use one extractor.")
        mean, cov = mean.double(), cov.double()
        product = _lower_product(self.factor, cov) if self.triangular else self.factor.T @ cov @ self.factor
        eigenvalues = torch.linalg.eigvalsh(product)  # reads the lower triangle
        _check_positive("cov2", eigenvalues)
        distance = self._combine(mean, cov.trace(), eigenvalues.clamp_min(0).sqrt().sum())
        rounding = torch.finfo(cov.dtype).eps * eigenvalues.amax() if len(eigenvalues) else eigenvalues.sum()
        zeros = (eigenvalues <= _ROUNDING * rounding).sum()
        if bool(2 * zeros * rounding.clamp_min(0).sqrt() > _ACCURACY * distance):
            root_trace = torch.linalg.svdvals(self.factor.T @ _singular_factor("cov2", cov)).sum()
            distance = self._combine(mean, cov.trace(), root_trace)
        return distance

    def _combine(self, mean: Tensor, trace: Tensor, root_trace: Tensor) -> Tensor:
        shift = (self.mean - mean).square().sum()
        # Equal sets differ by rounding alone, which may fall below zero; a distance does not.
        own_trace = self.factor.square().sum()
        return (shift + own_trace + trace - 2 * root_trace).clamp_min(0)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """Fréchet distance between two Gaussians: ‖m1−m2‖² + tr Σ1 + tr Σ2 − 2 tr (Σ1 Σ2)^½.

    Args:
        mean1: [F].
        cov1: [F, F], symmetric, may be singular.
        mean2: [F].
        cov2: [F, F], symmetric, may be singular.

    Returns:
        float64 scalar, ≥ 0.

    Raises:
        UserError: shapes that do not belong together, a NaN, or an asymmetric covariance.

    Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500), Sec. 3.
    """
    return FrechetReference.from_statistics(mean1, cov1).distance_from_statistics(mean2, cov2)


def frechet_from_features(features1: Tensor, features2: Tensor) -> Tensor:
    """Fréchet distance between two sets of features, by the cheaper of two exact forms.

    With fewer rows than features on one side, no covariance is built: tr (Σ1 Σ2)^½ = ‖X1 X2ᵀ‖_*, the nuclear
    norm, for rows over √(n−1), less their mean. So few rows bias the distance upwards: compare only equal n.

    Args:
        features1: [n1, F].
        features2: [n2, F].

    Returns:
        float64 scalar, ≥ 0; equal to :func:`frechet_distance` of the two :func:`feature_statistics`.

    Raises:
        UserError: fewer than two rows, not [n, F], different F, or a NaN (its row is named).
    """
    return FrechetReference.from_features(features1).distance(features2)


def frechet_bias(features: Tensor, num_samples: int, *, seed: int = 0) -> float:
    """How far a perfect model would seem from its reference: the Fréchet distance between two parts of the reference.

    With fewer rows than features a covariance is singular, and two sets of one distribution are far apart. The
    reference is divided at random into ``num_samples`` rows and the rest, or into halves where it has fewer than
    twice as many.

    Args:
        features: the reference, [M, F], M ≥ 4.
        num_samples: samples that will be compared with it, ≥ 2.
        seed: of the division.

    Returns:
        A distance: what of a measured distance is not the model's.

    Raises:
        UserError: fewer than four rows, ``num_samples`` < 2, not [M, F], or a NaN (its row is named).
    """
    check_features("features", features, at_least=4)
    if num_samples < 2:
        raise UserError(f"num_samples is {num_samples}, but a covariance needs at least 2.")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).to(features.device)
    size = min(num_samples, len(features) // 2)
    return float(frechet_from_features(features[order[size:]], features[order[:size]]))


def _scaled(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [F] and rows X [n−1, F] with Σ = Xᵀ X.

    The n centered rows sum to zero, a direction without content whose rounding would be seen as √ε. The
    reflection that takes (1, …, 1) to the first axis takes it away and leaves Σ as it is.
    """
    mean = features.mean(0, dtype=torch.float64)
    centered = features.double() - mean
    root = len(features) ** 0.5
    rows = centered[1:] + centered[0] / (root - 1)
    return mean, rows / (len(features) - 1) ** 0.5


def _lower_product(lower: Tensor, cov: Tensor) -> Tensor:
    """The lower triangle of Lᵀ Σ L, block column by block column, without the zeros of L."""
    product = torch.zeros_like(cov)
    for start in range(0, len(cov), _BLOCK):
        columns = slice(start, start + _BLOCK)
        product[start:, columns] = lower[start:, start:].T @ (cov[start:, start:] @ lower[start:, columns])
    return product


def _factor(cov: Tensor) -> tuple[Tensor, bool]:
    """A [F, r] with Σ = A Aᵀ, and whether it is lower triangular."""
    lower, info = torch.linalg.cholesky_ex(cov)
    if int(info) == 0:
        return lower, True
    return _singular_factor("cov1", cov), False


def _singular_factor(name: str, cov: Tensor) -> Tensor:
    """A [F, r] with Σ = A Aᵀ: the scaled eigenvectors of what is not zero."""
    eigenvalues, vectors = torch.linalg.eigh(cov)
    largest = eigenvalues[-1].clamp_min(0)
    # What lies below is rounding of zero: each such value λ would add √λ, far above rounding, to the trace.
    kept = eigenvalues > len(cov) * torch.finfo(cov.dtype).eps * largest
    _check_positive(name, eigenvalues)
    factor: Tensor = vectors[:, kept] * eigenvalues[kept].sqrt()
    return factor


def _check_statistics(mean_name: str, mean: Tensor, cov_name: str, cov: Tensor) -> None:
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise UserError(
            f"{mean_name} has shape {list(mean.shape)} and {cov_name} {list(cov.shape)}; give [F] and [F, F]."
        )
    largest = float(torch.linalg.vector_norm(cov, math.inf))  # NaN where any is
    for name, value in ((mean_name, float(mean.sum())), (cov_name, largest)):
        if not math.isfinite(value):
            raise UserError(f"{name}: holds a NaN or an infinite value; look for it in the features, row by row.")
    # Only one triangle is read below, so an asymmetric matrix would give a figure that means nothing. Seen on a
    # vector: two products of a matrix with it are cheaper than the difference of two matrices.
    probe = torch.linspace(0.5, 1.5, len(cov), dtype=cov.dtype, device=cov.device)
    if float((cov @ probe - probe @ cov).abs().max()) > 1e-4 * largest:
        raise UserError(f"{cov_name}: not symmetric, so not a covariance; give feature_statistics(features)[1].")


def _check_positive(name: str, eigenvalues: Tensor) -> None:
    if len(eigenvalues) and float(eigenvalues[0]) < -1e-4 * float(eigenvalues.abs().max()):
        raise UserError(
            f"{name}: an eigenvalue is {float(eigenvalues[0]):.3g} beside {float(eigenvalues[-1]):.3g}, "
            "but a covariance has none below zero. Give feature_statistics(features)[1]."
        )
