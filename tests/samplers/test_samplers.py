"""Samplers against exact Gaussian scores: moments, order, recursions, seeds, counts, errors."""

import math
from itertools import pairwise

import pytest
import torch
from jsonargparse import ArgumentParser

from smoothscore.errors import UserError
from smoothscore.samplers import DPMSolver, Heun, PredictorCorrector, ProbabilityFlow, Sampler, Step
from smoothscore.samplers.predictor_corrector import langevin
from smoothscore.samplers.rows import per_image
from smoothscore.samplers.watch import FiniteWatch
from smoothscore.schedules import log_uniform

MEAN, STD = 0.3, 0.2


def gaussian(x, sigma):
    """Exact score of N(MEAN, STD² I) + σ noise; STD = 0 is a single training image."""
    return (MEAN - x) / (STD**2 + per_image(sigma, x) ** 2)


def point(x, sigma):
    return (MEAN - x) / per_image(sigma, x) ** 2


def every_sampler(sigmas):
    for predictor in ("reverse_diffusion", "ancestral", "euler_maruyama", "probability_flow"):
        for corrector_steps in (0, 1):
            yield PredictorCorrector(sigmas, predictor=predictor, corrector_steps=corrector_steps)
    yield ProbabilityFlow(sigmas)
    yield ProbabilityFlow(sigmas, method="rk45")
    yield PredictorCorrector(sigmas, corrector="annealed_langevin")
    yield PredictorCorrector(sigmas, predictor="none", corrector="annealed_langevin", corrector_steps=10)
    yield Heun(sigmas)
    yield DPMSolver(sigmas)


def name(sampler):
    if not isinstance(sampler, Sampler):
        return None
    return "-".join(str(v) for v in (type(sampler).__name__, *vars(sampler).values()) if isinstance(v, str | int))


LEVELS = log_uniform(0.01, 20, 12)


@pytest.mark.parametrize("sampler", list(every_sampler(log_uniform(0.005, 20, 300))), ids=name)
def test_gaussian_moments(sampler):
    count, dim = 300, 100
    # A finite Langevin step widens the law by 1/(1 − snr²) (and more in few dimensions, where ‖s‖ varies).
    if isinstance(sampler, PredictorCorrector) and sampler.predictor != "none":
        sampler.snr = 0.05
    x = sampler.sample(gaussian, (count, dim), seeds=range(count))
    # What the 300 steps leave of the order of the step itself: ln(4000)/300 = 0.028 of the variance, ×4 for Euler.
    assert (x.mean() - MEAN).abs() < 5 * STD / math.sqrt(count * dim) + 0.02 * MEAN
    centered = x - MEAN
    variance = centered.square().mean() / STD**2
    first_order = not isinstance(sampler, Heun) and getattr(sampler, "method", "") != "rk45"
    assert (variance - 1).abs() < 5 * math.sqrt(2 / (count * dim)) + (0.12 if first_order else 0.01)
    covariance = centered.T @ centered / count
    off = covariance - covariance.diagonal().diag()
    assert off.abs().max() < 6 * variance * STD**2 / math.sqrt(count)


