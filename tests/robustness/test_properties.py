"""Properties of targets, weights, tables and samplers, on drawn cases: few here, a thousand each in the long form."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smoothscore.neighbors import build_neighbors
from smoothscore.samplers import DPMSolver, Heun, PredictorCorrector, ProbabilityFlow
from smoothscore.score import Conditioned, Tempered, smoothed_target
from smoothscore.score.weights import effective_number, optimal_weights
from tests.oracle import empirical
from tests.oracle.neighbors import neighbors_oracle
from tests.oracle.smoothed import smoothed_target_oracle

FORMS = [40, pytest.param(1000, marks=pytest.mark.slow)]

seeds = st.integers(0, 2**31)
sigmas = st.floats(math.log(0.002), math.log(90.0)).map(math.exp)
temperatures = st.floats(math.log(0.5), math.log(1e6)).map(math.exp)
sides = st.integers(1, 6)


def holds(check, cases, tally, **strategies):
    """Check so many drawn cases; the first that fails is made small and shown."""
    tried = 0

    @settings(
        max_examples=cases, deadline=None, database=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(**strategies)
    def run(**drawn):
        nonlocal tried
        check(**drawn)
        tried += 1

    run()
    assert tried >= cases
    tally(f"drawn cases: {check.__name__.replace('_', ' ')}", survived=tried)


def cloud(seed, rows, side, *, near=1.0):
    """Images around one image; the smaller `near`, the harder they are to tell apart."""
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(1, 3, side, side, generator=generator)
    return (center + near * torch.rand(rows, 3, side, side, generator=generator) - near / 2).clamp(0, 1), generator


def close(one, other, tolerance=2e-3):
    """Relative to each sample's norm, plus what float32 images can say at all."""
    error = (one.double() - other).flatten(1).norm(dim=1)
    return bool((error <= tolerance * other.flatten(1).norm(dim=1) + 1e-6).all())


def target_is_the_formula(seed, side, k, sigma, temperature, scale, near, on_center, twins):
    images, generator = cloud(seed, 2 * k, side, near=near)
    centers = images.view(2, k, 3, side, side)
    if twins and k > 1:
        centers[:, 1] = centers[:, 0]
    x = centers[:, 0] + sigma * torch.randn(2, 3, side, side, generator=generator)
    if on_center:
        x[0] = centers[0, -1]
    level = torch.full((2,), sigma)
    target = smoothed_target(x, centers, level, temperature, scale)
    assert target.isfinite().all()
    if on_center:  # the limit for one T per query, which the formula's logarithms cannot take
        if (centers[0, :-1] != centers[0, -1]).flatten(1).any(1).all():
            assert target[0].abs().max() == 0
        target, x, centers, level = target[1:], x[1:], centers[1:], level[1:]
    assert close(target, smoothed_target_oracle(x, centers, level, temperature, scale))
    order = torch.randperm(k, generator=generator)
    assert close(smoothed_target(x, centers[:, order], level, temperature, scale), target.double())
    mirrored = smoothed_target(x.flip(-1), centers.flip(-1), level, temperature, scale).flip(-1)
    assert close(mirrored, target.double())


@pytest.mark.parametrize("cases", FORMS)
def test_targets(cases, tally):
    holds(
        target_is_the_formula, cases, tally, seed=seeds, side=sides, k=st.integers(1, 8), sigma=sigmas,
        temperature=temperatures, scale=st.sampled_from(["optimal", "scheduled"]),
        near=st.sampled_from([1.0, 0.1, 0.001]), on_center=st.booleans(), twins=st.booleans(),
    )  # fmt: skip


def weights_are_shares_in_order(seed, k, dim, temperature, spread):
    generator = torch.Generator().manual_seed(seed)
    distance_sq = (1 + spread * torch.rand(3, k, generator=generator, dtype=torch.float64)) * 10.0**spread
    weights = optimal_weights(distance_sq, dim, temperature)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(3, dtype=torch.float64), atol=1e-9)
    order = distance_sq.argsort(1)
    assert (weights.gather(1, order).diff(dim=1) <= 1e-12).all()  # nearer is never lighter
    expected = torch.softmax(-(dim - 2) / 2 * distance_sq.log() / temperature, 1)
    assert torch.allclose(weights, expected, rtol=1e-6, atol=1e-12)
    number, warmer = (effective_number(optimal_weights(distance_sq, dim, t)) for t in (temperature, 2 * temperature))
    assert ((number >= 1 - 1e-9) & (number <= k + 1e-9)).all()
    assert (warmer >= number - 1e-9).all()  # more speak where it is warmer
    scaled = optimal_weights(7.0 * distance_sq, dim, temperature)
    assert torch.allclose(scaled, weights, rtol=1e-6, atol=1e-12)  # a power law knows no unit


