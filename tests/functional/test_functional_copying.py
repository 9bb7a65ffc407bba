"""C_T against scipy's Mann–Whitney test, its cells, the calibrated distance, and their controls."""

import pytest
import torch
from torch import Tensor

from smoothscore.distances import nearest
from smoothscore.errors import UserError
from smoothscore.functional import c_t, calibrated_distance
from smoothscore.functional.cells import k_means
from smoothscore.functional.rows import unique_rows

stats = pytest.importorskip("scipy.stats")


@pytest.fixture(scope="module")
def features(emoji: Tensor) -> Tensor:
    distinct = emoji[unique_rows(emoji)]
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(distinct[order].float() / 255, 8).flatten(1)  # [1407, 48]


def plain(one: Tensor, other: Tensor) -> Tensor:
    return torch.cdist(one.double(), other.double(), compute_mode="donot_use_mm_for_euclid_dist")


def plain_c_t(train: Tensor, test: Tensor, samples: Tensor, middles: Tensor, least: int) -> tuple[float, int]:
    cells = [plain(rows, middles).argmin(1) for rows in (train, test, samples)]
    weights, scores = [], []
    for cell in range(len(middles)):
        own, held_out, drawn = (rows[where == cell] for rows, where in zip((train, test, samples), cells, strict=True))
        if len(drawn) < least or not len(held_out):
            continue
        to_drawn, to_held_out = plain(drawn, own).amin(1), plain(held_out, own).amin(1)
        n, m = len(held_out), len(drawn)
        u = stats.mannwhitneyu(to_drawn.numpy(), to_held_out.numpy(), alternative="less").statistic
        scores.append((u - n * m / 2) / (n * m * (n + m + 1) / 12) ** 0.5)
        weights.append(n / len(test))
    return sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights), len(scores)


@pytest.mark.parametrize(("cells", "least"), [(1, 1), (4, 20), (8, 40)])
def test_c_t_equals_scipy_in_every_cell(features, cells, least):
    train, test = features[:700], features[700:1000]
    samples = torch.cat([features[1000:1250], 0.9 * train[:100] + 0.1 * train[100:200]])
    expected, used = plain_c_t(train, test, samples, k_means(train, cells), least)
    result = c_t(train, test, samples, cells=cells, least=least)
    assert result.z == pytest.approx(expected, rel=1e-6)
    assert result.cells == used
    assert int((~result.cell_z.isnan()).sum()) == used
    assert 0 < result.share <= 1


def test_c_t_of_copies_of_held_out_images_and_of_noise(features):
    train, test, fresh = features[:600], features[600:1000], features[1000:]
    generator = torch.Generator().manual_seed(0)
    copies = train[:300] + 0.01 * torch.randn(300, 48, generator=generator)
    assert c_t(train, test, copies).z < -5
    assert abs(c_t(train, test, fresh).z) < 2
    assert c_t(train, test, fresh + 0.3 * torch.randn(fresh.shape, generator=generator)).z > 5
    one, other = c_t(train, test, fresh, cells=1).z, c_t(train, fresh, test, cells=1).z
    assert one == pytest.approx(-other, rel=1e-9)


def test_c_t_has_the_spread_of_a_z_score():
    """200 null draws, one cell: mean 0, deviation 1."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(200, 150, 3, generator=generator)
    values = torch.tensor([c_t(d[:50], d[50:100], d[100:], cells=1).z for d in draws])
    assert abs(float(values.mean())) < 0.25
    assert 0.8 < float(values.std()) < 1.2


def test_ties_count_half():
    train = torch.zeros(1, 1)
    held_out, drawn = torch.tensor([[1.0], [2.0], [2.0]]), torch.tensor([[2.0], [-1.0]])
    u = 0.5 * 2 + 1 + 0.5  # 2 against 1, 2, 2 and 1 against the same
    expected = (u - 3) / (6 * 6 / 12) ** 0.5
    assert c_t(train, held_out, drawn, cells=1, least=1).z == pytest.approx(expected)


def test_k_means_finds_separate_kinds_and_keeps_its_fixed_point():
    generator = torch.Generator().manual_seed(0)
    kinds = 20 * torch.randn(5, 3, 2, generator=generator)
    data = (kinds[:, None] + 0.1 * torch.randn(5, 40, 3, 2, generator=generator)).flatten(0, 1)
    middles = k_means(data, 5)
    assert middles.shape == (5, 3, 2)
    expected = torch.stack([data[40 * kind : 40 * kind + 40].double().mean(0) for kind in range(5)])
    match = plain(expected.flatten(1), middles.flatten(1))
    assert float(match.amin(1).max()) < 1e-5
    assert match.argmin(1).sort().values.tolist() == list(range(5))
    assert torch.equal(k_means(data, 5), middles)
    assert k_means(torch.zeros(4, 3), 4).shape == (4, 3)  # all points coincide


def test_k_means_lowers_the_spread(features):
    def spread(middles: Tensor) -> float:
        return float(nearest(features, middles).distance.square().sum())

    spreads = [spread(k_means(features, 6, steps=steps)) for steps in (0, 1, 5, 20)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 0.9 * spreads[0]


@pytest.mark.parametrize(("neighbors", "alpha"), [(50, 0.5), (2, 1.0), (300, 0.25)])
def test_calibrated_distance_equals_its_formula(features, neighbors, alpha):
    train, samples = features[:300], features[300:400]
    ordered = plain(samples, train).sort(1).values[:, :neighbors]
    expected = ordered[:, 0] / (alpha * ordered.mean(1))
    found = calibrated_distance(samples, train, neighbors=neighbors, alpha=alpha)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


def test_calibrated_distance_of_copies_and_duplicates(features):
    train = features[:200]
    copies = train[:40] + 1e-3
    assert bool((calibrated_distance(copies, train) < 0.1).all())
    assert float((calibrated_distance(features[200:500], train) < 1).double().mean()) < 0.25
    doubled = torch.cat([train, train[:40].repeat(60, 1)])  # more copies of each than neighbors
    torch.testing.assert_close(calibrated_distance(copies, doubled), calibrated_distance(copies, train))
    flat = torch.tensor([[1.0], [-1.0]])
    assert calibrated_distance(torch.zeros(1, 1), flat, neighbors=2).tolist() == [2.0]


def test_errors(features):
    train, test = features[:100], features[100:200]
    bad = test.clone()
    bad[3, 0] = torch.inf
    for match, call in {
        "samples: row 3": lambda: c_t(train, test, bad),
        "test: row 3": lambda: c_t(train, bad, test),
        "test has rows of shape": lambda: c_t(train, test[:, :4], test),
        "0 cells": lambda: c_t(train, test, test, cells=0),
        "none of the 5 cells has 200 samples": lambda: c_t(train, test, test, least=200),
        "neighbors is 101": lambda: calibrated_distance(test, train, neighbors=101),
        "alpha is 0": lambda: calibrated_distance(test, train, alpha=0),
        "samples: row 3 ": lambda: calibrated_distance(bad, train),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
