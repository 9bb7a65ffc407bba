"""Precision, recall, density, coverage and authenticity against all distances in float64, and at their controls."""

import pytest
import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import auth_pct, authentic, prdc
from smoothscore.functional.rows import unique_rows


def distances(one: Tensor, other: Tensor) -> Tensor:
    rows = [part.double().flatten(1) / (255 if part.dtype == torch.uint8 else 1) for part in (one, other)]
    return torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")


def plain_prdc(real: Tensor, fake: Tensor, k: int) -> tuple[float, ...]:
    real_radius = distances(real, real).kthvalue(k + 1).values
    fake_radius = distances(fake, fake).kthvalue(k + 1).values
    apart = distances(real, fake)
    in_real = apart <= real_radius[:, None]
    in_fake = apart <= fake_radius[None, :]
    return (
        float(in_real.any(0).double().mean()),
        float(in_fake.any(1).double().mean()),
        float(in_real.double().sum(0).mean() / k),
        float(in_real.any(1).double().mean()),
    )


def plain_authentic(real: Tensor, fake: Tensor) -> Tensor:
    own = distances(real, real).fill_diagonal_(torch.inf).min(1).values
    apart = distances(fake, real)
    return apart.min(1).values > own[apart.argmin(1)]


@pytest.fixture(scope="module")
def images(emoji: Tensor) -> Tensor:
    distinct = emoji[unique_rows(emoji)]
    return distinct[torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))]


@pytest.fixture(scope="module")
def features(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images.float() / 255, 4).flatten(1)  # [1407, 192]


@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize(("real", "fake"), [(500, 200), (60, 300)])
def test_prdc_equals_float64_on_features(features, k, real, fake):
    one, other = features[:real], features[real : real + fake]
    assert prdc(one, other, k=k) == pytest.approx(plain_prdc(one, other, k), abs=1e-12)


def test_prdc_and_authenticity_of_uint8_images_far_from_the_origin(images):
    real, fake = images[:300], images[300:400]
    assert prdc(real, fake) == pytest.approx(plain_prdc(real, fake, 5), abs=1e-12)
    assert torch.equal(authentic(real, fake), plain_authentic(real, fake))
    moved = [part.float() / 255 + 1000 for part in (real, fake)]  # a matrix product alone would lose every digit
    assert prdc(*moved) == pytest.approx(plain_prdc(*moved, 5), abs=1e-12)
    assert torch.equal(authentic(*moved), plain_authentic(*moved))


def test_blocks_change_nothing(features, monkeypatch):
    one, other = features[:300], features[300:500]
    whole = prdc(one, other)
    monkeypatch.setattr("smoothscore.distances.Centers.query_rows", lambda self, bytes_per_pair: 7)
    assert prdc(one, other) == whole


def test_copies_score_best_and_ties_are_inside(features):
    """Every distance here is a tie: a sample that is a real image lies exactly on the rim of k balls."""
    real = features[:200]
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    result = prdc(real, real[order], k=4)
    assert (result.precision, result.recall, result.coverage) == (1, 1, 1)
    assert result.density == pytest.approx(5 / 4, abs=1e-12)  # each lies in its own ball and, on average, in 4 others
    assert prdc(real, real + 100, k=4) == (0, 0, 0, 0)


def test_a_dropped_kind_costs_recall_and_coverage_alone():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(200, 2, generator=generator), torch.randn(200, 2, generator=generator) + 50
    fresh = torch.randn(200, 2, generator=generator)
    both = prdc(torch.cat([one, other]), fresh)
    assert both.precision > 0.9
    assert both.recall == pytest.approx(0.5, abs=0.05)
    assert both.coverage == pytest.approx(0.5, abs=0.05)


def test_authenticity_of_copies_and_of_held_out_images(features):
    train, held_out = features[:800], features[800:]
    generator = torch.Generator().manual_seed(0)
    assert auth_pct(train, train[:300] + 1e-3 * torch.randn(300, 192, generator=generator)) == 0
    null = auth_pct(train, held_out)
    assert null == pytest.approx(100 * float(plain_authentic(train, held_out).double().mean()))
    assert 40 < null < 90
    planted = auth_pct(train, torch.cat([held_out[:300], train[:100]]))
    assert planted == pytest.approx(0.75 * auth_pct(train, held_out[:300]), abs=1e-9)


def test_a_copied_duplicate_is_not_authentic(features):
    """Two equal training images are 0 apart: without grouping, any jitter would make a copy of them new."""
    train = torch.cat([features[:300], features[:50]])
    copies = features[:50] + 1e-4
    assert bool(plain_authentic(train, copies).all())
    assert auth_pct(train, copies) == 0


def test_errors(features):
    bad = features[:20].clone()
    bad[7, 3] = torch.nan
    for match, call in {
        "k is 20, but real has 20 row": lambda: prdc(features[:20], features[:30], k=20),
        "k is 0": lambda: prdc(features[:20], features[:30], k=0),
        "k is 5, but fake has 4 row": lambda: prdc(features[:20], features[:4]),
        "fake: row 7": lambda: prdc(features[:20], bad),
        "real: row 7": lambda: auth_pct(bad, features[:20]),
        "fake has rows of shape": lambda: prdc(features[:20], features[:20, :5]),
        "real: all 3 images are equal": lambda: auth_pct(features[[1, 1, 1]], features),
        "real: 1 row": lambda: auth_pct(features[:1], features),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
