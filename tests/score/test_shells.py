"""Shells and dominations against chi distributions, their limits, and the weights themselves."""

import itertools
import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.schedules import shell_touch
from smoothscore.score import log_weight
from smoothscore.score.shells import (
    domination_limit,
    domination_ratio,
    sample_shell,
    shell,
    shell_mass,
    two_center_log_ratio,
)


@pytest.mark.parametrize("dim", [1, 3, 48, 3072, 12288, 196608, 10**8])
@pytest.mark.parametrize("width", [1.0, 3.0])
def test_mass_is_that_of_the_chi_distribution(dim: int, width: float) -> None:
    half = width / math.sqrt(2)
    outer, inner = math.sqrt(dim) + half, max(math.sqrt(dim) - half, 0)
    # chi² from SciPy: its chi distribution loses digits at large d
    expected = stats.chi2.cdf(outer**2, dim) - stats.chi2.cdf(inner**2, dim)
    assert shell_mass(dim, width) == pytest.approx(expected, abs=1e-7)


def test_mass_tends_to_that_of_three_sigma() -> None:
    assert shell_mass(3072) == pytest.approx(0.9973, abs=2e-4)
    assert shell_mass(10**9) == pytest.approx(math.erf(3 / math.sqrt(2)), abs=1e-7)


@pytest.mark.parametrize(("sigma", "dim"), [(0.01, 3), (1.0, 48), (50.0, 3072)])
def test_drawn_noise_lies_in_its_shell(sigma: float, dim: int) -> None:
    sample = sample_shell(sigma, dim, 4000, 1.0, generator=torch.manual_seed(0), memory_budget=2**20)
    assert abs(sample.mass - shell_mass(dim, 1.0)) < 4 * sample.standard_deviation
    assert sample.standard_deviation == pytest.approx(math.sqrt(sample.mass * (1 - sample.mass) / 4000))
    radius = torch.from_numpy(stats.chi.ppf([0.1, 0.5, 0.9], dim)) * sigma
    found = torch.quantile(sample.radius, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    torch.testing.assert_close(found, radius, rtol=0.1, atol=0)


def test_shells_of_exact_levels_touch() -> None:
    levels = shell_touch(0.01, 50, 3072, exact=True).tolist()
    for lower, upper in itertools.pairwise(levels):
        assert shell(lower, 3072).outer == pytest.approx(shell(upper, 3072).inner, rel=1e-5)
    assert shell(2.0, 3072).thickness == pytest.approx(3 * math.sqrt(2) * 2)
    assert shell(2.0, 3072).radius == pytest.approx(2 * math.sqrt(3072))
    assert shell(1.0, 2).inner == 0


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("alpha", [1 / 3, 0.45, 0.6])
def test_domination_is_the_ratio_of_the_weights(exact: bool, alpha: float) -> None:
    dim = 3072
    lower, upper = shell_touch(0.7, 1.0, dim, exact)[:2].double().tolist()
    distance_sq = torch.tensor(dim * ((1 - alpha) * lower + alpha * upper) ** 2, dtype=torch.float64)
    difference = log_weight(distance_sq, lower, dim) - log_weight(distance_sq, upper, dim)
    found = domination_ratio(dim, alpha, exact=exact)
    assert math.log(found) == pytest.approx(float(difference), abs=2e-3)  # the levels are float32
    assert domination_ratio(dim, alpha, exact=exact, weighted=False) == pytest.approx(
        found * (upper / lower) ** 2, rel=1e-5
    )


def test_domination_tends_to_its_limit() -> None:
    assert domination_limit(1 / 3) == pytest.approx(403.4, abs=0.05)
    assert domination_limit(0.4) == pytest.approx(36.6, abs=0.05)
    assert domination_limit(0.45) == pytest.approx(6.05, abs=0.005)
    assert domination_ratio(3072, 1 / 3, exact=True, weighted=False) == pytest.approx(222, abs=0.5)
    for alpha in (1 / 3, 0.4, 0.45, 0.5):
        previous = math.inf
        for dim in (10**4, 10**8, 10**12):
            off = abs(math.log(domination_ratio(dim, alpha, weighted=False) / domination_limit(alpha)))
            assert off < previous
            previous = off
        assert previous < 1e-3


def test_two_centers(emoji: Tensor) -> None:
    """Eq. (6) by its angle, and by the weights."""
    center, other = emoji[3].float() / 255, emoji[90].float() / 255
    x = (center + other) / 2 + 0.3 * torch.randn(5, 3, 32, 32, generator=torch.manual_seed(0))
    sigma = torch.linspace(0.2, 1.0, 5)
    found = two_center_log_ratio(x, center, other, sigma)
    flat, first, second = x.double().flatten(1), center.double().flatten(), other.double().flatten()
    weights = [log_weight((flat - mu).square().sum(1), sigma.double(), 3072) for mu in (first, second)]
    torch.testing.assert_close(found, weights[0] - weights[1], rtol=1e-9, atol=1e-9)
    apart, away = first - second, flat - second
    cosine = away @ apart / (away.norm(dim=1) * apart.norm())
    delta = away.norm(dim=1) * cosine / apart.norm() - 0.5
    torch.testing.assert_close(found, delta * apart.square().sum() / sigma.double() ** 2, rtol=1e-9, atol=1e-9)
    assert torch.equal(two_center_log_ratio(x, center, center, 1.0), torch.zeros(5, dtype=torch.float64))


def test_bad_numbers_are_named(emoji: Tensor) -> None:
    with pytest.raises(UserError, match="dim is 0"):
        shell_mass(0)
    with pytest.raises(UserError, match="sigma is -1"):
        shell(-1.0, 3)
    with pytest.raises(UserError, match="num_samples is 0"):
        sample_shell(1.0, 3, 0)
    with pytest.raises(UserError, match="dim is 4"):
        domination_ratio(4, 0.3, exact=True)
    x = emoji[:2].float()
    with pytest.raises(UserError, match="do not fit"):
        two_center_log_ratio(x, x[0], x[:1], 1.0)
    with pytest.raises(UserError, match="above 0"):
        two_center_log_ratio(x, x[0], x[1], 0.0)
