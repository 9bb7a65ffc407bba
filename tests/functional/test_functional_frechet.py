"""Fréchet distance against scipy, torchmetrics, closed forms, and its own two forms."""

import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from smoothscore.errors import UserError
from smoothscore.functional import (
    FrechetReference,
    feature_statistics,
    frechet_bias,
    frechet_distance,
    frechet_from_features,
)

linalg = pytest.importorskip("scipy.linalg")


def scipy_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    root = linalg.sqrtm((cov1 @ cov2).numpy())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.real.trace())


def exact_distance(features1: Tensor, features2: Tensor) -> float:
    """Nuclear norm of the product of QR factors: right to rounding, singular or not."""
    means = [features.double().mean(0) for features in (features1, features2)]
    rows = [
        (features.double() - mean) / (len(features) - 1) ** 0.5
        for features, mean in zip((features1, features2), means, strict=True)
    ]
    factors = [torch.linalg.qr(part).R for part in rows]
    root = torch.linalg.matrix_norm(factors[0] @ factors[1].T, "nuc")
    shift = (means[0] - means[1]).square().sum()
    return float(shift + rows[0].square().sum() + rows[1].square().sum() - 2 * root)


def sample(n: int, dim: int, *, decay: float = 0.5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, dim + 1, dtype=torch.float64) ** -decay
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) * scale @ mixing / dim**0.5


@pytest.fixture(scope="module")
def features(emoji: Tensor) -> Tensor:
    """Real features, [1412, 192]: 8×8 means of pixels, singular where borders are blank."""
    return torch.nn.functional.avg_pool2d(emoji.float() / 255, 4).flatten(1)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.5])
def test_equals_scipy_and_torchmetrics_where_well_conditioned(decay):
    one, two = sample(400, 64, decay=decay), sample(300, 64, decay=decay, seed=1) * 1.3 + 0.1
    statistics = *feature_statistics(one), *feature_statistics(two)
    ours = frechet_distance(*statistics)
    assert ours.dtype == torch.float64
    assert ours.shape == ()
    assert float(ours) == pytest.approx(scipy_distance(*statistics), rel=1e-6)
    assert float(ours) == pytest.approx(float(_compute_fid(*statistics)), rel=1e-6)
    assert float(ours) == pytest.approx(exact_distance(one, two), rel=1e-9)


def test_equals_torch_fidelity(features):
    fidelity = pytest.importorskip("torch_fidelity.metric_fid")
    one, two = features[:700, 64:128].double(), features[700:, 64:128].double()
    statistics = [fidelity.fid_features_to_statistics(part) for part in (one, two)]
    peer = fidelity.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert float(frechet_from_features(one, two)) == pytest.approx(peer, rel=1e-6)


def test_diagonal_gaussians_in_closed_form():
    one, two = torch.tensor([1.0, 4.0, 0.25, 0.0]), torch.tensor([9.0, 1.0, 0.0, 0.0])
    mean1, mean2 = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 0.0, 3.0])
    expected = 5.0 + float((one.sqrt() - two.sqrt()).square().sum())
    assert float(frechet_distance(mean1, one.diag(), mean2, two.diag())) == pytest.approx(expected, rel=1e-12)
    assert float(frechet_distance(mean2, two.diag(), mean1, one.diag())) == pytest.approx(expected, rel=1e-12)


def test_shift_alone_is_its_square(features):
    moved = features + 0.25
    assert float(frechet_from_features(features, moved)) == pytest.approx(192 * 0.25**2, rel=1e-5)


@pytest.mark.parametrize(("n1", "n2"), [(700, 700), (60, 256), (256, 60), (60, 700), (700, 60), (193, 193)])
def test_both_forms_agree_on_real_features(features, n1, n2):
    one, two = features[:n1], features[-n2:]
    exact = exact_distance(one, two)
    assert float(frechet_from_features(one, two)) == pytest.approx(exact, rel=1e-7)
    by_covariance = frechet_distance(*feature_statistics(one), *feature_statistics(two))
    assert float(by_covariance) == pytest.approx(exact, rel=1e-6)
    reference = FrechetReference.from_features(one)
    assert float(reference.distance(two)) == pytest.approx(exact, rel=1e-7)
    assert float(reference.distance_from_statistics(*feature_statistics(two))) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("n1", "n2"), [(300, 40), (40, 300), (40, 30), (20, 20)])
