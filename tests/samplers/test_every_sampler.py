"""What every sampler with every option promises: batches, half precision, counts, NaN, warnings, YAML."""

import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from jsonargparse import ArgumentParser

from smoothscore.errors import UserError
from smoothscore.samplers import (
    ActualNoise,
    Box,
    ClipDenoised,
    DPMSolver,
    GradientAscent,
    Heun,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
    Trajectory,
)
from smoothscore.samplers.rows import per_image, row_norm

SHAPE = (3, 8, 8)
DATA = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(0))
LEVELS = torch.logspace(-2, 1, 12)


def samplers():
    for predictor in ("reverse_diffusion", "ancestral", "euler_maruyama", "probability_flow", "none"):
        for corrector in ("langevin", "annealed_langevin", "ornstein_uhlenbeck"):
            yield PredictorCorrector(LEVELS, predictor=predictor, corrector=corrector)
    yield PredictorCorrector(LEVELS, corrector_steps=0)
    yield ProbabilityFlow(LEVELS)
    yield ProbabilityFlow(LEVELS, method="rk45", rtol=1e-2, atol=1e-2)
    yield Heun(LEVELS)
    yield DPMSolver(LEVELS)
    yield ClipDenoised(DPMSolver(LEVELS))
    for options in ({}, {"churn": 0.7}, {"schedule_until": 1.0}, {"alpha": 0.4}):
        yield ActualNoise(DATA, steps=12, sigma_max=10.0, **options)
        yield ActualNoise(steps=12, sigma_max=10.0, noise="score", **options)
    for step in ("fixed", "barzilai_borwein", "backtracking"):
        for data in (None, DATA):
            yield GradientAscent(eta=0.02, max_steps=20, sigma_max=10.0, step=step, data=data)
        yield GradientAscent(eta=0.02, max_steps=20, sigma_max=10.0, step=step, project=Box(), tolerance=1e-4)


EVERY = list(samplers())
IDS = [f"{number}-{type(sampler).__name__}" for number, sampler in enumerate(EVERY)]


def network(x, sigma):
    """−F/σ with F bounded, made of sums of each sample alone and of its neighbors' pixels."""
    h = (x - 0.5) * per_image(1 / (row_norm(x - 0.5) / 14 + 0.3), x)
    h = h + 0.1 * torch.sin(h.roll(1, -1)) - 0.05 * h.flip(-2)
    return -h / per_image(sigma, x)


@pytest.mark.parametrize("sampler", EVERY, ids=IDS)
def test_a_sample_depends_on_its_seed_alone(sampler):
    seeds = [5, 6, 7, 8, 9]
    together = sampler.sample(network, (5, *SHAPE), seeds=seeds)
    nfe = sampler.nfe
    parts = ([5, 6, 7], [8], [9])
    apart = torch.cat([sampler.sample(network, (len(part), *SHAPE), seeds=part) for part in parts])
    assert torch.equal(together, apart)
    assert torch.equal(together, sampler.sample(network, (5, *SHAPE), seeds=seeds))
    assert sampler.nfe == nfe


def drawn(seeds):
    torch.set_num_threads(1)
    return [sampler.sample(network, (len(seeds), *SHAPE), seeds=seeds) for sampler in EVERY]


@pytest.mark.distributed
def test_two_processes_draw_what_one_draws():
    # Process r of two draws every second seed, as the Generation callback shares them out.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        parts = list(processes.map(drawn, ([3, 5, 7], [4, 6])))
    for name, whole, even, odd in zip(IDS, drawn([3, 4, 5, 6, 7]), *parts, strict=True):
        assert torch.equal(whole[::2], even), name
        assert torch.equal(whole[1::2], odd), name


@pytest.mark.parametrize("sampler", EVERY, ids=IDS)
def test_every_call_is_counted(sampler):
    calls = []

    def score(x, sigma):
        calls.append(sigma.shape)
        return network(x, sigma)

    trajectory = Trajectory(states=2)
    sampler.sample(score, (2, *SHAPE), seeds=[0, 1], on_step=trajectory)
    assert sampler.nfe == len(calls)
    assert set(calls) == {(2,)}
    if isinstance(sampler, ActualNoise):
        assert sampler.nfe == 12
        assert not trajectory.sigma_star.isnan().any()
    steps = len(trajectory.sigma)
    assert trajectory.sigma.shape == trajectory.size.shape == trajectory.sigma_star.shape == (steps, 2)
    assert trajectory.numbers == list(range(2, steps + 1, 2))
    if steps > 2:
        first, last = trajectory.states[0], trajectory.states[-1]
        rms = (last - 0).flatten(1).square().mean(1).sqrt()
        torch.testing.assert_close(trajectory.size[trajectory.numbers[-1] - 1], rms)
        assert first.shape == last.shape == (2, *SHAPE)


