"""Expansion ratio: geometry, closed forms of one and two centers, and the whole training set in float64."""

import math

import pytest
import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import (
    expansion_points,
    expansion_prediction,
    expansion_ratio,
    nearest_pairs,
    overlap_sigmas,
    random_pairs,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_center_score(mu0: Tensor, mu1: Tensor, *, conditioned: bool, temperature: float = 1.0):
    """float64 score of two centers per row, by Eq. 8's optimum or Eq. 5, written term by term."""

    def score(x: Tensor, sigma: float) -> Tensor:
        dim = x[0].numel()
        offsets = torch.stack([mu0 - x, mu1 - x], 1)  # [P, 2, *S]
        r_sq = offsets.flatten(2).square().sum(2)
        level_sq = torch.full_like(r_sq, sigma**2) if conditioned else r_sq / dim
        log_weight = -(dim - 2) / 2 * level_sq.log() - r_sq / (2 * level_sq)
        weights = (log_weight / temperature).softmax(1) / level_sq
        return (weights.view(*weights.shape, *[1] * (x.ndim - 1)) * offsets).sum(1)

    return score


@pytest.fixture(scope="module")
def pairs(emoji: Tensor) -> tuple[Tensor, Tensor]:
    images = emoji.double() / 255
    i, j = nearest_pairs(emoji, 64, generator=rng()).unbind(1)
    return images[i], images[j]


@pytest.mark.parametrize("c", [1.001, 1.01, 1.2])
def test_points_lie_on_both_shells(pairs, c):
    mu0, mu1 = pairs
    low, high = overlap_sigmas((mu1 - mu0).flatten(1).norm(dim=1), 3072, c=c)
    sigma = float(low.median()) * 1.1
    x, y, valid = expansion_points(mu0, mu1, sigma, c=c, generator=rng())
    radius = sigma * math.sqrt(3072)
    length = (mu1 - mu0).flatten(1).norm(dim=1)
    assert torch.equal(valid, (length >= (c - 1) * radius) & (length <= (c + 1) * radius))
    assert torch.equal(valid, (low <= sigma) & (sigma <= high))
    assert 10 < int(valid.sum()) < 64
    near = [(x - mu1), (y - mu0)]
    far = [(x - mu0), (y - mu1)]
    for offset in near:
        torch.testing.assert_close(
            offset.flatten(1).norm(dim=1)[valid], torch.full_like(length, radius)[valid], rtol=1e-10, atol=0
        )
    for offset in far:
        torch.testing.assert_close(
            offset.flatten(1).norm(dim=1)[valid],
            torch.full_like(length, c * radius)[valid],
            rtol=1e-10,
            atol=0,
        )
    # The perturbation is along μ1 − μ0, nearer to μ1 at x.
    along = ((x - y) * (mu1 - mu0)).flatten(1).sum(1) / length
    torch.testing.assert_close(along[valid], (c**2 - 1) * radius**2 / length[valid], rtol=1e-9, atol=0)
    torch.testing.assert_close(along[valid], (x - y).flatten(1).norm(dim=1)[valid], rtol=1e-9, atol=0)
    assert bool(x.isfinite().all() & y.isfinite().all())


def test_direction_is_random_per_pair_and_seeded(pairs):
    mu0, mu1 = (part[:1].expand(4, -1, -1, -1) for part in pairs)
    sigma = float((mu1 - mu0)[0].norm()) / math.sqrt(3072)
    first = expansion_points(mu0, mu1, sigma, generator=rng(1))
    again = expansion_points(mu0, mu1, sigma, generator=rng(1))
    other = expansion_points(mu0, mu1, sigma, generator=rng(2))
    assert torch.equal(first.x, again.x)
    assert not torch.allclose(first.x, other.x)
    v = (first.x + first.y - mu0 - mu1).flatten(1)
    cosine = torch.nn.functional.normalize(v, dim=1) @ torch.nn.functional.normalize(v, dim=1).T
    assert float(cosine.triu(1).abs().max()) < 0.1  # four independent directions in 3,071 dimensions
    u = torch.nn.functional.normalize((mu1 - mu0)[0].flatten(), dim=0)
    assert float((v @ u).abs().max()) < 1e-12


def test_global_generator_is_untouched_when_one_is_given(pairs):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    expansion_points(*pairs, 0.1, generator=rng())
    random_pairs(10, 5, generator=rng())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("step", [0.2, 1.0, 1.5])
def test_single_center_contracts_by_one_minus_step(pairs, step):
    mu0, mu1 = pairs
    center = mu0.mean(0)
    ratio, valid = expansion_ratio(lambda x, sigma: (center - x) / sigma**2, mu0, mu1, 0.2, step=step, generator=rng())
    assert int(valid.sum()) > 10
    torch.testing.assert_close(ratio[valid], torch.full_like(ratio, abs(1 - step))[valid], rtol=1e-9, atol=1e-9)
    assert bool(ratio[~valid].isnan().all())


@pytest.mark.parametrize("c", [1.0001, 1.0005, 1.01])
@pytest.mark.parametrize("sigma", [0.06, 0.2, 1.0])
def test_two_centers_conditioned_equal_equation_7(pairs, c, sigma):
    mu0, mu1 = pairs
    score = two_center_score(mu0, mu1, conditioned=True)
    ratio, valid = expansion_ratio(score, mu0, mu1, sigma, c=c, generator=rng())
    length = (mu1 - mu0).flatten(1).norm(dim=1)
    expected = expansion_prediction(length, sigma, 3072, c=c)
    assert int(valid.sum()) >= 3
    torch.testing.assert_close(ratio, expected, rtol=1e-6, atol=0, equal_nan=True)


@pytest.mark.parametrize("step", [0.3, 1.0])
def test_two_centers_conditioned_any_step(pairs, step):
    """γ = |(1 − η) + η L/‖y−x‖ (1 − 2/(a_w + 1))|: what Eq. 7 shortens."""
    mu0, mu1 = pairs
    score = two_center_score(mu0, mu1, conditioned=True)
    ratio, valid = expansion_ratio(score, mu0, mu1, 0.3, c=1.0005, step=step, generator=rng())
    length = (mu1 - mu0).flatten(1).norm(dim=1)
    expected = 1 - step + expansion_prediction(length, 0.3, 3072, c=1.0005, step=step)
    torch.testing.assert_close(ratio[valid], expected[valid], rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 10.0, 100.0])
