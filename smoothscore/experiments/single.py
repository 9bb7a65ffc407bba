"""Walks towards a single training image by its own blind score, and the recursions that they follow (Sec. A.7)."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smoothscore.experiments.base import Finding, Row
from smoothscore.samplers import ActualNoise, PredictorCorrector, ProbabilityFlow, Sampler
from smoothscore.samplers.rows import per_image, row_norm, row_rms
from smoothscore.samplers.watch import Score
from smoothscore.score import Unconditioned

Form = Literal["exact", "network"]
_WORDS: dict[Form, str] = {"exact": "with the exact score", "network": "with that of a blind network, −F/σ"}
_CLAIMS = {
    ("SDE",): "the SDE regulates itself and converges",
    ("SDE (PC)", "ODE (PC)"): "predictor-corrector converges",
    ("ancestral, OU",): "ancestral steps with an Ornstein-Uhlenbeck corrector converge",
    ("actual noise, search", "actual noise, score"): "the actual noise level converges",
}
_ARRIVED = 3.0  # of σ_min
_CHANCE = 0.1  # relative, of a root mean square over paths times √paths: five standard deviations from d = 1250 on


class BlindNetwork:
    """What a blind network that has learned a score in full would say: s = −F/σ, with F the unit noise it points from.

    F = −√d s*/‖s*‖, so that σ is only what whoever asks says it is.

    Args:
        exact: a score that is the same at any σ, s*.
    """

    conditioned = False
    ignores_sigma = False

    def __init__(self, exact: Score) -> None:
        self.exact = exact

    def __call__(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """Return s [B, *S] at x [B, *S] and σ, a number or [B]."""
        s = self.exact(x, torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x)))
        length = row_norm(s).clamp_min(torch.finfo(s.dtype).tiny) * sigma
        return s * per_image(x[0].numel() ** 0.5 / length, x)


class Walk(NamedTuple):
    """One sampler from the start to the end, over B paths."""

    form: Form
    sampler: str
    sigma: Tensor | None  # [N + 1] of the schedule, ending in 0; None where there is none
    sigma_star: Tensor  # [N + 1, B], before the first step and after each
    beta: Tensor | None  # [N, B], (σ_n² − σ_{n+1}²)/σ*_n²
    predicted: Tensor | None  # [N], root mean square of σ* expected after each step from σ* before it; last one NaN


def walks_to_one(sigmas: Tensor, dim: int, start_share: float, seed: int, *, paths: int = 16) -> list[Walk]:
    """Follow every sampler from x = μ + start_share σ_max z to one training image μ.

    Its score is s = (μ − x)/σ*², σ* = ‖x − μ‖/√d ("exact", the one of A.7), or that of a blind network, s = −F/σ_n with
    F = (x − μ)/σ* ("network"). Of the exact one's steps σ* is predicted: the flow's multiplies it by |1 − β/2|, the
    SDE's its square by 1 − β + β² in expectation.

    Args:
        sigmas: noise levels [N], ascending.
        dim: d.
        start_share: share of σ_max that is in x.
        seed: of the noise.
        paths: B.
    """
    center = torch.full((1, dim), 0.5)
    noise = torch.randn(paths, dim, generator=torch.Generator().manual_seed(seed))
    # The walks' own generators have other seeds than this one: the same would give the start's noise again.
    start = center + start_share * float(sigmas[-1]) * noise
    levels = torch.cat([sigmas.double().flip(0), torch.zeros(1, dtype=torch.float64)])
    found: list[Walk] = []
    exact = Unconditioned(center)
    scores: dict[Form, Score] = {"exact": exact, "network": BlindNetwork(exact)}
    for form, score in scores.items():
        for name, (sampler, factor) in _samplers(sigmas, center).items():
            star = _stars(sampler, score, start, center, range(seed + 1, seed + 1 + paths))
            beta = predicted = None
            scheduled = not isinstance(sampler, ActualNoise)
            if scheduled:
                beta = -levels.square().diff()[:, None] / star[:-1].square()
            if factor is not None and beta is not None and form == "exact":
                predicted = (star[:-1].square() * factor(beta)).mean(1).sqrt()
                predicted[-1] = torch.nan  # the last step adds no noise
            found.append(Walk(form, name, levels if scheduled else None, star, beta, predicted))
    return found


def _samplers(sigmas: Tensor, center: Tensor) -> dict[str, tuple[Sampler, Callable[[Tensor], Tensor] | None]]:
    """By name, with what a step multiplies σ*² by."""
    steps, top = len(sigmas), float(sigmas[-1])
    flow = PredictorCorrector(sigmas, predictor="probability_flow")
    ou = PredictorCorrector(sigmas, predictor="ancestral", corrector="ornstein_uhlenbeck", snr=0.6)
    return {
        "flow": (ProbabilityFlow(sigmas), lambda beta: (1 - beta / 2) ** 2),
        "SDE": (PredictorCorrector(sigmas, corrector_steps=0), lambda beta: 1 - beta + beta**2),
        "SDE (PC)": (PredictorCorrector(sigmas), None),
        "ODE (PC)": (flow, None),
        "ancestral, OU": (ou, None),
        "actual noise, search": (ActualNoise(center, steps=steps, sigma_max=top), None),
        "actual noise, score": (ActualNoise(steps=steps, sigma_max=top, noise="score"), None),
    }


def _stars(sampler: Sampler, score: Score, start: Tensor, center: Tensor, seeds: range) -> Tensor:
    """σ* [N + 1, B] at the start and after each step."""
    states = [start]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the plain flow with a blind score is what is looked at
        sampler.sample(score, start.shape, seeds, start=start, on_step=lambda _, step: states.append(step.x))
    return torch.stack([row_rms(x.double() - center.double()) for x in states])


def residual_rows(walks: Sequence[Walk]) -> list[Row]:
    """Root mean squares over the paths, one row per step; step 0 is the start."""
    rows: list[Row] = []
    for walk in walks:
        stars = walk.sigma_star.square().mean(1).sqrt().tolist()
        betas = [None] * len(stars) if walk.beta is None else [None, *walk.beta.mean(1).tolist()]
        told = [None] * len(stars) if walk.sigma is None else walk.sigma.tolist()
        known = [None] * len(stars) if walk.predicted is None else [None, *walk.predicted.tolist()]
        rows += [
            {"kind": "residual", "score": walk.form, "sampler": walk.sampler, "step": step, "sigma": sigma,
             "beta": beta, "sigma_star": star, "predicted": None if value is None or math.isnan(value) else value}
            for step, (sigma, beta, star, value) in enumerate(zip(told, betas, stars, known, strict=True))
        ]  # fmt: skip
    return rows


def on_residuals(walks: Sequence[Walk], sigma_min: float) -> list[Finding]:
    """What A.7 predicts of them."""
    by_name = {(walk.form, walk.sampler): walk for walk in walks}
    flow, sde = by_name["exact", "flow"], by_name["exact", "SDE"]
    assert flow.beta is not None
    assert sde.predicted is not None
    grew, beyond = flow.sigma_star[1:] > flow.sigma_star[:-1], flow.beta > 4
    size = sde.sigma_star[1:-1].square().mean(1).sqrt()
    off = float((size / sde.predicted[:-1] - 1).abs().max())
    findings = [
        Finding(
            "a step of the plain flow makes the residual larger just where β > 4 (A.7)",
            f"β > 4 in {int(beyond.sum())} of {beyond.numel()} steps, larger after {int(grew.sum())}, "
            f"the same ones but for {int((grew != beyond).sum())}; largest β {float(flow.beta.max()):.3g}",
            bool((grew == beyond).all()),
        ),
        Finding(
            "a step of the SDE multiplies σ*² by 1 − β + β² in expectation (A.7)",
            f"largest relative difference of σ* {off:.2%}, and chance alone gives "
            f"{_CHANCE / math.sqrt(sde.sigma_star.shape[1]):.2%}",
            off < _CHANCE / math.sqrt(sde.sigma_star.shape[1]),
        ),
    ]
    for form, words in _WORDS.items():
        ends = {
            name: float(walk.sigma_star[-1].square().mean().sqrt())
            for (of, name), walk in by_name.items()
            if of == form
        }
        for names, claim in _CLAIMS.items():
            findings.append(
                Finding(
                    f"{claim}, {words} (A.7)",
                    ", ".join(f"{name} ends at σ* = {ends[name]:.3g}" for name in names),
                    all(ends[name] < _ARRIVED * sigma_min for name in names),
                )
            )
    return findings
