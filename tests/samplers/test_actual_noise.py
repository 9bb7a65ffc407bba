"""Unscheduled samplers against closed forms for one center, and what they promise for many."""

import math
from itertools import pairwise

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.samplers import ActualNoise, Trajectory, project_noise
from smoothscore.score import Unconditioned

SHAPE = (3, 8, 8)
DIM = 192


def one_center(x, sigma):
    """The unconditioned score of a single center at 1/2: (μ − x)/σ*², which never looks at sigma."""
    residual = 0.5 - x
    return residual / (residual.flatten(1).square().sum(1) / DIM).view(-1, 1, 1, 1)


def residual(x):
    return (x - 0.5).flatten(1).norm(dim=1)


@pytest.mark.parametrize("noise", ["search", "score"])
@pytest.mark.parametrize(("steps", "alpha"), [(10, 0.6), (50, 0.16), (100, 0.09), (25, 1 - 10 ** (-4 / 25))])
def test_a_step_leaves_one_minus_alpha_of_the_residual(noise, steps, alpha):
    data = torch.full((1, *SHAPE), 0.5)
    sampler = ActualNoise(data if noise == "search" else None, steps=steps, sigma_max=20.0, noise=noise)
    residuals, expected = [], []

    def record(number, step):
        residuals.append(residual(step.x))
        expected.append(step.sigma * math.sqrt(DIM))

    sampler.sample(one_center, (2, *SHAPE), seeds=[1, 2], on_step=record)
    assert sampler.nfe == len(residuals) == steps
    ratios = torch.stack([after / before for before, after in pairwise(residuals)])
    assert torch.allclose(ratios, torch.full_like(ratios, 1 - alpha), rtol=2e-2)  # rounding of x near the center
    assert torch.allclose(ratios[:5], torch.full_like(ratios[:5], 1 - alpha), rtol=1e-4)
    assert torch.allclose(torch.stack(expected[:5]), torch.stack(residuals[:5]), rtol=1e-4)


def test_a_network_that_predicts_the_noise_needs_no_search():
    def network_score(x, sigma):  # −F/σ with F the exact unit noise, as a blind network has it
        return one_center(x, sigma) * (residual(x) / math.sqrt(DIM) / sigma).view(-1, 1, 1, 1)

    x = ActualNoise(steps=50, sigma_max=20.0, noise="score").sample(network_score, (3, *SHAPE), seeds=[1, 2, 3])
    assert residual(x).max() < 1.1 * 20 * math.sqrt(DIM) * 0.84**50


def test_the_exact_score_is_followed_to_training_images(emoji):
    data = emoji[:40, :, ::4, ::4].contiguous()
    sampler = ActualNoise(data, steps=50, sigma_max=10.0)
    x = sampler.sample(Unconditioned(data), (8, *SHAPE), seeds=range(8))
    nearest = torch.cdist(x.flatten(1), data.flatten(1).float() / 255).amin(1)
    assert nearest.max() < 1.1 * 10 * math.sqrt(DIM) * 0.84**50
    blind = ActualNoise(steps=50, sigma_max=10.0, noise="score").sample(
        Unconditioned(data), (8, *SHAPE), seeds=range(8)
    )
    assert torch.allclose(x, blind, atol=0.02)


def test_binding_supplies_the_range_and_the_images():
    data = torch.full((1, *SHAPE), 0.5)
    bound = ActualNoise(steps=10).bind(0.01, 7.0, data)
    assert bound.sigma_max == 7.0
    assert residual(bound.sample(one_center, (1, *SHAPE), seeds=[0])) < 1.0
    own = ActualNoise(steps=10, sigma_max=3.0).bind(0.01, 7.0, data)
    assert own.sigma_max == 3.0
    assert bound.thinned(4).num_steps == 4


def test_the_direction_of_a_score_tells_the_noise(emoji):
    images = emoji[:64].float() / 255
    generator = torch.Generator().manual_seed(0)
    center = images.mean(0)
    spread = float((images - center).square().mean().sqrt())
    for sigma in (0.05, 0.5, 5.0):
        noise = sigma * torch.randn(images.shape, generator=generator)
        star = noise.flatten(1).norm(dim=1) / math.sqrt(3072)
        for length in (1e-3, 1.0, 1e3):  # however long the score is
            found = project_noise(images + noise, -length * noise, center)
            assert (found - star).abs().max() < 4 * spread / math.sqrt(3072)
    assert (project_noise(images, noise) < 0).any()  # a score that points outwards


