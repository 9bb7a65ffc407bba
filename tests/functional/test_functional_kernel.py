"""Kernel distance, MiFID and Vendi score against plain float64, torchmetrics, torch-fidelity where it is installed."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from smoothscore.errors import UserError
from smoothscore.functional import frechet_from_features, kernel_distance, mifid, vendi


def plain_mmd(x: Tensor, y: Tensor) -> float:
    """The unbiased estimate with the cubic kernel, written out."""
    kernels = [((a.double() @ b.double().T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    (xx, yy), xy = (part.fill_diagonal_(0).sum() / (len(part) * (len(part) - 1)) for part in kernels[:2]), kernels[2]
    return float(xx + yy - 2 * xy.mean())


@pytest.fixture(scope="module")
def features(emoji: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(emoji.float() / 255, 4).flatten(1)  # [1412, 192]


def test_one_subset_of_all_rows_is_the_plain_estimate(features):
    one, other = features[:200], 1.1 * features[700:900]
    result = kernel_distance(one, other, subsets=1)
    assert result == pytest.approx((plain_mmd(one, other), 0), rel=1e-9)


@pytest.mark.parametrize(("real", "fake", "size"), [(300, 100, 100), (700, 600, 40), (60, 60, 20)])
def test_equals_torchmetrics_on_the_same_subsets(features, real, fake, size):
    one, other = features[:real], 1.05 * features[-fake:]
    peer = KernelInceptionDistance(feature=nn.Identity(), subsets=7, subset_size=size).set_dtype(torch.float64)
    peer.inception = nn.Identity()
    peer.update(one.double(), real=True)
    peer.update(other.double(), real=False)
    torch.manual_seed(3)
    mean, std = peer.compute()
    result = kernel_distance(one, other, subsets=7, subset_size=size, seed=3)
    assert result == pytest.approx((float(mean), float(std)), rel=1e-6)


def test_equals_torch_fidelity(features):
    fidelity = pytest.importorskip("torch_fidelity.metric_kid")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    one, other = features[:150].double(), 1.1 * features[700:850].double()
    options = {"kid_subsets": 1, "kid_subset_size": 150, "kid_kernel": "poly", "verbose": False, "rng_seed": 0}
    options |= {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1.0}
    peer = fidelity.kid_features_to_metric(one, other, **options)
    ours = kernel_distance(one, other, subsets=1)
    assert ours.mean == pytest.approx(peer["kernel_inception_distance_mean"], rel=1e-6)
    from smoothscore.functional import prdc

    options = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    found = prc.prc_features_to_metric(other, one, **options)
    expected = (found["precision"], found["recall"])
    assert prdc(one, other, k=3)[:2] == pytest.approx(expected, abs=1e-6)


def test_blocks_change_nothing(features, monkeypatch):
    one, other = features[:300], features[300:500]
    whole = kernel_distance(one, other, subsets=5, subset_size=50)
    monkeypatch.setattr("smoothscore.functional.kernel._BLOCK", 33)
    assert kernel_distance(one, other, subsets=5, subset_size=50) == pytest.approx(whole, rel=1e-9)


def test_it_has_no_bias_where_the_frechet_distance_has_much():
    """Two sets of one distribution, 20 rows of 64 features each, 200 times over."""
    generator = torch.Generator().manual_seed(0)
    sets = torch.randn(200, 2, 20, 64, generator=generator)
    values = torch.tensor([kernel_distance(one, other, subsets=1).mean for one, other in sets])
    assert abs(float(values.mean())) < 3 * float(values.std()) / 200**0.5
    assert float(values.min()) < 0 < float(values.max())
    assert float(frechet_from_features(sets[0, 0], sets[0, 1])) > 20


def test_default_subsets_and_their_seed(features):
    one, other = features[:90], features[90:150]
    default = kernel_distance(one, other)
    assert default == kernel_distance(one, other, subsets=100, subset_size=60, seed=0)
    assert default != kernel_distance(one, other, seed=1)


@pytest.mark.parametrize("epsilon", [0.1, 1e-6, 1.0])
def test_mifid_equals_its_formula(features, epsilon):
    real, fake = features[:300].clone(), features[300:400].clone()
    fake[:50] = 0.98 * real[:50] + 0.02 * fake[50:]
    real[4] = 0  # no direction
    cosine = nn.functional.cosine_similarity(fake.double()[:, None], real.double()[None], dim=2)
    distance = float((1 - cosine.abs().amax(1)).mean())
    frechet = float(frechet_from_features(real, fake))
    result = mifid(real, fake, epsilon=epsilon)
    expected = frechet / distance if distance < epsilon else frechet
    assert (result.value, result.frechet, result.distance) == pytest.approx((expected, frechet, distance), rel=1e-6)
    assert (result.value > frechet) == (epsilon > distance)


def test_mifid_equals_torchmetrics_with_the_roles_of_its_distance(features):
    """Torchmetrics averages over what it calls real, so the sets are swapped; the Fréchet distance is symmetric."""
    real, fake = features[:400], 0.9 * features[300:] + 0.02
    peer = MemorizationInformedFrechetInceptionDistance(feature=nn.Identity(), cosine_distance_eps=0.5)
    peer.inception = nn.Identity()
    peer.update(fake.double(), real=True)
    peer.update(real.double(), real=False)
    assert mifid(real, fake, epsilon=0.5).value == pytest.approx(float(peer.compute()), rel=1e-5)


def test_mifid_of_exact_copies_is_infinite(features):
    axes = torch.eye(6).repeat(2, 1) + 0.0
    assert mifid(axes, 2 * axes[:5]).value == math.inf
    assert mifid(features[:300], features[:200]).value > 1e6 * mifid(features[:300], features[:200]).frechet


@pytest.mark.parametrize(("count", "dim"), [(50, 192), (600, 192), (100, 100)])
def test_vendi_equals_the_eigenvalues_of_the_whole_kernel(features, count, dim):
    rows = features[:count, :dim] + 0.01
    unit = rows.double().numpy() / np.linalg.norm(rows.double().numpy(), axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvalsh(unit @ unit.T / count)
    positive = eigenvalues[eigenvalues > 1e-15]
    assert vendi(rows) == pytest.approx(float(np.exp(-(positive * np.log(positive)).sum())), rel=1e-6)


def test_vendi_counts_kinds(monkeypatch):
    kinds = torch.linalg.qr(torch.randn(40, 40, generator=torch.Generator().manual_seed(0))).Q[:8]
    assert vendi(kinds) == pytest.approx(8, rel=1e-5)
    assert vendi(kinds.repeat(3, 1) * torch.arange(1, 25)[:, None]) == pytest.approx(8, rel=1e-5)
    assert vendi(kinds[:1].repeat(9, 1)) == pytest.approx(1, rel=1e-6)
    monkeypatch.setattr("smoothscore.functional.diversity._CHUNK", 7)
    assert vendi(kinds[:, :20].repeat(10, 1)) == pytest.approx(vendi(kinds[:, :20]), rel=1e-6)


def test_errors(features):
    bad = features[:20].clone()
    bad[7, 3] = torch.nan
    empty = features[:20].clone()
    empty[3] = 0
    one, other = features[:20], features[20:50]
    for match, call in {
        "fake: row 7": lambda: kernel_distance(one, bad),
        "real: row 7": lambda: mifid(bad, one),
        "features: row 7": lambda: vendi(bad),
        "features: row 3 is all zeros": lambda: vendi(empty),
        "real: 1 row": lambda: kernel_distance(one[:1], other),
        "fake: 5 features per row, but real has 192": lambda: kernel_distance(one, other[:, :5]),
        "of 21 rows were asked for among 20 real": lambda: kernel_distance(one, other, subset_size=21),
        "0 subset": lambda: kernel_distance(one, other, subsets=0),
        "epsilon is 0": lambda: mifid(one, other, epsilon=0),
        r"torch.uint8 of shape": lambda: vendi(torch.zeros(3, 4, dtype=torch.uint8)),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
