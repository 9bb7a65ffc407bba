"""`analyze samplers` against closed forms: the mixture's score and moments, recursions of a lone image; bad input."""

import math

import pytest
import torch

from smoothscore.cli import main
from smoothscore.errors import UserError
from smoothscore.experiments import samplers
from smoothscore.experiments.mixtures import Mixture
from smoothscore.experiments.single import BlindNetwork, on_residuals, walks_to_one
from smoothscore.samplers import PredictorCorrector
from smoothscore.schedules import log_uniform
from smoothscore.score import Conditioned, Unconditioned

SMALL = {
    "halvings": (20, 40, 80),
    "dim": 8,
    "num_samples": 64,
    "num_levels": 40,
    "center_levels": 50,
    "sigma_max": 50.0,
}


def test_the_mixture_has_the_score_of_its_density():
    mixture = Mixture.random(3, 5, 0.3, seed=1)
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for sigma in (0.1, 2.0):
        normal = torch.distributions.MultivariateNormal(mixture.means, (0.09 + sigma**2) * torch.eye(5).double())
        density = (mixture.weights.log() + normal.log_prob(x[:, None])).logsumexp(1)
        (gradient,) = torch.autograd.grad(density.sum(), x)
        torch.testing.assert_close(
            mixture(x.detach(), torch.full((4,), sigma, dtype=torch.float64)), gradient, rtol=1e-9, atol=1e-9
        )


def test_the_mixture_has_the_moments_of_its_draws():
    mixture = Mixture.random(3, 6, 0.05, seed=2)
    mean, covariance, ratio = mixture.errors(mixture.draw(200_000, torch.Generator().manual_seed(0)))
    assert mean < 0.004
    assert covariance < 0.02
    assert ratio == pytest.approx(1, abs=5 * math.sqrt(2 / (6 * 200_000)))
    wide = Mixture(mixture.means, mixture.weights, 0.5)
    assert wide.errors(wide.draw(200_000, torch.Generator().manual_seed(0)))[1] < 0.02
    wider = Mixture(mixture.means, mixture.weights, 0.06).draw(50_000, torch.Generator().manual_seed(0))
    assert mixture.errors(wider)[2] == pytest.approx(1.44, abs=0.02)
    limits = [mixture.sampling_error(count, 60, 0.9, seed=0) for count in (100, 400)]
    for few, many in zip(*limits, strict=True):
        assert few / many == pytest.approx(2, rel=0.3)  # errors of draws fall as 1/√n