def test_two_centers_unconditioned_follow_equation_7(pairs, temperature):
    mu0, mu1 = pairs
    score = two_center_score(mu0, mu1, conditioned=False, temperature=temperature)
    ratio, valid = expansion_ratio(score, mu0, mu1, 0.15, c=1.002, generator=rng())
    length = (mu1 - mu0).flatten(1).norm(dim=1)
    expected = expansion_prediction(length, 0.15, 3072, c=1.002, mixture="unconditioned", temperature=temperature)
    assert int(valid.sum()) > 10
    # The formula leaves out the farther image's own noise level C σ, which makes the step there C² shorter:
    # γ differs by at most w_sub (1 − C⁻²) ‖μ_far − x‖ · 2/‖y−x‖.
    left_out = 0.5 * (1 - 1.002**-2) * 1.002 * 2 / (1.002**2 - 1) * length / (0.15 * math.sqrt(3072))
    gap = (ratio - expected).abs()[valid]
    assert bool((gap <= left_out[valid]).all())


def brute_force_score(data: Tensor, temperature: float | None):
    """float64 score over a whole training set: conditioned (None) or optimal shell at a temperature."""

    def score(x: Tensor, sigma: float) -> Tensor:
        dim = x[0].numel()
        offsets = data[None].flatten(2) - x.double().flatten(1)[:, None]
        r_sq = offsets.square().sum(2)
        if temperature is None:
            w, level_sq = (-r_sq / (2 * sigma**2)).softmax(1), torch.full_like(r_sq, sigma**2)
        else:
            w, level_sq = (-(dim - 2) / 2 * (r_sq / dim).log() / temperature).softmax(1), r_sq / dim
        return torch.einsum("bm,bmd->bd", w / level_sq, offsets).view(x.shape)

    return score


def test_whole_training_set_orders_as_figure_4(emoji):
    data = (emoji[:100].double() / 255)[:, :, ::2, ::2]
    i, j = nearest_pairs(data, 20, generator=rng()).unbind(1)
    length = (data[i] - data[j]).flatten(1).norm(dim=1)
    sigma = float(overlap_sigmas(length, 768)[0].quantile(0.9))
    means = []
    for temperature in (None, 1.0, 10.0, 100.0):
        ratio, valid = expansion_ratio(brute_force_score(data, temperature), data[i], data[j], sigma, generator=rng())
        assert int(valid.sum()) >= 10
        means.append(float(ratio[valid].mean()))
    conditioned, unconditioned, warm, hot = means
    assert conditioned > unconditioned > 2 * warm > 4 * hot
    # Two centers explain nearly all of it, as Sec. 3.2 assumes.
    ratio, valid = expansion_ratio(brute_force_score(data, None), data[i], data[j], sigma, generator=rng())
    prediction = expansion_prediction(length, sigma, 768)
    assert float((ratio / prediction)[valid].log().abs().median()) < 0.05


