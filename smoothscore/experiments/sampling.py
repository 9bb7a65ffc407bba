"""Sampling with the training set's own score at the actual noise level, which no schedule can overshoot."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from torch import Tensor
from tqdm import tqdm

from smoothscore.samplers.rows import per_image
from smoothscore.score import Conditioned, EmpiricalScore, Posterior, Tempered, Unconditioned

Told = Literal["actual", "scheduled"]


class Visit(NamedTuple):
    """Where a walk stands, and what the score says there."""

    x: Tensor  # [B, *S]
    sigma: Tensor  # [B] σ*, the actual noise level
    posterior: Posterior


def exact_scores(images: Tensor, temperatures: Sequence[float]) -> dict[str, EmpiricalScore]:
    """The conditioned and the unconditioned score, and one for each temperature, by name."""
    scores: dict[str, EmpiricalScore] = {"conditioned": Conditioned(images), "unconditioned": Unconditioned(images)}
    return scores | {f"T = {temperature:g}": Tempered(images, temperature) for temperature in temperatures}


def walk(
    score: EmpiricalScore, x: Tensor, sigmas: Tensor, *, told: Told = "actual", progress: str | None = None
) -> Iterator[Visit]:
    """Follow the probability flow at the actual noise level, one visit per level.

    x ← x + ½ (1 − (σ_{n+1}/σ_n)²) σ*² s(x, σ*),  σ* = ‖x − nearest training image‖/√d

    The step ½(σ_n² − σ_{n+1}²) of the schedule keeps its share of the noise, but of the noise that is there.

    Args:
        score: over all training images.
        x: the start [B, *S], at the highest level.
        sigmas: noise levels [N], ascending.
        told: the level that a conditioned score is told: σ*, or the scheduled σ_n.
        progress: name of the bar, None for no bar.

    Source: arXiv 2601.19285, Sec. A.7 and B.4.1.
    """
    root = score.centers.dim**0.5
    levels = sigmas.double().flip(0).tolist()
    bar = tqdm(levels, desc=progress, unit="step", disable=progress is None)
    for level, after in zip(bar, [*levels[1:], 0.0], strict=True):
        sigma = score.centers.nearest(x).distance[:, 0] / root
        posterior = score.posterior(x, sigma if told == "actual" else level)
        yield Visit(x, sigma, posterior)
        share = (1 - (after / level) ** 2) / 2
        x = x + per_image(share * sigma.square(), x) * posterior.score