def test_a_blind_network_that_knows_everything_says_unit_noise():
    images = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    exact = Unconditioned(images)
    score = BlindNetwork(exact)
    sigma = torch.linspace(0.1, 3, 6)
    noise = -score(x, sigma) * sigma.view(-1, 1, 1, 1)
    torch.testing.assert_close(noise.square().flatten(1).mean(1), torch.ones(6))
    cosine = torch.nn.functional.cosine_similarity(-noise.flatten(1), exact(x).flatten(1))
    torch.testing.assert_close(cosine, torch.ones(6))
    # At a noised image whose score points straight to it, that is the conditioned score at the true level.
    one = Conditioned(images[:1])
    level = (x - images[:1]).square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(BlindNetwork(Unconditioned(images[:1]))(x, level), one(x, level), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def walks():
    sigmas = log_uniform(0.01, 50, 50)
    return sigmas, {(walk.form, walk.sampler): walk for walk in walks_to_one(sigmas, 3072, 0.2, seed=0, paths=4)}


def ratios(sigmas):
    """Δ/σ_n² of each step but the last, from above."""
    levels = sigmas.double().flip(0)
    return 1 - (levels[1:] / levels[:-1]).square()


def test_flow_and_sde_of_the_exact_score_follow_the_recursions(walks):
    sigmas, found = walks
    levels = [*sigmas.double().flip(0).tolist(), 0.0]
    star = found["exact", "flow"].sigma_star
    for step in range(50):
        beta = (levels[step] ** 2 - levels[step + 1] ** 2) / star[step].square()
        # A residual that passes near 0 keeps the float32 rounding of x, about 10⁻⁶ of its size there.
        torch.testing.assert_close(star[step + 1], star[step] * (1 - beta / 2).abs(), rtol=1e-3, atol=2e-4)
    walk = found["exact", "SDE"]
    expected = walk.sigma_star[0].square()
    for step in range(5):
        drop = levels[step] ** 2 - levels[step + 1] ** 2
        star_expected = expected - drop + drop**2 / expected
        expected = walk.sigma_star[step + 1].square()
        # 2 (1 − β) σ* √Δ ⟨r, z⟩/d is what chance adds, √d = 55
        assert float(expected.mean() / star_expected.mean()) == pytest.approx(1, abs=0.04)
    for name, chance in (("flow", 1e-3), ("SDE", 0.05)):  # 0.05: five standard deviations over four paths
        walk = found["exact", name]
        size = walk.sigma_star[1:-1].square().mean(1).sqrt()
        torch.testing.assert_close(walk.predicted[:-1], size, rtol=chance, atol=0)
    large, growth = on_residuals(list(found.values()), 0.01)[:2]
    assert large.held
    assert growth.held


def test_a_blind_network_stays_on_the_schedule_only_with_the_corrector_that_keeps_the_level(walks):
    """e = σ*/σ_n: a Langevin step takes e² to (e − a)² + 2a, a = 2 snr², and an OU step to (e − a)² + 2a − a²."""
    sigmas, found = walks
    levels = sigmas.double().flip(0)
    kept = found["network", "ancestral, OU"].sigma_star[1:50] / levels[1:50, None]
    assert (kept[10:] - 1).abs().max() < 0.1
    drifts = (found["network", "SDE"].sigma_star[:50].square().mean(1).sqrt() / levels).tolist()
    # Reverse diffusion takes e² to ((e − δ)² + δ)/(1 − δ), which is above e² for every e.
    for before, after, delta in zip(drifts[5:-1], drifts[6:], ratios(sigmas).tolist()[5:], strict=True):
        assert after**2 == pytest.approx(((before - delta) ** 2 + delta) / (1 - delta), rel=0.1)
    assert drifts[-1] > 10


@pytest.mark.parametrize("snr", [0.2, 0.6])
def test_the_ou_corrector_keeps_the_noise_of_both_scores(snr):
    """Told σ and blind alike: N(μ, σ²I) stays as it is, where Langevin's widens it to σ²/(1 − snr²) and beyond."""
    center = torch.full((1, 3072), 0.5)
    start = center + 2.0 * torch.randn(8, 3072, generator=torch.Generator().manual_seed(0))
    for score in (Conditioned(center), BlindNetwork(Unconditioned(center))):
        levels = {}
        for corrector in ("ornstein_uhlenbeck", "annealed_langevin"):
            states = []
            sampler = PredictorCorrector(
                [1.9999, 2.0], predictor="none", corrector_steps=40, corrector=corrector, snr=snr
            )
            sampler.sample(
                score, start.shape, range(8), start=start, on_step=lambda _, step, s=states: s.append(step.x)
            )
            levels[corrector] = (states[0] - center).square().mean().sqrt().item() / 2
        assert levels["ornstein_uhlenbeck"] == pytest.approx(1, abs=0.01)
        wide = 1 / math.sqrt(1 - snr**2) if isinstance(score, Conditioned) else 1 + snr**2
        assert levels["annealed_langevin"] == pytest.approx(wide, rel=0.015)


def test_command_finds_the_orders_and_writes_the_figure(tmp_path, capsys):
    options = [f"--{name}={list(value) if isinstance(value, tuple) else value}" for name, value in SMALL.items()]
    main(["analyze", "samplers", *options, "--center_dim", "256", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for line in ("flow, Euler converges with order 1: held", "Heun converges with order 2: held"):
        assert line in printed
    assert "larger just where β > 4 (A.7): held" in printed
    assert (tmp_path / "samplers.png").read_bytes().startswith(b"\x89PNG")


def test_errors_of_the_flow_are_those_against_a_far_finer_one():
    result = samplers(**SMALL | {"center_dim": 16, "halvings": (10, 20)})
    part = {(row["sampler"], row["steps"]): row for row in result.rows if row["kind"] == "order"}
    assert part["Heun", 10]["nfe"] == 20
    assert part["multistep", 20]["nfe"] == 20
    order = math.log2(part["Heun", 10]["error"] / part["Heun", 20]["error"])
    assert part["Heun", 20]["order"] == pytest.approx(order)
    adaptive = [row["error"] for row in result.rows if row["kind"] == "order" and row["sampler"] == "flow, rk45"]
    assert adaptive == sorted(adaptive, reverse=True)


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"halvings": (10,)}, "halvings is \\[10\\]"),
        ({"halvings": (2, 10)}, "halvings is \\[2, 10\\]"),
        ({"std": 0.0}, "std is 0.0"),
        ({"num_levels": 1}, "num_levels is 1"),
        ({"center_dim": 2}, "center_dim is 2"),
        ({"sigma_min": 60.0}, "sigma_min = 60.0 must lie below"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        samplers(**SMALL | options)