def shrinking_network(x, sigma):
    """A network whose F is shorter than the noise, as a denoiser's mean is: nine tenths of it."""
    return 0.9 * one_center(x, sigma) * (residual(x) / math.sqrt(DIM) / sigma).view(-1, 1, 1, 1)


def test_a_short_prediction_of_the_noise_does_not_inflate_its_estimate():
    trajectory = Trajectory()
    sampler = ActualNoise(steps=100, sigma_max=20.0, noise="score")
    x = sampler.sample(shrinking_network, (3, *SHAPE), seeds=[1, 2, 3], on_step=trajectory)
    star = trajectory.sigma_star
    trusted = star > 0.3
    left = torch.stack([torch.full((3,), torch.nan), *trajectory.sigma[:-1]])
    assert (left[trusted & ~left.isnan()] / star[trusted & ~left.isnan()] < 1).all()  # more was left than expected
    assert (star.diff(dim=0) < 0).all()
    assert residual(x).max() / math.sqrt(DIM) < 0.05


def test_the_schedule_drives_until_its_level(emoji):
    data = emoji[:40, :, ::4, ::4].contiguous()
    looked = []

    class Counting(ActualNoise):
        def _noise_level(self, score, device):
            level = super()._noise_level(score, device)
            told = level.told
            level.told = lambda x, expected: looked.append(len(x)) or told(x, expected)
            return level

    trajectory = Trajectory()
    sampler = Counting(data, steps=50, sigma_max=10.0, schedule_until=1.0)
    x = sampler.sample(Unconditioned(data), (4, *SHAPE), seeds=range(4), on_step=trajectory)
    early = sum(10 * 0.84**n >= 1.0 for n in range(50))
    assert len(looked) == 50 - early
    expected = 10 * 0.84 ** torch.arange(early, dtype=torch.float64)
    torch.testing.assert_close(
        trajectory.sigma_star[:early].double(), expected[:, None].expand(-1, 4), rtol=1e-5, atol=0
    )
    nearest = torch.cdist(x.flatten(1), data.flatten(1).float() / 255).amin(1) / math.sqrt(DIM)
    assert nearest.max() < 0.01
    assert sampler.nfe == 50


def test_churn_keeps_the_share_of_noise_and_forgets_where_it_came_from():
    steps, alpha = 20, 0.3
    ends, levels = {}, {}
    for churn in (0.0, 0.5, 1.0):
        trajectory = Trajectory(states=1)
        sampler = ActualNoise(torch.full((1, *SHAPE), 0.5), steps=steps, alpha=alpha, sigma_max=20.0, churn=churn)
        sampler.sample(one_center, (64, *SHAPE), seeds=range(64), on_step=trajectory)
        levels[churn] = torch.stack([residual(x) for x in trajectory.states[:-1]]) / math.sqrt(DIM)
        first, later = ((trajectory.states[n] - 0.5).flatten(1) for n in (0, 10))
        ends[churn] = torch.cosine_similarity(first, later, dim=1).mean()
        last = [(x - 0.5).flatten(1) for x in trajectory.states[-2:]]
        torch.testing.assert_close(torch.cosine_similarity(*last, dim=1), torch.ones(64))  # no fresh noise at the end
    for level in levels.values():  # ρ of the noise is left after every step, whatever of it is fresh
        ratio = level[1:].square().mean(1) / level[:-1].square().mean(1)
        torch.testing.assert_close(ratio, torch.full_like(ratio, 0.7**2), rtol=0.05, atol=0)
    assert ends[0.0] > 0.9999
    assert ends[0.0] > ends[0.5] > ends[1.0]
    # of the noise, √(ρ² − b²) of a step's ρ is old: ten steps leave its tenth power
    assert ends[1.0] == pytest.approx(0.7**10, abs=0.02)


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: ActualNoise(steps=0), "number of steps is 0"),
        (lambda: ActualNoise(alpha=1.5), "alpha is 1.5"),
        (lambda: ActualNoise(sigma_max=0.0), "sigma_max is 0.0"),
        (lambda: ActualNoise(noise="guess"), 'noise is "guess"'),
        (lambda: ActualNoise(churn=1.5), "churn is 1.5"),
        (lambda: ActualNoise(schedule_until=0.0), "schedule_until is 0.0"),
        (lambda: ActualNoise(trust=-1.0), "trust is -1.0"),
        (lambda: ActualNoise(sigma_max=1.0).sample(one_center, (1, *SHAPE), seeds=[0]), "has none"),
        (lambda: ActualNoise(noise="score").sample(one_center, (1, *SHAPE), seeds=[0]), "bind"),
    ],
)
def test_bad_options_are_named(make, culprit):
    with pytest.raises(UserError, match=culprit):
        make()