def test_types_agree(emoji):
    i, j = nearest_pairs(emoji, 16, generator=rng()).unbind(1)
    images = emoji.float() / 255
    center = images.mean(0)

    def score(x, sigma):
        return (center.to(x.dtype) - x) * x.square() / sigma**2

    from_uint8 = expansion_ratio(score, emoji[i], emoji[j], 0.2, generator=rng())
    from_float = expansion_ratio(score, images[i], images[j], 0.2, generator=rng())
    from_double = expansion_ratio(score, images[i].double(), images[j].double(), 0.2, generator=rng())
    assert torch.equal(from_uint8.ratio.nan_to_num(), from_float.ratio.nan_to_num())
    torch.testing.assert_close(from_float.ratio, from_double.ratio, rtol=1e-4, atol=0, equal_nan=True)


def test_equal_images_are_invalid_and_finite(emoji):
    image = emoji[:3].float() / 255
    x, y, valid = expansion_points(image, image, 0.1, generator=rng())
    assert not valid.any()
    assert bool(x.isfinite().all() & y.isfinite().all())
    ratio, _ = expansion_ratio(lambda x, sigma: -x, image, image, 0.1, generator=rng())
    assert bool(ratio.isnan().all())


def test_random_pairs_are_uniform_over_ordered_pairs():
    drawn = random_pairs(5, 20_000, generator=rng())
    counts = torch.bincount(drawn[:, 0] * 5 + drawn[:, 1], minlength=25).view(5, 5)
    assert int(counts.diagonal().sum()) == 0
    off = counts[~torch.eye(5, dtype=torch.bool)].double()
    assert float(((off - 1000).square() / 1000).sum()) < 45  # χ² with 19 degrees of freedom, p = 0.0007


def test_nearest_pairs_against_brute_force_with_duplicates(emoji):
    data = emoji[torch.arange(300) % 290]  # rows 290–299 repeat rows 0–9
    chosen = nearest_pairs(data, 200, generator=rng())
    flat = data.double().flatten(1)
    distance = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    distance[distance == 0] = torch.inf
    assert torch.equal(distance[chosen[:, 0], chosen[:, 1]], distance[chosen[:, 0]].min(1).values)
    assert int(chosen.max()) < 290
    assert len(chosen[:, 0].unique()) == 200


def test_overlap_reaches_lower_for_nearest_pairs(emoji):
    images = emoji.double() / 255
    lows = []
    for drawn in (nearest_pairs(emoji, 200, generator=rng()), random_pairs(len(emoji), 200, generator=rng())):
        length = (images[drawn[:, 0]] - images[drawn[:, 1]]).flatten(1).norm(dim=1)
        lows.append(float(overlap_sigmas(length, 3072)[0].median()))
    assert lows[0] < 0.7 * lows[1]


def test_errors_name_the_culprit(emoji):
    images = emoji[:4].float() / 255
    score = lambda x, sigma: -x  # noqa: E731
    bad = images.clone()
    bad[2, 0, 0, 0] = torch.nan
    for match, call in {
        "sigma: 0": lambda: expansion_ratio(score, images, images, 0.0),
        "c: 1.0": lambda: expansion_ratio(score, images, images, 0.1, c=1.0),
        "step: 0": lambda: expansion_ratio(score, images, images, 0.1, step=0.0),
        "mu1: row 2": lambda: expansion_ratio(score, images, bad, 0.1),
        "mu0 has 4 images and mu1 3": lambda: expansion_ratio(score, images, images[:3], 0.1),
        "mu0 has rows of shape": lambda: expansion_ratio(score, images, images[:, :1], 0.1),
        "one value per image": lambda: expansion_ratio(score, torch.rand(3, 1), torch.rand(3, 1), 0.1),
        "score: result of shape": lambda: expansion_ratio(lambda x, sigma: x[:1], images, images.flip(0), 0.2),
        "score: not finite near pair 0": lambda: expansion_ratio(lambda x, sigma: x / 0, images, images.flip(0), 0.2),
        "temperature: 10": lambda: expansion_prediction(1.0, 0.1, 768, temperature=10),
        "mixture: 'blind'": lambda: expansion_prediction(1.0, 0.1, 768, mixture="blind"),
        "num_images: 1": lambda: random_pairs(1, 3),
        "1 distinct image": lambda: nearest_pairs(images[:1].expand(3, -1, -1, -1), 1),
        "too few for 9 pairs": lambda: nearest_pairs(images, 9),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
