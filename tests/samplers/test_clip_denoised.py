"""Clipping the denoised image: no change to a right score, a wrong one brought nearer, and the same promises."""

import pytest
import torch
from jsonargparse import ArgumentParser

from smoothscore.errors import UserError
from smoothscore.samplers import ActualNoise, ClipDenoised, DPMSolver, Heun, PredictorCorrector, Sampler
from smoothscore.samplers.rows import per_image
from smoothscore.schedules import log_uniform
from smoothscore.score import Conditioned, Unconditioned

SHAPE = (3, 8, 8)
DATA = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
LEVELS = log_uniform(0.01, 10, 12)


def off_by(size):
    """A score whose predicted noise is off by `size` per value, in one direction for every x."""
    exact = Conditioned(DATA)
    wrong = size * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    return lambda x, sigma: exact(x, sigma) - wrong / per_image(sigma, x)


@pytest.mark.parametrize(
    "sampler", [Heun(LEVELS), PredictorCorrector(LEVELS), DPMSolver(LEVELS)], ids=["heun", "pc", "dpm"]
)
def test_the_exact_score_is_left_alone(sampler):
    # The sampler on the score of images within [0.2, 0.8]: nothing reaches the edge, so every bit is the same.
    score = Conditioned(0.2 + 0.6 * DATA)
    plain = sampler.sample(score, (4, *SHAPE), seeds=range(4))
    clipped = ClipDenoised(sampler)
    assert torch.equal(clipped.sample(score, (4, *SHAPE), seeds=range(4)), plain)
    assert clipped.nfe == sampler.nfe


def test_a_wrong_denoised_image_comes_nearer_to_the_exact_one():
    seen = []
    score = off_by(0.1)

    def watched(x, sigma):
        seen.append((x.clone(), sigma.clone()))
        return score(x, sigma)

    states = []
    clipped = ClipDenoised(DPMSolver(LEVELS))
    clipped.sample(watched, (4, *SHAPE), seeds=range(4), on_step=lambda _, step: states.append(step.x))
    for (x, sigma), exact in zip(seen, [Conditioned(DATA).denoised(*at) for at in seen], strict=True):
        variance = per_image(sigma, x) ** 2
        before = x + variance * score(x, sigma)
        after = before.clamp(0, 1)
        assert ((after - exact).abs() <= (before - exact).abs() + 1e-5).all()
    assert torch.equal(states[-1], states[-1].clamp(-1e-6, 1 + 1e-6))  # the last step is to D


def test_the_step_is_to_the_clipped_image():
    score = off_by(0.3)
    x = 5 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    one = ClipDenoised(DPMSolver([5.0]), low=0.1, high=0.7).sample(score, x.shape, start=x)
    plain = x.double() + 25 * score(x, torch.full((2,), 5.0)).double()
    assert plain.min() < 0.0
    assert plain.max() > 1.0
    torch.testing.assert_close(one.double(), plain.clamp(0.1, 0.7), atol=2e-6, rtol=0)


def test_errors_of_the_start_do_not_reach_the_end():
    """F off by 3 % in one direction: D is off by 0.3 at σ = 10, more than the images' spread."""
    score, plain = off_by(0.03), DPMSolver(LEVELS)
    far = [
        (sampler.sample(score, (16, *SHAPE), seeds=range(16)) - DATA.mean(0)).square().mean().sqrt()
        for sampler in (plain, ClipDenoised(plain))
    ]
    assert far[1] < far[0]


@pytest.mark.parametrize("walk", [PredictorCorrector(12), ActualNoise(steps=12, noise="score", churn=1.0)])
def test_binding_and_batches(walk):
    sampler = ClipDenoised(walk).bind(0.01, 10.0, DATA)
    score = off_by(0.1)
    together = sampler.sample(score, (4, *SHAPE), seeds=range(4))
    alone = torch.cat([sampler.sample(score, (1, *SHAPE), seeds=[seed]) for seed in range(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)  # the exact score itself sums over the batch
    assert sampler.sigma_max == 10.0
    thin = sampler.thinned(3)
    seen = []
    thin.sample(score, (1, *SHAPE), seeds=[0], on_step=lambda number, _: seen.append(number))
    assert len(seen) == thin.num_steps <= 4


def test_command_line_and_record():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Sampler, "sampler")
    inner = {"class_path": "PredictorCorrector", "init_args": {"sigmas": 25, "predictor": "ancestral", "snr": 0.35}}
    config = {"sampler": {"class_path": "ClipDenoised", "init_args": {"sampler": inner, "high": 0.9}}}
    built = [parser.instantiate(parser.parse_object(config)).sampler for _ in range(2)]
    assert repr(built[0]) == repr(built[1])  # the same sampler goes by the same record, in any process
    assert "snr=0.35" in repr(built[0])
    assert "high=0.9" in repr(built[0])


def test_bad_input():
    with pytest.raises(UserError, match="low must be below high"):
        ClipDenoised(Heun(3), low=1.0, high=0.0)
    with pytest.raises(UserError, match="use PredictorCorrector alone"):
        ClipDenoised(PredictorCorrector(LEVELS)).sample(Unconditioned(DATA), (1, *SHAPE), seeds=[0])
