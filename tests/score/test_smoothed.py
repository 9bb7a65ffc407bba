import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.schedules import CollapseTemperature
from smoothscore.score import effective_number, log_weight, optimal_log_weight, optimal_weights, smoothed_target
from smoothscore.score import smoothed as smoothed_module
from tests.oracle.smoothed import smoothed_target_oracle

SIGMAS = [1e-3, 2e-3, 1e-2, 0.1, 1.0, 5.0, 50.0]


@pytest.fixture(scope="module")
def noisy(emoji):
    """Real images, K = 10 real centers each (the image itself first, one exact duplicate of it last), all σ."""
    generator = torch.Generator().manual_seed(0)
    image = emoji[: len(SIGMAS)].float() / 255
    centers = torch.stack([emoji[i * 7 : i * 7 + 10].float() / 255 for i in range(len(SIGMAS))])
    centers[:, 0], centers[:, -1] = image, image
    sigma = torch.tensor(SIGMAS)
    x = image + sigma.view(-1, 1, 1, 1) * torch.randn(image.shape, generator=generator)
    return x, centers, sigma


def relative_error(got, expected):
    difference = (got.double() - expected).flatten(1).norm(dim=1)
    return (difference / expected.flatten(1).norm(dim=1).clamp_min(1e-30)).max()


@pytest.mark.parametrize("scale", ["optimal", "scheduled"])
@pytest.mark.parametrize(
    "temperature", [1.0, 10.0, 1e3, 1e9, float("inf"), torch.linspace(1, 500, len(SIGMAS)), CollapseTemperature(5.0)]
)
def test_equals_float64_on_real_images(noisy, scale, temperature):
    x, centers, sigma = noisy
    expected = smoothed_target_oracle(x, centers, sigma, temperature, scale)
    got = smoothed_target(x, centers, sigma, temperature, scale)
    assert got.dtype == torch.float32
    assert relative_error(got, expected) < 1e-3


def test_blocks_do_not_change_the_result(noisy, monkeypatch):
    x, centers, sigma = noisy
    whole = smoothed_target(x, centers, sigma, 20.0)
    monkeypatch.setitem(smoothed_module.BLOCK_BYTES, "cpu", 1)
    assert torch.allclose(smoothed_target(x, centers, sigma, 20.0), whole, rtol=1e-5)


def test_between_two_centers_at_a_tiny_noise_level(emoji):
    # Two images, x a hair's breadth nearer to the first: weights far from 0 and 1, where rounding would show most.
    centers = emoji[:2].float().unsqueeze(0) / 255
    x = centers[:, 0] * (0.5 + 1e-5) + centers[:, 1] * (0.5 - 1e-5)
    distance_sq = (centers.double() - x.double().unsqueeze(1)).flatten(2).square().sum(-1)
    weights = optimal_weights(distance_sq, 3072)
    assert 0.5 < weights[0, 0] < 0.99
    expected = smoothed_target_oracle(x, centers, torch.tensor([0.002]), 1.0, "optimal")
    assert relative_error(smoothed_target(x, centers, 0.002), expected) < 1e-3


def test_target_is_zero_on_a_center(noisy):
    _, centers, sigma = noisy
    for scale in ("optimal", "scheduled"):
        assert torch.equal(smoothed_target(centers[:, 0], centers, sigma, 1.0, scale), torch.zeros_like(centers[:, 0]))


def test_everything_is_finite_on_a_center(noisy):
    _, centers, sigma = noisy
    for temperature in (1.0, 1e6, float("inf"), CollapseTemperature(5.0)):
        for scale in ("optimal", "scheduled"):
            assert smoothed_target(centers[:, 0], centers, sigma, temperature, scale).isfinite().all()


def test_one_center_is_denoising(noisy):
    x, centers, sigma = noisy
    target = smoothed_target(x, centers[:, :1], sigma, 7.0, "scheduled")
    expected = (centers[:, 0].double() - x.double()) / sigma.double().view(-1, 1, 1, 1) ** 2
    assert relative_error(target, expected) < 1e-6


