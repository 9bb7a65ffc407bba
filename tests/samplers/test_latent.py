"""Encoding and decoding by the probability flow, and what lies between two images, on Gaussian mixtures."""

import math

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.samplers import DPMSolver, PredictorCorrector, decode, encode, interpolate
from smoothscore.samplers.rows import per_image
from smoothscore.schedules import log_uniform

SHAPE = (3, 4)
CENTERS = torch.tensor([[0.2], [0.7]], dtype=torch.float64) + 0.1 * torch.randn(
    2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
)
STD = 0.1


def mixture(x, sigma):
    """Exact score of two Gaussians of standard deviation STD about CENTERS, blurred by σ; told σ."""
    variance = STD**2 + per_image(sigma, x).flatten(1) ** 2
    difference = CENTERS.to(x) - x.flatten(1)[:, None]  # [B, 2, d]
    weight = (-difference.square().sum(2) / (2 * variance)).softmax(1)
    return ((weight[:, :, None] * difference).sum(1) / variance).view(x.shape)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    unit = torch.randn(6, 12, dtype=torch.float64, generator=generator)
    return (CENTERS[[0, 0, 0, 1, 1, 1]] + STD * unit).view(6, *SHAPE)


def test_the_round_trip_gives_the_images_back(images):
    sigma_min, errors = 1e-3, []
    last_step = sigma_min**2 * mixture(images, images.new_full((6,), sigma_min))  # the one that encoding has not
    assert last_step.abs().max() < 5e-5
    for tolerance in (1e-3, 1e-5, 1e-7):
        options = {"sigma_min": sigma_min, "sigma_max": 10.0, "rtol": tolerance, "atol": tolerance}
        back = decode(mixture, encode(mixture, images, **options), **options)
        errors.append(float((back - images - last_step).abs().max()))
    assert errors[2] < errors[1] / 10 < errors[0] / 100 < 0.02
    assert errors[2] < 1e-6


def test_the_latent_of_a_gaussian_is_its_scaled_residual():
    x = CENTERS[:1].view(1, *SHAPE) + torch.linspace(-0.2, 0.2, 12, dtype=torch.float64).view(1, *SHAPE)

    def gaussian(x, sigma):
        return (CENTERS[0].view(SHAPE) - x) / (STD**2 + per_image(sigma, x) ** 2)

    latent = encode(gaussian, x, sigma_min=1e-3, sigma_max=10.0, rtol=1e-7, atol=1e-7)
    factor = math.sqrt((STD**2 + 100) / (STD**2 + 1e-6))
    expected = CENTERS[0].view(SHAPE) + factor * (x - CENTERS[0].view(SHAPE))
    torch.testing.assert_close(latent, expected, rtol=1e-5, atol=1e-4)


def test_images_between_two_start_and_end_with_them(images):
    between = interpolate(mixture, images[0], images[4], sigma=2.0, sigma_min=1e-3, num=5)
    assert between.share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    torch.testing.assert_close(between.denoised[[0, -1]], images[[0, 4]], rtol=0, atol=2e-3)
    nearer = torch.cdist(between.denoised.flatten(1), CENTERS).argmin(1)
    assert nearer.tolist() == sorted(nearer.tolist())  # from the one mode to the other, once


def test_mixtures_of_given_noise_keep_the_noise_level():
    first, second = torch.zeros(1, 100, 100), torch.ones(1, 100, 100)
    noise = torch.randn(2, 1, 100, 100, generator=torch.Generator().manual_seed(0))

    def point(x, sigma):
        return (0.5 - x) / per_image(sigma, x) ** 2

    sampler = PredictorCorrector(log_uniform(0.1, 3, 4), corrector_steps=0)
    between = interpolate(point, first, second, sigma=3.0, sigma_min=0.1, num=3, noise=noise, sampler=sampler)
    level = (between.noised - between.share.view(3, 1, 1, 1)).flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(level, torch.full((3,), 3.0), rtol=0.05, atol=0)
    torch.testing.assert_close(between.denoised, torch.full_like(between.noised, 0.5), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num": 1}, "num is 1"),
        ({"sampler": DPMSolver([0.1, 1.0])}, "starts at 1"),
        ({"second": torch.zeros(2, 4)}, "of one shape"),
    ],
)
def test_bad_mixtures(images, options, words):
    given = {"first": images[0], "second": images[1], "sigma": 2.0, "sigma_min": 0.01} | options
    with pytest.raises(UserError, match=words):
        interpolate(mixture, **given)


def test_a_blind_score_is_warned_of(images):
    def blind(x, sigma):
        return mixture(x, sigma)

    blind.conditioned = False
    with pytest.warns(UserWarning, match="ActualNoise"):
        encode(blind, images, sigma_min=0.1, sigma_max=1.0)
