"""Gradient ascent against closed forms for one center, its step rules, and its constraints."""

import math

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.samplers import Box, GradientAscent, KnownRegion, LinearMeasurement
from smoothscore.samplers.rows import per_image
from smoothscore.score import Unconditioned

SHAPE = (3, 8, 8)
DIM = 192


def one_center(x, sigma):
    """The unconditioned score of a single center at 1/2: (μ − x)/σ*², which never looks at sigma."""
    return (0.5 - x) / per_image(residual(x).square() / DIM, x)


def residual(x):
    return (x - 0.5).flatten(1).norm(dim=1)


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


@pytest.mark.parametrize("eta", [1e-4, 1.0, 100.0])
def test_backtracking_finds_its_step_from_any_start(eta):
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1, DIM).view(SHAPE)  # curvatures over two decades

    def quadratic(x, sigma):
        return -(x - 0.3) * scale

    def height(x):
        return -((x - 0.3).square() * scale).flatten(1).sum(1)

    start = 5 * torch.randn(2, *SHAPE, generator=generator)
    heights = []
    sampler = GradientAscent(eta=eta, sigma_stop=1e-9, max_steps=300, sigma_max=100.0, step="backtracking", trust=1e-6)
    quadratic.ignores_sigma = True
    x = sampler.sample(quadratic, (2, *SHAPE), start=start, on_step=lambda _, step: heights.append(height(step.x)))
    assert sampler.nfe <= 300
    assert (height(x) > 1e-3 * height(start)).all()


def test_backtracking_goes_to_the_center_in_few_steps():
    sampler = GradientAscent(eta=1e-3, sigma_stop=0.05, max_steps=200, sigma_max=1.0, step="backtracking")
    x = sampler.sample(one_center, (2, *SHAPE), seeds=[0, 1])
    assert residual(x).max() / math.sqrt(DIM) <= 0.05
    assert sampler.nfe < 40


def test_images_searched_give_the_level_that_stops(emoji):
    data = emoji[:30, :, ::4, ::4].contiguous()
    sampler = GradientAscent(
        eta=0.01, sigma_stop=0.02, max_steps=300, sigma_max=2.0, step="barzilai_borwein", data=data
    )
    x = sampler.sample(Unconditioned(data), (3, *SHAPE), seeds=[0, 1, 2])
    nearest = torch.cdist(x.flatten(1), data.flatten(1).float() / 255).amin(1) / math.sqrt(DIM)
    assert nearest.max() <= 0.02
    assert sampler.nfe < 300


MATRIX = torch.randn(10, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / math.sqrt(DIM)
MEASURED = torch.linspace(-0.5, 0.5, 10)
IMAGE = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(2))
MASK = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
MASK[..., :4] = True


@pytest.mark.parametrize("step", ["fixed", "barzilai_borwein", "backtracking"])
@pytest.mark.parametrize(
    ("project", "broken"),
    [
        (KnownRegion(IMAGE, MASK), lambda x: (x - IMAGE)[..., :4]),
        (LinearMeasurement(MATRIX, MEASURED), lambda x: x.flatten(1).double() @ MATRIX.T - MEASURED),
        (Box(0.1, 0.4), lambda x: (x - 0.25).abs().clamp_min(0.15) - 0.15),
    ],
    ids=["known", "measured", "box"],
)  # fmt: skip
def test_a_constraint_holds_at_every_step(project, broken, step):
    sampler = GradientAscent(eta=0.05, sigma_stop=0.01, max_steps=60, sigma_max=1.0, project=project, step=step)
    worst = []
    x = sampler.sample(
        one_center, (3, *SHAPE), seeds=[0, 1, 2], on_step=lambda _, s: worst.append(float(broken(s.x).abs().max()))
    )
    assert len(worst) > 1
    assert max(worst) < 1e-6
    free = GradientAscent(eta=0.05, sigma_stop=0.01, max_steps=60, sigma_max=1.0, step=step)
    assert float(broken(free.sample(one_center, (3, *SHAPE), seeds=[0, 1, 2])).abs().max()) > 1e-3
    # and it is the nearest such point that a projection gives: it moves nothing twice, and not along the constraint
    y = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(3))
    once = project(y)
    torch.testing.assert_close(project(once), once, rtol=0, atol=1e-6)
    assert ((y - once) * (x - once)).flatten(1).sum(1).max() < 1e-4


@pytest.mark.parametrize(
    ("make", "culprit"),
    [
        (lambda: GradientAscent(eta=0.0), "eta is 0.0"),
        (lambda: GradientAscent(sigma_stop=-1.0), "sigma_stop is -1.0"),
        (lambda: GradientAscent(step="newton"), 'step is "newton"'),
        (lambda: GradientAscent(max_steps=0), "number of steps is 0"),
        (lambda: GradientAscent(tolerance=-1.0), "tolerance is -1.0"),
        (lambda: KnownRegion(IMAGE, MASK.float()), "must be bool"),
        (lambda: KnownRegion(IMAGE, MASK[..., :5]), "does not fit"),
        (lambda: LinearMeasurement(MATRIX, MEASURED[:3]), "the measurement"),
        (lambda: LinearMeasurement(torch.cat([MATRIX, MATRIX[:1]]), torch.zeros(11)), "only 10 are independent"),
        (lambda: Box(1.0, 0.0), "low must be below high"),
    ],
)
def test_bad_options_are_named(make, culprit):
    with pytest.raises(UserError, match=culprit):
        make()
