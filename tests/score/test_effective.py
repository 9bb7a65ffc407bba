"""The temperature at which n neighbors speak: against scipy's brentq in float64, at its limits, and with ties."""

import math

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.schedules import EffectiveNeighbors
from smoothscore.score import Tempered, effective_number, optimal_log_weight, optimal_weights, smoothed_target
from smoothscore.score.effective import solve_temperature
from tests.oracle.effective import temperature_oracle
from tests.oracle.smoothed import smoothed_target_oracle

NUMBERS = [1.001, 1.05, 1.5, 2.0, 3.0, 6.0, 9.9]


def log_weights(emoji, sigma, k=10, count=12):
    """Real ones: noised emoji and their k nearest, itself first."""
    images = (emoji[:200].float() / 255).double().flatten(1)
    near = torch.cdist(images[:count], images).topk(k, largest=False).indices
    noise = torch.randn(count, images.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance_sq = (images[:count] + sigma * noise)[:, None].sub(images[near]).square().sum(-1)
    return optimal_log_weight(distance_sq, images.shape[1])


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 5.0])
def test_equals_brentq_on_real_distances(emoji, sigma, number):
    log_weight = log_weights(emoji, sigma)
    found = solve_temperature(log_weight, number)
    for row, temperature in zip(log_weight, found, strict=True):
        assert float(temperature) == pytest.approx(temperature_oracle(row, number), rel=1e-3)
    reached = effective_number((log_weight / found).softmax(1))
    torch.testing.assert_close(reached, torch.full_like(reached, number), rtol=1e-4, atol=0)


