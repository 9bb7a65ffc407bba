"""The first stage, block by block, against float64; near pairs, clusters and intervals against brute force."""

import math

import pytest
import torch
from scipy.stats import binomtest

from smoothscore.errors import UserError
from smoothscore.functional import extract
from smoothscore.functional.duplicates import clusters, near_pairs
from smoothscore.functional.intervals import wilson_interval
from smoothscore.functional.matching import Matcher
from smoothscore.functional.rows import equal_rows, unique_rows


@pytest.fixture(scope="module")
def train(emoji):
    return emoji[:700][unique_rows(emoji[:700])]


@pytest.fixture(scope="module")
def samples(emoji, train):
    """Held-out images, copies with and without noise, and one copy of a crowd of near-equal images."""
    noise = torch.randn(10, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    copies = train[20:30].float() / 255
    return torch.cat([emoji[900:1000].float() / 255, copies, copies + 1e-3 * noise, copies + 0.1 * noise])


def reference(samples, train, k):
    """Float64 distances, their order and the score, by direct differences."""
    x, centers = samples.double().flatten(1), (train.float() / 255).double().flatten(1)
    distance = torch.stack([(centers - row).norm(dim=1) for row in x]) / math.sqrt(x.shape[1])
    nearest, index = distance.sort(dim=1, stable=True)
    return nearest[:, :k], index[:, :k], nearest[:, 0] / nearest[:, 1:k].mean(1)


def test_matches_equal_a_float64_reference_in_any_blocks(samples, train):
    distance, index, score = reference(samples, train, 50)
    whole = Matcher(train, shown=5).match(samples)
    blocks = Matcher(train, shown=5, memory_budget=2**16).match(samples)
    for found in (whole, blocks):
        assert torch.equal(found.index[:, 0], index[:, 0])
        assert torch.allclose(found.distance.double(), distance[:, :5], rtol=1e-3, atol=1e-7)
        assert torch.allclose(found.distance[:, 0].double(), distance[:, 0], rtol=1e-6, atol=1e-9)
        assert torch.allclose(found.score.double(), score, rtol=1e-3, atol=1e-9)
        assert (found.index[:, :2] == index[:, :2]).float().mean() > 0.99
    assert torch.equal(whole.score[100:110], torch.zeros(10))


def test_a_crowd_of_near_equal_images_is_told_apart(train):
    """More rivals for the first place than the first look settles: 200 images within rounding of each other."""
    base = train[:1].float() / 255
    steps = torch.linspace(0, 1e-5, 200).view(-1, 1, 1, 1)
    crowd = torch.cat([train[1:100].float() / 255, base + steps * torch.ones_like(base)])
    sample = crowd[-1:] + 1e-6
    found = Matcher(crowd, neighbors=10).match(sample)
    assert found.index[0, 0] == len(crowd) - 1
    assert float(found.distance[0, 0]) == pytest.approx(1e-6, rel=0.1)


def test_extract_is_made_of_the_same_parts(samples, train):
    found = Matcher(train).match(samples)
    whole = extract(samples, train, quantile=0.3)
    assert torch.equal(whole.score, found.score)
    assert torch.equal(whole.index, found.index[:, 0])


def test_near_pairs_equal_brute_force(train):
    rows = train[:300]
    x = (rows.float() / 255).double().flatten(1)
    mirrored = (rows.flip(-1).float() / 255).double().flatten(1)
    plain, mirror = (torch.cdist(x, other, compute_mode="donot_use_mm_for_euclid_dist") for other in (x, mirrored))
    threshold = float(plain[plain > 0].quantile(0.002))
    upper = torch.ones(300, 300, dtype=torch.bool).triu(1)
    for flips, distance in ((False, plain), (True, torch.minimum(plain, mirror))):
        found = near_pairs(rows, threshold, flips=flips, memory_budget=2**16)
        expected = ((distance <= threshold) & upper).nonzero()
        assert len(expected) > 20
        assert torch.equal(found.pairs, expected)
        assert torch.allclose(found.distance.double(), distance[tuple(expected.T)], rtol=1e-5)
        assert torch.equal(found.flipped, (mirror < plain)[tuple(expected.T)] & flips)


def test_near_pairs_find_differences_below_rounding_of_a_product(train):
    twin = train[:5].float() / 255
    twin = torch.cat([train[:50].float() / 255, twin + 1e-6])
    found = near_pairs(twin, 1e-4)
    assert found.pairs.tolist() == [[i, 50 + i] for i in range(5)]
    assert found.distance.tolist() == pytest.approx([1e-6 * math.sqrt(3072)] * 5, rel=0.05)


def test_clusters_are_connected_components():
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(0, 60, (40, 2), generator=generator)
    joined = torch.eye(60, dtype=torch.bool)
    joined[pairs[:, 0], pairs[:, 1]] = joined[pairs[:, 1], pairs[:, 0]] = True
    reach = torch.linalg.matrix_power(joined.double(), 60) > 0
    assert torch.equal(clusters(pairs, 60), reach.int().argmax(1))


def test_equal_rows_name_the_first(emoji):
    first = equal_rows(emoji)
    assert torch.equal(emoji[first], emoji)
    assert torch.equal((first == torch.arange(len(emoji))).nonzero().flatten(), unique_rows(emoji))


def test_duplicates_refuse_what_they_cannot_use(train):
    with pytest.raises(UserError, match="more than 200 pairs per row"):
        near_pairs(train, 1e3)
    with pytest.raises(UserError, match="threshold is -1"):
        near_pairs(train, -1.0)
    with pytest.raises(UserError, match="at least 2"):
        near_pairs(train[:1], 1.0)


@pytest.mark.parametrize(("count", "total"), [(0, 50), (1, 50), (17, 400), (50, 50)])
def test_wilson_equals_scipy(count, total):
    expected = binomtest(count, total).proportion_ci(method="wilson")
    assert wilson_interval(count, total) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_refuses_an_impossible_count():
    with pytest.raises(UserError, match="5 of 4"):
        wilson_interval(5, 4)
