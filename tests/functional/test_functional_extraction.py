"""Extraction finds planted copies, also mirrored ones and those of duplicated images, and no held-out image."""

import math

import pytest
import torch
from torch.nn.functional import avg_pool2d

from smoothscore.errors import UserError
from smoothscore.functional import extract
from smoothscore.functional.rows import unique_rows


@pytest.fixture(scope="module")
def images(emoji):
    """Different images: none of the held-out ones lies in the training set."""
    distinct = emoji[unique_rows(emoji)]
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))
    return avg_pool2d(distinct.float() / 255, 2)[order]


def features(x):
    return avg_pool2d(x, 4).flatten(1)


def planted(images, count=10, total=100):
    """Held-out images of which the first `count` are noisy copies of training images."""
    train, samples = images[:800], images[1000 : 1000 + total].clone()
    noise = torch.randn(count, *images.shape[1:], generator=torch.Generator().manual_seed(1))
    samples[:count] = train[50 : 50 + count] + 0.03 * noise
    return samples, train


def test_planted_copies_are_flagged_with_their_training_image(images):
    samples, train = planted(images)
    found = extract(samples, train, quantile=0.2, featurize=features)
    assert found.candidate.sum() == 20
    assert found.flagged[:10].all()
    assert found.index[:10].tolist() == list(range(50, 60))
    assert found.flagged[10:].float().mean() < 0.05
    assert found.feature_ratio.isnan().sum() == 80


def test_score_and_distance_equal_a_plain_float64_reference(images):
    samples, train = planted(images)
    found = extract(samples, train, quantile=0.1, neighbors=50)
    distance = torch.cdist(samples.double().flatten(1), train.double().flatten(1)) / math.sqrt(768)
    nearest = distance.sort(1).values[:, :50]
    assert torch.allclose(found.distance.double(), nearest[:, 0], rtol=1e-5)
    assert torch.allclose(found.score.double(), nearest[:, 0] / nearest[:, 1:].mean(1), rtol=1e-5)
    assert found.flagged.tolist() == (found.score <= found.score.sort().values[9]).tolist()
    assert found.feature_ratio is None


def test_mirrored_copies_are_found_only_with_flips(images):
    samples, train = planted(images)
    samples[:10] = samples[:10].flip(-1)
    asymmetric = (train[50:60] - train[50:60].flip(-1)).flatten(1).norm(dim=1) > 3
    with_flips = extract(samples, train, quantile=0.15, flips=True, featurize=features)
    assert with_flips.flagged[:10].all()
    # one of the ten has a mirrored twin in the training set, which is as good an answer
    right = with_flips.index[:10] == torch.arange(50, 60)
    assert right.sum() >= 9
    assert with_flips.flipped[:10][asymmetric & right].all()
    without = extract(samples, train, quantile=0.15, featurize=features)
    assert without.flagged[:10][asymmetric].float().mean() < 0.5


def test_duplicated_training_images_do_not_hide_a_copy(images):
    samples, train = planted(images)
    doubled = torch.cat([train, train[50:60]])
    found = extract(samples, doubled, quantile=0.15, featurize=features)
    assert found.index[:10].tolist() == list(range(50, 60))
    assert found.flagged[:10].all()


def test_an_exact_copy_scores_zero_and_uint8_means_the_same(images):
    pixels = (images * 255).round().to(torch.uint8)
    found = extract(pixels[:5], pixels[:300], quantile=1.0)
    assert torch.equal(found.score, torch.zeros(5))
    assert torch.equal(found.index, torch.arange(5))
    as_float = extract(pixels[:5].float() / 255, pixels[:300].float() / 255, quantile=1.0)
    assert torch.equal(as_float.index, found.index)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"quantile": 0.0}, "quantile is 0"),
        ({"quantile": 2.0}, "quantile is 2"),
        ({"margin": -1.0}, "margin is -1"),
        ({"neighbors": 2}, "neighbors is 2"),
    ],
)
def test_bad_options_are_named(images, options, culprit):
    with pytest.raises(UserError, match=culprit):
        extract(images[:3], images[3:20], **options)


def test_bad_images_are_named(images):
    with pytest.raises(UserError, match="samples has rows of shape"):
        extract(images[:3, :, :8, :8], images)
    with pytest.raises(UserError, match="different images"):
        extract(images[:3], images[:1].expand(5, -1, -1, -1))
    bad = images[:3].clone()
    bad[1, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="row 1"):
        extract(bad, images)