@pytest.mark.parametrize("cases", FORMS)
def test_weights(cases, tally):
    holds(
        weights_are_shares_in_order, cases, tally, seed=seeds, k=st.integers(1, 12), dim=st.integers(3, 4000),
        temperature=temperatures, spread=st.floats(0.0, 3.0),
    )  # fmt: skip


def scores_are_the_formulas(seed, side, rows, sigma, temperature, near, as_bytes):
    data, generator = cloud(seed, rows, side, near=near)
    data = (255 * data).round().byte() if as_bytes else data
    clean = data.float() / 255 if as_bytes else data
    x = clean[:2] + sigma * torch.randn(len(clean[:2]), 3, side, side, generator=generator)
    expected = empirical.conditioned(x, data, sigma)
    score = Conditioned(data)
    assert torch.allclose(score.weights(x, sigma).double(), expected.weights, atol=1e-3)
    assert torch.allclose(score.denoised(x, sigma).double(), expected.denoised, atol=1e-3)
    tempered = Tempered(data, temperature=temperature)
    expected = empirical.tempered(x, data, temperature)
    assert torch.allclose(tempered.weights(x).double(), expected.weights, atol=1e-3)
    assert close(tempered(x, None), expected.score)


@pytest.mark.parametrize("cases", FORMS)
def test_scores(cases, tally):
    holds(
        scores_are_the_formulas, cases, tally, seed=seeds, side=sides, rows=st.integers(2, 20), sigma=sigmas,
        temperature=temperatures, near=st.sampled_from([1.0, 0.1]), as_bytes=st.booleans(),
    )  # fmt: skip


def tables_hold_the_nearest(seed, side, rows, k, as_bytes, twins, classes):
    data, _ = cloud(seed, rows, side)
    data = (255 * data).round().byte() if as_bytes else data
    if twins:
        data[rows // 2 :] = data[: rows - rows // 2].clone()
    labels = torch.arange(rows) % 2 if classes else None
    k = min(k, rows // 2 if classes else rows - 1)
    table = build_neighbors(data, k, labels=labels, progress=False)
    assert torch.equal(table.indices[:, 0], torch.arange(rows))
    assert (table.distances.diff(dim=1) >= 0).all()
    assert all(len(set(row)) == k for row in table.indices.tolist())
    _, distances = neighbors_oracle(data.flatten(1), k, labels)
    assert torch.allclose(table.distances.double(), distances, rtol=1e-4, atol=1e-6)
    flat = (data.float() / 255 if as_bytes else data).double().flatten(1)
    said = (flat[:, None] - flat[table.indices]).norm(dim=2)
    assert torch.allclose(said, table.distances.double(), rtol=1e-4, atol=1e-6)  # the ids are those of the distances
    if classes:
        assert (labels[table.indices] == labels[:, None]).all()


@pytest.mark.parametrize("cases", FORMS)
def test_tables(cases, tally):
    holds(
        tables_hold_the_nearest, cases, tally, seed=seeds, side=sides, rows=st.integers(4, 40), k=st.integers(1, 12),
        as_bytes=st.booleans(), twins=st.booleans(), classes=st.booleans(),
    )  # fmt: skip


def samplers(levels, corrector_steps, snr):
    grid = torch.logspace(-2, 1, levels)
    predictors = ["reverse_diffusion", "ancestral", "euler_maruyama", "probability_flow"]
    walks = [PredictorCorrector(grid, predictor=p, corrector_steps=corrector_steps, snr=snr) for p in predictors]
    return [*walks, ProbabilityFlow(grid), Heun(grid), DPMSolver(grid), ProbabilityFlow(grid, method="rk45")]


def samples_depend_on_their_seed_alone(seed, side, count, levels, corrector_steps, snr, which):
    generator = torch.Generator().manual_seed(seed)
    center = torch.rand(3, side, side, generator=generator)

    def score(x, sigma):  # of one blurred image: elementwise, so the batch cannot enter by it
        return (center - x) / (sigma.view(-1, 1, 1, 1) ** 2 + 0.01)

    sampler = samplers(levels, corrector_steps, snr)[which]
    numbers = list(range(seed % 1000, seed % 1000 + count))
    together = sampler.sample(score, (count, 3, side, side), numbers)
    assert together.isfinite().all()
    apart = [sampler.sample(score, (1, 3, side, side), [number]) for number in numbers]
    assert torch.equal(together, torch.cat(apart))
    shuffled = sampler.sample(score, (count, 3, side, side), numbers[::-1])
    assert torch.equal(together, shuffled.flip(0))
    assert torch.equal(together, sampler.sample(score, (count, 3, side, side), numbers))


@pytest.mark.parametrize("cases", FORMS)
def test_samplers(cases, tally):
    holds(
        samples_depend_on_their_seed_alone, cases, tally, seed=seeds, side=st.integers(1, 4), count=st.integers(1, 4),
        levels=st.integers(2, 12), corrector_steps=st.integers(0, 2), snr=st.floats(0.01, 0.3),
        which=st.integers(0, 7),
    )  # fmt: skip