def test_infinite_temperature_is_the_plain_mean(noisy):
    x, centers, sigma = noisy
    target = smoothed_target(x, centers, sigma, float("inf"), "scheduled")
    denoised = target.double() * sigma.view(-1, 1, 1, 1) ** 2 + x
    assert torch.allclose(denoised[3:], centers[3:].double().mean(1), atol=1e-3)
    assert relative_error(target, (centers.double().mean(1) - x) / sigma.double().view(-1, 1, 1, 1) ** 2) < 1e-5


def test_masked_centers_take_no_part(noisy):
    x, centers, sigma = noisy
    mask = torch.rand(centers.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.5
    mask[:, 0] = True
    got = smoothed_target(x, centers, sigma, 50.0, "optimal", mask)
    assert relative_error(got, smoothed_target_oracle(x, centers, sigma, 50.0, "optimal", mask)) < 1e-3
    moved = torch.where(mask[..., None, None, None], centers, torch.full_like(centers, 0.123))
    assert torch.allclose(smoothed_target(x, moved, sigma, 50.0, "optimal", mask), got, rtol=1e-5)


def test_order_of_centers_does_not_matter(noisy):
    x, centers, sigma = noisy
    order = torch.randperm(centers.shape[1], generator=torch.Generator().manual_seed(2))
    assert torch.allclose(
        smoothed_target(x, centers[:, order], sigma, 9.0), smoothed_target(x, centers, sigma, 9.0), rtol=1e-4
    )


def test_mirroring_commutes(noisy):
    x, centers, sigma = noisy
    mirrored = smoothed_target(x.flip(-1), centers.flip(-1), sigma, 9.0)
    assert relative_error(mirrored.flip(-1), smoothed_target(x, centers, sigma, 9.0).double()) < 1e-4


@pytest.mark.parametrize("shape", [(2,), (3, 5), (1, 7, 11)])
def test_any_shape_of_image(shape):
    generator = torch.Generator().manual_seed(3)
    x, centers = torch.randn(4, *shape, generator=generator), torch.randn(4, 6, *shape, generator=generator)
    sigma = torch.full((4,), 0.5)
    expected = smoothed_target_oracle(x, centers, sigma, 2.0, "optimal")
    assert relative_error(smoothed_target(x, centers, sigma, 2.0), expected) < 1e-5


def test_log_weight_peaks_at_sigma_star_up_to_two_dimensions():
    dim, distance_sq = 3072, torch.tensor(7.0, dtype=torch.float64)
    sigma = torch.linspace(0.03, 0.08, 20001, dtype=torch.float64)
    best = sigma[log_weight(distance_sq, sigma, dim).argmax()]
    assert best == pytest.approx(float((distance_sq / (dim - 2)).sqrt()), rel=1e-3)
    star = (distance_sq / dim).sqrt()
    assert optimal_log_weight(distance_sq, dim) == pytest.approx(float(log_weight(distance_sq, star, dim)))


def test_effective_number_counts_equal_weights():
    weights = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    assert effective_number(weights).tolist() == pytest.approx([1, 2, 4])


def test_hit_centers_share_the_weight():
    weights = optimal_weights(torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64), 3072, 1e6)
    assert weights.tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize(
    "arguments",
    [
        {"x": torch.zeros(2, 3), "centers": torch.zeros(2, 4, 5)},
        {"x": torch.zeros(2, 3), "centers": torch.zeros(3, 4, 3)},
        {"x": torch.zeros(2, 3), "centers": torch.zeros(2, 3)},
        {"scale": "scaled"},
        {"temperature": 0.0},
        {"temperature": -3},
        {"temperature": torch.ones(5)},
        {"mask": torch.ones(2, 5, dtype=torch.bool)},
    ],
)
def test_bad_arguments_are_named(arguments):
    good = {"x": torch.zeros(2, 3), "centers": torch.ones(2, 4, 3), "sigma": torch.ones(2)}
    with pytest.raises(UserError, match=r"centers|scale|temperature|mask"):
        smoothed_target(**(good | arguments))
