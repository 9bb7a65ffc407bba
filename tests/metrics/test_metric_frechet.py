"""The metric form of the Fréchet distance: batches, merging, copies of itself, extractors."""

import pickle

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from smoothscore.errors import UserError
from smoothscore.functional import FrechetReference, frechet_from_features
from smoothscore.metrics import FrechetDistance


@pytest.fixture(scope="module")
def features(emoji: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(emoji.float() / 255, 4).flatten(1)  # [1412, 192]


@pytest.mark.parametrize("references", [60, 700])
def test_batches_equal_the_function(features, references):
    reference, samples = features[:references], features[-400:]
    metric = FrechetDistance(reference, name="pooled")
    for part in samples.split(33):
        metric.update(part)
    expected = float(frechet_from_features(reference, samples))
    value = metric.compute()
    assert value.dtype == torch.float64
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert metric.label == "Fréchet distance (pooled)"
    factored = FrechetDistance(FrechetReference.from_features(reference))
    factored.update(samples)
    assert float(factored.compute()) == pytest.approx(float(value), rel=1e-9)


def test_far_features_do_not_cancel(features):
    """Sums about the origin would lose what sums about the reference's mean keep."""
    reference, samples = features[:100].double() + 1e5, features[-300:].double() + 1e5
    metric = FrechetDistance(reference)
    metric.update(samples)
    assert float(metric.compute()) == pytest.approx(float(frechet_from_features(reference, samples)), rel=1e-6)


def test_reset_pickle_clone_forward_and_merge(features):
    reference, samples = features[:60], features[-200:]
    expected = float(frechet_from_features(reference, samples))
    metric = FrechetDistance(reference)
    metric.update(samples[:50])
    for other in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        other.update(samples[50:])
        assert float(other.compute()) == pytest.approx(expected, rel=1e-6)
    second = FrechetDistance(reference)
    batch = second(samples[50:])
    assert float(batch) == pytest.approx(float(frechet_from_features(reference, samples[50:])), rel=1e-6)
    second.merge_state(metric)
    assert float(second.compute()) == pytest.approx(expected, rel=1e-6)
    metric.reset()
    metric.update(samples)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


def test_half_precision_of_the_owner_leaves_sums_alone(features):
    owner = nn.Module()
    owner.metric = FrechetDistance(features[:60])
    owner.half()
    owner.metric.update(features[-200:])
    assert float(owner.metric.compute()) == pytest.approx(
        float(frechet_from_features(features[:60], features[-200:])), rel=1e-6
    )


class Pool(nn.Module):
    """8×8 means, with a dropout that must stay asleep."""

    num_features = 192

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(nn.functional.avg_pool2d(images, 4).flatten(1))


def test_extractor_sees_reference_and_samples_alike(emoji, features):
    images = emoji.float() / 255
    metric = FrechetDistance(images[:300], extractor=Pool(), name="pool")
    metric.train()
    metric.update(images[-500:])
    assert float(metric.compute()) == pytest.approx(
        float(frechet_from_features(features[:300], features[-500:])), rel=1e-6
    )


def test_equals_torchmetrics_on_the_same_features(emoji):
    images = emoji.double() / 255
    pool = Pool().eval()
    peer = FrechetInceptionDistance(feature=pool, normalize=True).set_dtype(torch.float64)
    peer.update(images[:600], real=True)
    peer.update(images[600:], real=False)
    ours = FrechetDistance(images[:600], extractor=pool)
    ours.update(images[600:])
    assert float(ours.compute()) == pytest.approx(float(peer.compute()), rel=1e-6)


def test_errors(features):
    metric = FrechetDistance(features[:60])
    bad = features[:5].clone()
    bad[4, 0] = torch.nan
    with pytest.raises(UserError, match="row 4"):
        metric.update(bad)
    with pytest.raises(UserError, match="reference has 192 per row"):
        metric.update(features[:5, :100])
    metric.update(features[:1])
    with pytest.raises(UserError, match="samples: 1 row"):
        metric.compute()
    with pytest.raises(UserError, match="1 row"):
        FrechetDistance(features[:1])
