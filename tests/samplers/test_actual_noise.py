"""Unscheduled samplers against closed forms for one center, and what they promise for many."""

import math
from itertools import pairwise

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.samplers import ActualNoise, GradientAscent
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


@pytest.mark.parametrize(
    "sampler",
    [
        ActualNoise(torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0)), steps=12, sigma_max=5.0),
        ActualNoise(steps=12, sigma_max=5.0, noise="score"),
        GradientAscent(eta=0.01, max_steps=30, sigma_max=5.0),
        GradientAscent(eta=0.01, max_steps=30, sigma_max=5.0, step="barzilai_borwein"),
    ],
)
def test_a_sample_does_not_depend_on_its_batch(sampler):
    together = sampler.sample(one_center, (3, *SHAPE), seeds=[5, 6, 7])
    alone = torch.cat([sampler.sample(one_center, (1, *SHAPE), seeds=[seed]) for seed in (5, 6, 7)])
    assert torch.equal(together, alone)


def test_fixed_ascent_adds_eta_times_the_score_until_sigma_is_small():
    eta, start = 0.5, torch.full((1, *SHAPE), 2.5)
    states = []
    sampler = GradientAscent(eta=eta, sigma_stop=0.9, max_steps=1000, sigma_max=5.0)
    end = sampler.sample(one_center, (1, *SHAPE), start=start, on_step=lambda number, step: states.append(step.x))
    sigma = 2.0
    for state in states:
        sigma *= 1 - eta / sigma**2
        assert float(state[0, 0, 0, 0] - 0.5) == pytest.approx(sigma, rel=1e-4)
    assert torch.equal(end, states[-1])
    assert sigma <= 0.9
    assert sampler.nfe == len(states) + 1  # the last call sees that it is done


def test_barzilai_borwein_needs_far_fewer_steps_than_a_fixed_one():
    steps = {}
    for step in ("fixed", "barzilai_borwein"):
        sampler = GradientAscent(eta=1e-3, sigma_stop=0.05, max_steps=5000, sigma_max=1.0, step=step)
        x = sampler.sample(one_center, (2, *SHAPE), seeds=[0, 1])
        assert residual(x).max() / math.sqrt(DIM) <= 0.05
        steps[step] = sampler.nfe
    assert steps["barzilai_borwein"] < steps["fixed"] / 20


def test_finished_samples_stay_and_small_steps_finish():
    start = torch.cat([torch.full((1, *SHAPE), 0.501), torch.full((1, *SHAPE), 3.0)])
    sampler = GradientAscent(eta=0.1, sigma_stop=0.01, max_steps=5, sigma_max=5.0)
    x = sampler.sample(one_center, (2, *SHAPE), start=start)
    assert torch.equal(x[0], start[0])
    assert not torch.equal(x[1], start[1])
    still = GradientAscent(eta=1e-6, sigma_stop=0.01, max_steps=50, sigma_max=5.0, tolerance=1e-3)
    still.sample(one_center, (1, *SHAPE), seeds=[0])
    assert still.nfe == 2  # one step, too small, and one look


def test_projection_keeps_a_known_region():
    known = torch.zeros(1, *SHAPE, dtype=torch.bool)
    known[..., :4] = True
    image = torch.rand(1, *SHAPE)
    sampler = GradientAscent(
        eta=0.05, sigma_stop=0.01, max_steps=200, sigma_max=1.0, project=lambda x: torch.where(known, image, x)
    )
    x = sampler.sample(one_center, (3, *SHAPE), seeds=[0, 1, 2])
    assert torch.equal(x[..., :4], image[..., :4].expand(3, -1, -1, -1))
    assert ((x - 0.5)[..., 4:].abs() < (image - 0.5).abs().max()).float().mean() > 0.9


def test_binding_supplies_the_range_and_the_images():
    data = torch.full((1, *SHAPE), 0.5)
    bound = ActualNoise(steps=10).bind(0.01, 7.0, data)
    assert bound.sigma_max == 7.0
    assert residual(bound.sample(one_center, (1, *SHAPE), seeds=[0])) < 1.0
    own = ActualNoise(steps=10, sigma_max=3.0).bind(0.01, 7.0, data)
    assert own.sigma_max == 3.0
    assert bound.thinned(4).num_steps == 4


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: ActualNoise(steps=0), "number of steps is 0"),
        (lambda: ActualNoise(alpha=1.5), "alpha is 1.5"),
        (lambda: ActualNoise(sigma_max=0.0), "sigma_max is 0.0"),
        (lambda: ActualNoise(noise="guess"), 'noise is "guess"'),
        (lambda: ActualNoise(sigma_max=1.0).sample(one_center, (1, *SHAPE), seeds=[0]), "has none"),
        (lambda: ActualNoise(noise="score").sample(one_center, (1, *SHAPE), seeds=[0]), "bind"),
        (lambda: GradientAscent(eta=0.0), "eta is 0.0"),
        (lambda: GradientAscent(sigma_stop=-1.0), "sigma_stop is -1.0"),
        (lambda: GradientAscent(step="newton"), 'step is "newton"'),
        (lambda: GradientAscent(max_steps=0), "number of steps is 0"),
    ],
)
def test_bad_options_are_named(make, culprit):
    with pytest.raises(UserError, match=culprit):
        make()