@pytest.mark.parametrize("sampler", EVERY, ids=IDS)
def test_a_score_in_half_precision_stays_near_the_one_in_float32(sampler):
    def half(x, sigma):
        return network(x.bfloat16().float(), sigma).bfloat16()

    full = sampler.sample(network, (4, *SHAPE), seeds=range(4))
    rough = sampler.sample(half, (4, *SHAPE), seeds=range(4))
    assert rough.dtype == torch.float32
    assert rough.isfinite().all()
    if getattr(sampler, "step", "fixed") == "fixed":  # rules that look at differences of scores may part ways
        assert (rough - full).abs().mean() < 0.1 * full.std() + 2**-8
    start = 10 * torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).half()
    assert sampler.sample(half, (2, *SHAPE), start=start, seeds=[0, 1]).dtype == torch.float32


@pytest.mark.parametrize("sampler", EVERY, ids=IDS)
def test_nan_stops_with_step_and_sigma(sampler):
    calls = []

    def breaking(x, sigma):
        calls.append(0)
        return network(x, sigma) * (torch.nan if len(calls) > 1 else 1.0)

    with pytest.raises(UserError, match=r"step \d+, which (ends|begins) at σ = [\d.]+"):
        sampler.sample(breaking, (2, *SHAPE), seeds=[0, 1])


@pytest.mark.parametrize("sampler", EVERY, ids=IDS)
def test_a_score_of_another_shape_is_named(sampler):
    with pytest.raises(UserError, match=r"returned shape \(2, 3, 8\)"):
        sampler.sample(lambda x, sigma: x[..., 0], (2, *SHAPE))


@pytest.mark.parametrize("sampler", EVERY, ids=IDS)
def test_plain_flows_warn_of_a_blind_score(sampler):
    class Model:
        conditioned = False

        def score(self, x, sigma):
            return network(x, sigma)

    plain = isinstance(getattr(sampler, "sampler", sampler), ProbabilityFlow | Heun | DPMSolver)  # clipped ones too
    assert sampler.trusts_schedule == plain  # the probability-flow predictors here have a corrector
    for score in (Model().score, network):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sampler.sample(score, (1, *SHAPE), seeds=[0])
        words = [str(warning.message) for warning in caught]
        assert any("ActualNoise" in word for word in words) == (plain and score is not network)
    assert PredictorCorrector(LEVELS, predictor="probability_flow", corrector_steps=0).trusts_schedule


@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [
        ("DPMSolver", {"sigmas": 5}),
        ("PredictorCorrector", {"sigmas": 5, "predictor": "none", "corrector": "annealed_langevin"}),
        ("ProbabilityFlow", {"sigmas": 5, "method": "rk45", "rtol": 0.05, "atol": 0.05}),
        ("Heun", {"sigmas": 5}),
        ("ActualNoise", {"steps": 5, "noise": "score", "churn": 0.5, "schedule_until": 2.0}),
        ("ActualNoise", {"steps": 5}),
        ("GradientAscent", {"max_steps": 5, "step": "backtracking",
                            "project": {"class_path": "smoothscore.samplers.Box", "init_args": {"low": -0.5}}}),
    ],
)  # fmt: skip
def test_yaml_makes_every_sampler(class_path, init_args):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Sampler, "sampler")
    config = parser.parse_object(
        {"sampler": {"class_path": f"smoothscore.samplers.{class_path}", "init_args": init_args}}
    )
    sampler = parser.instantiate(config).sampler.bind(0.1, 5, DATA)
    x = sampler.sample(network, (2, *SHAPE), seeds=[0, 1])
    assert x.shape == (2, *SHAPE)
    if class_path == "GradientAscent":
        assert x.min() >= -0.5
        assert x.max() <= 1.0