SHAPES = {
    "alike": lambda u: 300 * (1 + 0.1 * u),
    "over six decades": lambda u: 10 ** (-6 * u),
    "exponential": lambda u: -u.log(),
    "a near tie": lambda u: torch.cat([1e-9 * u[:, :1], 1 + u[:, 1:]], 1),
}


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("k", [2, 3, 30, 1000])
def test_reaches_any_number_for_any_gaps(shape, k):
    uniform = torch.rand(50, k - 1, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    log_weight = -torch.cat([torch.zeros(50, 1, dtype=torch.float64), SHAPES[shape](uniform)], 1)
    for number in (1.0005, 1.05, 1.5, 2.5, 0.5 * k, 0.95 * k, 0.9999 * k):
        if 1 < number < k:
            reached = effective_number((log_weight / solve_temperature(log_weight, number)).softmax(1))
            assert float((reached / number - 1).abs().max()) < 1e-3, number


def test_rises_with_n_and_every_row_has_its_own():
    log_weight = -torch.rand(64, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 100
    numbers = torch.linspace(1, 20, 60)
    found = torch.cat([solve_temperature(log_weight, float(n)) for n in numbers], 1)
    assert bool((found[:, 1:] > found[:, :-1]).all())
    assert bool(found[:, :-1].isfinite().all())
    assert bool((found > 0).all())
    own = torch.linspace(1.1, 19, 64)
    together = solve_temperature(log_weight, own)
    for row in (0, 31, 63):
        alone = solve_temperature(log_weight[row : row + 1], float(own[row]))
        torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(solve_temperature(7 * log_weight + 3, own), 7 * together, rtol=1e-4, atol=0)


def test_one_and_all():
    log_weight = torch.tensor([[0.0, -3.0, -5.0], [-2.0, -1.0, -1.5]], dtype=torch.float64)
    one = (log_weight / solve_temperature(log_weight, 1.0)).softmax(1)
    torch.testing.assert_close(one, torch.eye(3, dtype=torch.float64)[:2], rtol=0, atol=1e-40)
    assert solve_temperature(log_weight, 3.0).tolist() == [[math.inf], [math.inf]]


def test_equal_nearest_speak_alike_below_their_number():
    log_weight = torch.tensor([[0.0, -50.0, 0.0, -80.0], [-7.0, -7.0, -7.0, -7.0]], dtype=torch.float64)
    for number in (1.0, 1.3, 2.0):
        found = solve_temperature(log_weight, number)
        assert bool((found.isfinite() & (found > 0)).all())
        expected = torch.tensor([[0.5, 0, 0.5, 0], [0.25] * 4], dtype=torch.float64)
        torch.testing.assert_close((log_weight / found).softmax(1), expected, rtol=0, atol=1e-40)
    above = effective_number((log_weight / solve_temperature(log_weight, 2.5)).softmax(1))
    assert above.tolist() == pytest.approx([2.5, 4], rel=1e-4)


def test_masked_neighbors_count_for_nothing(emoji):
    log_weight = log_weights(emoji, 0.3)
    mask = torch.rand(log_weight.shape, generator=torch.Generator().manual_seed(2)) < 0.6
    mask[:, :3] = True
    found = solve_temperature(log_weight, 2.2, mask)
    for row, keep, temperature in zip(log_weight, mask, found, strict=True):
        assert float(temperature) == pytest.approx(temperature_oracle(row[keep], 2.2), rel=1e-3)
    full = solve_temperature(log_weight, mask.sum(1).float(), mask)
    assert bool(full.isinf().all())


@pytest.fixture(scope="module")
def noisy(emoji):
    """Noised emoji with their ten nearest, at levels where the clean image is the nearest."""
    images = emoji[:200].float() / 255
    near = torch.cdist(images[:4].flatten(1), images.flatten(1)).topk(10, largest=False).indices
    sigma = torch.tensor([0.002, 0.05, 0.3, 1.0])
    noise = torch.randn(images[:4].shape, generator=torch.Generator().manual_seed(3))
    return images[:4] + sigma.view(-1, 1, 1, 1) * noise, images[near], sigma


@pytest.mark.parametrize("scale", ["optimal", "scheduled"])
@pytest.mark.parametrize("number", [1.05, 2.0, 5.0])
def test_target_is_that_of_the_oracles_temperature(noisy, scale, number):
    x, centers, sigma = noisy
    distance_sq = (x.double()[:, None] - centers.double()).flatten(2).square().sum(-1)
    log_weight = optimal_log_weight(distance_sq, x[0].numel())
    temperature = torch.tensor([temperature_oracle(row, number) for row in log_weight])
    expected = smoothed_target_oracle(x, centers, sigma, temperature, scale)
    got = smoothed_target(x, centers, sigma, EffectiveNeighbors(number), scale)
    assert float(((got - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max()) < 1e-3


def test_one_neighbor_is_denoising_and_all_are_the_mean(noisy):
    x, centers, sigma = noisy
    per_image = sigma.view(-1, 1, 1, 1)
    target = smoothed_target(x, centers, sigma, EffectiveNeighbors(1.0), "scheduled")
    torch.testing.assert_close(target, (centers[:, 0] - x) / per_image**2, rtol=1e-5, atol=1e-5)
    target = smoothed_target(x, centers, sigma, EffectiveNeighbors(10), "scheduled")
    torch.testing.assert_close(target[2:], ((centers.mean(1) - x) / per_image**2)[2:], rtol=1e-4, atol=1e-4)


def test_finite_on_a_center_and_with_a_duplicate(noisy):
    _, centers, sigma = noisy
    centers = centers.clone()
    centers[:, 4] = centers[:, 0]
    for number in (1.0, 1.5, 3.0, 10.0):
        for scale in ("optimal", "scheduled"):
            assert bool(
                smoothed_target(centers[:, 0], centers, sigma, EffectiveNeighbors(number), scale).isfinite().all()
            )
    x = centers[:, 0] + 0.1 * torch.randn(centers[:, 0].shape, generator=torch.Generator().manual_seed(4))
    target = smoothed_target(x, centers, 0.1, EffectiveNeighbors(1.4), "scheduled")
    torch.testing.assert_close(target, (centers[:, 0] - x) / 0.01, rtol=1e-4, atol=1e-4)


def test_n_changes_with_sigma(noisy):
    x, centers, sigma = noisy
    faded = smoothed_target(x, centers, sigma, EffectiveNeighbors(3.0, fade=0.2), "scheduled")
    called = smoothed_target(x, centers, sigma, EffectiveNeighbors(lambda s: 1 + 2 / (1 + (s / 0.2) ** 2)), "scheduled")
    each = [
        smoothed_target(
            x[i : i + 1], centers[i : i + 1], s, EffectiveNeighbors(1 + 2 / (1 + (s / 0.2) ** 2)), "scheduled"
        )
        for i, s in enumerate(sigma.tolist())
    ]
    torch.testing.assert_close(faded, called, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(faded, torch.cat(each), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", [1.05, 2.0, 20.0, 200.0])
def test_tempered_lets_n_of_all_speak(emoji, number):
    data = emoji[:300]
    images = (data.float() / 255).double()
    x = images[:6] + torch.tensor([0.002, 0.02, 0.1, 0.5, 1.0, 3.0]).view(-1, 1, 1, 1) * torch.randn(
        images[:6].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    score = Tempered(data, EffectiveNeighbors(number))
    reached = score.effective_number(x)
    torch.testing.assert_close(reached, torch.full_like(reached, number), rtol=2e-3, atol=0)
    distance_sq = torch.stack([(images - point).flatten(1).square().sum(1) for point in x])
    log_weight = optimal_log_weight(distance_sq, images[0].numel())
    for row, weights in enumerate(score.weights(x)):
        expected = optimal_weights(distance_sq[row], images[0].numel(), temperature_oracle(log_weight[row], number))
        torch.testing.assert_close(weights.double(), expected, rtol=0, atol=1e-3)


def test_tempered_in_blocks_and_with_n_of_sigma(emoji):
    data = emoji[:120]
    x = data[:5].float() / 255 + 0.2 * torch.randn(5, *data.shape[1:], generator=torch.Generator().manual_seed(6))
    whole = Tempered(data, EffectiveNeighbors(3.0))(x)
    small = Tempered(data, EffectiveNeighbors(3.0), memory_budget=2**18)(x)
    torch.testing.assert_close(small, whole, rtol=1e-3, atol=1e-3)
    faded = Tempered(data, EffectiveNeighbors(5.0, fade=0.2)).effective_number(x)
    star = (x.flatten(1)[:, None] - (data.float() / 255).flatten(1)).norm(dim=2).amin(1) / x[0].numel() ** 0.5
    torch.testing.assert_close(faded, 1 + 4 / (1 + (star / 0.2) ** 2), rtol=2e-3, atol=0)


@pytest.mark.parametrize("number", [5.0, torch.tensor([2.0, 5.0]), lambda sigma: 0 * sigma + 0.5])
def test_numbers_beyond_the_neighbors_are_named(number):
    with pytest.raises(UserError, match=r"EffectiveNeighbors: n is .* for sample .*, where there are 4"):
        smoothed_target(torch.zeros(2, 3), torch.rand(2, 4, 3), 1.0, EffectiveNeighbors(number))
    with pytest.raises(UserError, match="where there are 4"):
        Tempered(torch.rand(4, 3), EffectiveNeighbors(number))(torch.rand(2, 3))


def test_n_above_what_the_mask_leaves_is_named():
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    with pytest.raises(UserError, match="for sample 1, where there are 2"):
        smoothed_target(torch.zeros(2, 3), torch.rand(2, 4, 3), 1.0, EffectiveNeighbors(3.0), mask=mask)


def test_one_temperature_for_each_center_is_another_thing():
    with pytest.raises(UserError, match="per_center"):
        Tempered(torch.rand(4, 3), EffectiveNeighbors(2.0), per_center=True)