@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_singular_covariances_keep_their_accuracy(n1, n2, decay):
    one, two = sample(n1, 128, decay=decay), sample(n2, 128, decay=decay, seed=1)
    exact = exact_distance(one, two)
    assert float(frechet_from_features(one, two)) == pytest.approx(exact, rel=1e-10)
    by_covariance = frechet_distance(*feature_statistics(one), *feature_statistics(two))
    assert float(by_covariance) == pytest.approx(exact, rel=1e-6)


def test_exactly_collinear_and_constant_features(features):
    dead = features.clone()
    dead[:, 5] = dead[:, 4]
    dead[:, 6] = 0.5
    one, two = dead[:500], dead[500:]
    exact = exact_distance(one, two)
    by_covariance = frechet_distance(*feature_statistics(one), *feature_statistics(two))
    assert float(by_covariance) == pytest.approx(exact, rel=1e-6)
    assert float(frechet_from_features(one, two)) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("n", [50, 1412])
def test_a_set_has_no_distance_to_itself(features, n):
    one = features[:n]
    spread = float(one.var(0).sum())
    assert 0 <= float(frechet_from_features(one, one)) < 1e-7 * spread
    again = one[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    assert 0 <= float(frechet_from_features(one, again)) < 1e-7 * spread
    statistics = feature_statistics(one)
    assert 0 <= float(frechet_distance(*statistics, *statistics)) < 1e-6 * spread


def test_symmetry_and_rotation(features):
    one, two = features[:100].double(), features[100:400].double()
    rotation = torch.linalg.qr(sample(192, 192, decay=0.0)).Q
    value = float(frechet_from_features(one, two))
    assert float(frechet_from_features(two, one)) == pytest.approx(value, rel=1e-9)
    assert float(frechet_from_features(one @ rotation, two @ rotation)) == pytest.approx(value, rel=1e-9)
    assert float(frechet_from_features(3 * one, 3 * two)) == pytest.approx(9 * value, rel=1e-9)


def test_statistics_in_float64_over_chunks(features, monkeypatch):
    monkeypatch.setattr("smoothscore.functional.frechet._CHUNK", 100)
    mean, cov = feature_statistics(features + 1000)  # a far mean: sums of raw products would lose 6 digits
    rows = (features + 1000).double()
    torch.testing.assert_close(mean, rows.mean(0), rtol=1e-13, atol=0)
    torch.testing.assert_close(cov, rows.T.cov(), rtol=1e-9, atol=1e-12)


def test_errors_name_the_culprit(features):
    mean, cov = feature_statistics(features)
    bad = features.clone()
    bad[7, 3] = torch.inf
    wrong = cov.clone()
    wrong[0, 1] += cov.max()
    for match, call in {
        "row 7": lambda: frechet_from_features(bad, features),
        "1 row": lambda: feature_statistics(features[:1]),
        "shape": lambda: feature_statistics(features[0]),
        "torch.uint8": lambda: feature_statistics(torch.zeros(5, 3, dtype=torch.uint8)),
        "191 per row, but the reference has 192": lambda: frechet_from_features(features, features[:, 1:]),
        "mean2: 191 features": lambda: frechet_distance(mean, cov, mean[1:], cov[1:, 1:]),
        "cov1": lambda: frechet_distance(mean, cov[1:], mean, cov),
        "cov2: not symmetric": lambda: frechet_distance(mean, cov, mean, wrong),
        "cov1: an eigenvalue": lambda: frechet_distance(mean, -cov, mean, cov),
        "cov2: an eigenvalue": lambda: frechet_distance(mean, cov, mean, -cov),
        "mean2: holds a NaN": lambda: frechet_distance(mean, cov, mean * torch.nan, cov),
    }.items():
        with pytest.raises(UserError, match=match):
            call()


def test_bias_is_what_a_perfect_model_scores(features):
    """Fresh images in place of samples, at the same size, score about what the reference's own parts say."""
    order = torch.randperm(1412, generator=torch.Generator().manual_seed(5))
    reference, fresh = features[order[:1000]], features[order[1000:1100]]
    bias = frechet_bias(reference, 100)
    measured = float(frechet_from_features(reference, fresh))
    assert bias == pytest.approx(measured, rel=0.3)
    assert bias > 2 * frechet_bias(reference, 500)
    assert frechet_bias(reference, 5000) == frechet_bias(reference, 500)  # halves are the most there is
    assert frechet_bias(reference, 100, seed=1) != bias
    for match, call in {
        "features: 3 row": lambda: frechet_bias(reference[:3], 2),
        "num_samples is 1": lambda: frechet_bias(reference, 1),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
