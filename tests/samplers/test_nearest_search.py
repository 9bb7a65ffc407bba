"""The search that follows moving points against brute force: equal at every step, and without a full look."""

import math

import pytest
import torch

from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.samplers import ActualNoise, NearestSearch
from smoothscore.samplers.search import Look, lower_bound
from smoothscore.score import Conditioned, Unconditioned

SHAPE = (3, 8, 8)
DIM = 192


@pytest.fixture(scope="module")
def data(emoji):
    """5,000 images from 1,412 emoji, brightened and mirrored: many near duplicates, and exact ones."""
    small = torch.nn.functional.avg_pool2d(emoji.float(), 4)
    parts = [small, small.flip(-1), 0.9 * small, small.roll(1, dims=-1)]
    return torch.cat(parts)[:5000].round().to(torch.uint8)


def walk(data, batch, steps, alpha, *, fresh=0.0, seed=0):
    """States of a walk to the images by the exact score, with fresh noise where asked for."""
    score = Conditioned(data[::7])
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 + 10 * torch.randn(batch, *SHAPE, generator=generator)
    sigma = 10.0
    for _ in range(steps):
        yield x
        x = x + alpha * (score.denoised(x, sigma) - x)
        sigma *= 1 - alpha
        x = x + fresh * sigma * torch.randn(x.shape, generator=generator)


@pytest.mark.parametrize(("alpha", "fresh"), [(0.16, 0.0), (0.6, 0.0), (0.16, 0.3)])
def test_the_nearest_is_that_of_brute_force_at_every_step(data, alpha, fresh):
    tracker, centers = NearestSearch(data).track(), Centers(data)
    for x in walk(data, 6, 25, alpha, fresh=fresh):
        found, brute = tracker(x), centers.nearest(x, 1)
        assert torch.equal(found.distance, brute.distance)
        assert torch.equal(found.index, brute.index)


def test_a_walk_takes_one_full_look(data):
    tracker = NearestSearch(data).track()
    for x in walk(data, 6, 40, 0.16):
        tracker(x)
    assert tracker.looks == 6
    assert tracker.measured < 40 * 6 * 100


def test_points_that_jump_are_looked_at_again(data):
    tracker, centers = NearestSearch(data, rank=4).track(), Centers(data)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        x = 0.5 + 3 * torch.randn(5, *SHAPE, generator=generator)
        assert torch.equal(tracker(x).index, centers.nearest(x, 1).index)
    assert tracker.looks > 5
    on_images = data[[3, 4000, 17, 17, 0]].float() / 255
    found = tracker(on_images)
    assert torch.equal(found.distance, torch.zeros(5, 1))
    assert torch.equal(found.index, centers.nearest(on_images, 1).index)  # duplicates: the lower index


def test_the_bound_is_one(data):
    search = NearestSearch(data, rank=16)
    centers = search.centers
    generator = torch.Generator().manual_seed(0)
    start = 0.5 + 5 * torch.randn(4, *SHAPE, generator=generator)
    query = centers.query(start)
    point = query.point - centers.middle
    directions = search.basis.directions
    look = Look(point, point - (point @ directions) @ directions.T, centers.screen(query), query.slack)
    exact_data = data.flatten(1).double() / 255
    for move in (0.0, 0.01, 1.0):
        x = 0.7 * start + 0.2 + move * torch.randn(start.shape, generator=generator)
        moved = centers.query(x)
        bound, slack = lower_bound(moved.point - centers.middle, look, search.basis, centers.radius)
        exact = torch.cdist(x.flatten(1).double(), exact_data, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        below = exact - moved.offset[:, None] - bound.double()
        assert (below >= -slack[:, None]).all()
        if move == 0.0:  # nothing is left but a shift along the mean image, and the bound is nearly the distance
            assert below.median() < 0.05 * exact.median()
    assert slack.max() < 0.01


def test_a_sample_does_not_depend_on_its_batch(data):
    sampler = ActualNoise(data, steps=12, sigma_max=5.0)
    score = Unconditioned(data)
    together = sampler.sample(score, (4, *SHAPE), seeds=[5, 6, 7, 8])
    alone = torch.cat([sampler.sample(score, (1, *SHAPE), seeds=[seed]) for seed in (5, 6, 7, 8)])
    # the exact score itself works on the batch: its own float32 differs in the last digits
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    found = Centers(data).nearest(together, 1).distance / math.sqrt(DIM)
    assert found.max() < 0.01


def test_few_images_are_searched_in_full(data):
    tracker = NearestSearch(data[:100]).track()
    for x in walk(data, 3, 4, 0.3):
        tracker(x)
    assert tracker.looks == 12


def test_bad_points_are_named(data):
    tracker = NearestSearch(data).track()
    with pytest.raises(UserError, match="shape"):
        tracker(torch.zeros(2, 3, 4, 4))
    x = torch.zeros(2, *SHAPE)
    tracker(x)
    x[1, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="Row 1 of x"):
        tracker(x)