def flow_error(make, count):
    """Distance from the exact flow at σ_min, after `count` steps equal in log σ; the step to σ = 0 is no part of it."""
    start = torch.linspace(-2, 3, 6, dtype=torch.float64).view(1, -1)
    states = []
    sampler = make(log_uniform(0.05, 1, count + 1))
    sampler.sample(gaussian, (1, 6), start=start, on_step=lambda _, step: states.append(step.x))
    exact = MEAN + (start - MEAN) * math.sqrt((STD**2 + 0.05**2) / (STD**2 + 1))
    return (states[-2] - exact).abs().max().item()


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (ProbabilityFlow, 1),
        (lambda s: PredictorCorrector(s, predictor="probability_flow", corrector_steps=0), 1),
        (Heun, 2),
        (DPMSolver, 2),
    ],
    ids=["euler", "pc-flow", "heun", "multistep"],
)
def test_observed_order(make, order):
    errors = [flow_error(make, count) for count in (40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


def test_rk45_keeps_its_tolerance():
    start = torch.linspace(-30, 40, 8, dtype=torch.float64).view(8, 1)
    for tolerance in (1e-3, 1e-5, 1e-7):
        reached = []
        sampler = ProbabilityFlow([0.01, 20.0], method="rk45", rtol=tolerance, atol=tolerance)
        sampler.sample(gaussian, (8, 1), start=start, on_step=lambda _, step, seen=reached: seen.append(step.x))
        exact = MEAN + (start - MEAN) * math.sqrt((STD**2 + 1e-4) / (STD**2 + 400))
        # Local errors of up to `tolerance` of |x| per step add up relative to x, which shrinks a hundredfold.
        assert (reached[-2] - exact).abs().max() < 20 * tolerance


def residuals(sampler, start):
    """Mean square residual after each step, for a single training image."""
    seen = []
    sampler.sample(
        point, start.shape, seeds=range(len(start)), start=start,
        on_step=lambda _, step: seen.append((step.x - MEAN).square().mean().item()),
    )  # fmt: skip
    return seen


def test_flow_step_multiplies_the_residual_by_one_minus_half_beta():
    levels = [1.0, 1.5, 4.0]  # ascending; β = 1 − (σ_{n+1}/σ_n)²
    factors = [1 - (1 - (low / high) ** 2) / 2 for high, low in ((4.0, 1.5), (1.5, 1.0), (1.0, 0.0))]
    start = torch.full((1, 8), MEAN + 1.0, dtype=torch.float64)
    for sampler in (
        ProbabilityFlow(levels),
        PredictorCorrector(levels, predictor="probability_flow", corrector_steps=0),
    ):
        square = 1.0
        for seen, factor in zip(residuals(sampler, start), factors, strict=True):
            square *= factor**2
            assert seen == pytest.approx(square, rel=1e-12)


def test_flow_overshoots_once_beta_exceeds_four():
    # The actual level σ* of a blind score lies below the scheduled one: β = Δ/σ*² may be any number.
    def blind(x, sigma):
        return (MEAN - x) / 0.25  # σ*² = 0.25

    start = torch.full((1, 4), MEAN + 0.5, dtype=torch.float64)
    for high, grows in ((0.9, False), (1.1, True)):  # β = σ²/0.25: 3.24 and 4.84
        x = ProbabilityFlow([high]).sample(blind, (1, 4), start=start)
        assert ((x - MEAN).abs().max() > 0.5) == grows


def test_reverse_diffusion_step_in_expectation():
    # β from the schedule alone when the residual starts at σ_0 per pixel: σ*² ← σ*² ((1 − β)² + β), A.7's 1 − β + β².
    levels = [0.7, 1.0]
    beta = 1 - 0.49
    generator = torch.Generator().manual_seed(0)
    unit = torch.randn(500, 64, dtype=torch.float64, generator=generator)
    start = MEAN + unit / unit.square().mean(1, keepdim=True).sqrt()
    first, last = residuals(PredictorCorrector(levels, corrector_steps=0), start)
    assert first == pytest.approx(1 - beta + beta**2, abs=5 * math.sqrt(2 / 32000) * 1.5)
    assert last == pytest.approx(0, abs=1e-20)  # the last step denoises to the mean, without noise


@pytest.mark.parametrize("sampler", list(every_sampler(LEVELS)), ids=name)
def test_a_sample_depends_on_its_seed_alone(sampler):
    shape = (3, 2, 3)
    together = sampler.sample(gaussian, (5, *shape), seeds=[11, 12, 13, 14, 15])
    again = sampler.sample(gaussian, (5, *shape), seeds=[11, 12, 13, 14, 15])
    assert torch.equal(together, again)
    apart = torch.cat([sampler.sample(gaussian, (len(s), *shape), seeds=s) for s in ([11, 12], [13], [14, 15])])
    assert torch.equal(together, apart)
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_noise_blocks_do_not_show():
    # 40,000 values per sample are drawn one step at a time, 3,000 five steps, 20 sixteen steps at a time.
    for size, count in ((40_000, 4), (3_000, 23), (20, 70)):
        sampler = PredictorCorrector(log_uniform(0.01, 5, count), predictor="ancestral")
        both = sampler.sample(gaussian, (2, size), seeds=[3, 4])
        assert torch.equal(both[1:], sampler.sample(gaussian, (1, size), seeds=[4]))


def test_fresh_seeds_follow_the_global_generator():
    sampler = Heun(LEVELS)
    draws = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        draws.append(sampler.sample(gaussian, (2, 4)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("sampler", "nfe"),
    [
        (PredictorCorrector(LEVELS), 24),
        (PredictorCorrector(LEVELS, corrector_steps=0), 12),
        (PredictorCorrector(LEVELS, corrector_steps=3), 48),
        (ProbabilityFlow(LEVELS), 12),
        (PredictorCorrector(LEVELS, predictor="none", corrector="annealed_langevin", corrector_steps=2), 25),
        (Heun(LEVELS), 23),
        (DPMSolver(LEVELS), 12),
    ],
    ids=name,
)
def test_nfe_counts_calls_on_the_batch(sampler, nfe):
    calls = []

    def score(x, sigma):
        calls.append(tuple(sigma.shape))
        return gaussian(x, sigma)

    for _ in range(2):  # the count starts again with every sample
        sampler.sample(score, (3, 2), seeds=[0, 1, 2])
        assert sampler.nfe == nfe
    assert calls == [(3,)] * (2 * nfe)
    adaptive = ProbabilityFlow(LEVELS, method="rk45")
    calls.clear()
    adaptive.sample(score, (3, 2))
    assert adaptive.nfe == len(calls)


def test_corrector_comes_first_and_keeps_the_signal_to_noise_ratio():
    snr, sigma = 0.16, 2.0
    order = []

    def score(x, level):
        order.append(level[0].item())
        return gaussian(x, level)

    PredictorCorrector([1.0, sigma], corrector_steps=2).sample(score, (1, 8))
    assert order == [2.0, 2.0, 2.0, 1.0, 1.0, 1.0]

    generator = torch.Generator().manual_seed(0)
    x, z, s = (torch.randn(3, 50, dtype=torch.float64, generator=generator) for _ in range(3))
    for row in range(3):
        epsilon = 2 * (snr * z[row].norm() / s[row].norm()) ** 2
        expected = x[row] + epsilon * s[row] + (2 * epsilon).sqrt() * z[row]
        torch.testing.assert_close(langevin(x, s, z, snr)[row], expected)


def test_number_of_levels_is_bound_to_a_range():
    unbound = PredictorCorrector(30, corrector_steps=0)
    with pytest.raises(UserError, match=r"bind\(sigma_min, sigma_max\)"):
        unbound.sample(gaussian, (1, 2))
    bound = unbound.bind(0.01, 20)
    expected = PredictorCorrector(log_uniform(0.01, 20, 30), corrector_steps=0)
    assert torch.equal(bound.sample(gaussian, (1, 4), seeds=[7]), expected.sample(gaussian, (1, 4), seeds=[7]))
    assert unbound._levels is None  # binding leaves the configured sampler as it was
    named = Heun(LEVELS)
    assert named.bind(1, 2) is named


@pytest.mark.parametrize(
    "sigmas",
    ["30", "[0.1, 1, 5]", '{"class_path": "smoothscore.schedules.shell_touch", "init_args": '
     '{"sigma_min": 0.1, "sigma_max": 5, "dim": 48}}'],
)  # fmt: skip
def test_yaml_names_levels_in_three_ways(sigmas):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Sampler, "sampler")
    config = parser.parse_args(["--sampler=smoothscore.samplers.Heun", f"--sampler.sigmas={sigmas}"])
    sampler = parser.instantiate(config).sampler.bind(0.1, 5)
    assert sampler.sample(gaussian, (1, 3)).shape == (1, 3)


def test_a_new_sampler_writes_walk_only():
    class Denoise(Sampler):
        def walk(self, score, x, noise):
            yield Step(x + self.sigma_max**2 * score(x, self.sigma_max), 0.0)

    sampler = Denoise([3.0])
    torch.testing.assert_close(sampler.sample(point, (2, 4), seeds=[0, 1]), torch.full((2, 4), MEAN))
    assert sampler.nfe == 1


def test_nan_stops_with_step_and_sigma():
    def broken(x, sigma):
        return gaussian(x, sigma) / (sigma > 1).view(-1, 1)

    with pytest.raises(UserError, match=r"step 3.*σ = 0\.25"):
        Heun([0.25, 1.0, 2.0, 4.0]).sample(
            lambda x, s: broken(x, s) * float("nan") if s[0] < 0.5 else gaussian(x, s), (2, 3)
        )
    with pytest.raises(UserError, match="finite"):
        ProbabilityFlow(LEVELS, method="rk45").sample(lambda x, s: x * float("nan"), (2, 3))


@pytest.mark.parametrize("every", [1, 4, 100])
def test_the_watch_locates_the_first_bad_step_whenever_it_looks(every):
    def run():
        watch = FiniteWatch(every)
        for number in range(1, 11):
            watch.see(number, float(number), torch.tensor([1.0, float("inf") if number >= 6 else 0.0]))
        watch.settle()

    with pytest.raises(UserError, match=r"step 6, which ends at σ = 6"):
        run()


def test_a_trajectory_is_seen_step_by_step():
    seen = []
    ProbabilityFlow(LEVELS).sample(gaussian, (2, 3), on_step=lambda number, step: seen.append((number, step.sigma)))
    assert [number for number, _ in seen] == list(range(1, 13))
    assert [sigma for _, sigma in seen] == pytest.approx([*LEVELS.flip(0)[1:].tolist(), 0.0])


@pytest.mark.parametrize(
    ("levels", "words"),
    [
        ([1.0, 0.5], "ascend"),
        ([0.5, 0.5], "ascend"),
        ([0.0, 1.0], "must be > 0"),
        ([-1.0, 1.0], "must be > 0"),
        ([1.0, float("nan")], "must be > 0"),
        ([], "at least one"),
        (torch.ones(2, 2), "at least one"),
        (1, "at least 2"),
    ],
)
def test_bad_levels(levels, words):
    with pytest.raises(UserError, match=words):
        Heun(levels)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: PredictorCorrector(LEVELS, predictor="reverse"), "ancestral"),
        (lambda: PredictorCorrector(LEVELS, corrector_steps=-1), "-1"),
        (lambda: PredictorCorrector(LEVELS, snr=0), "snr"),
        (lambda: ProbabilityFlow(LEVELS, method="rk4"), "rk45"),
        (lambda: ProbabilityFlow(LEVELS, rtol=0), "rtol"),
        (lambda: Heun(LEVELS).sample(gaussian, (3, 2), seeds=[1, 2]), "2 seeds were given for a batch of 3"),
        (lambda: Heun(LEVELS).sample(gaussian, (3,)), "batch"),
        (lambda: Heun(LEVELS).sample(gaussian, (0, 2)), "at least 1"),
        (lambda: Heun(LEVELS).sample(lambda x, s: x[:, :1], (3, 2)), r"\(3, 1\)"),
        (lambda: Heun(LEVELS).sample(gaussian, (3, 2), start=torch.zeros(2, 2)), "start"),
    ],
)
def test_bad_arguments(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_thinned_sampler_walks_some_of_its_levels():
    sampler = ProbabilityFlow(log_uniform(0.01, 10, 100))
    thin = sampler.thinned(4)
    assert len(thin.levels) == 5
    assert thin.levels[0] == sampler.levels[0]
    assert thin.levels[-1] == 0
    assert set(thin.levels) <= set(sampler.levels)
    thin.sample(lambda x, sigma: -x, (1, 4), seeds=[0])
    assert thin.nfe == 4
    assert len(sampler.levels) == 101
