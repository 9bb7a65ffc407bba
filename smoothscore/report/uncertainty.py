"""How far the figures of a set of samples would move with other samples of the same model."""

from collections.abc import Callable

import torch
from torch import Tensor

from smoothscore.functional import fraction_interval, jackknife_interval, kernel_distance, vendi
from smoothscore.functional.frechet import FrechetReference
from smoothscore.metrics import FeatureMeasures, FrechetDistance, GeneratedImages

_GROUPS = 10  # of the jackknife
_SUBSETS = 20  # of the kernel distance in each of them
_SCORE = 1.96  # 95 % of a normal distribution


def intervals(measures: GeneratedImages, figures: dict[str, float]) -> dict[str, tuple[float, float]]:
    """95 % intervals of the figures that have one, by the name they are logged under.

    Shares of samples or of references have bootstrap intervals, density that of a mean, C_T is a z-score itself;
    Fréchet and kernel distances and the Vendi score are no means over samples, so theirs come from leaving tenths out.

    Args:
        measures: with the samples that were measured.
        figures: what it computed.
    """
    features: FeatureMeasures = measures.features
    samples = features.samples().to(features.references["test"].device)
    suffix = f"_{measures.name}"
    found = _shares(figures, len(samples), len(features.references["test"]), suffix)
    if f"copies/excess{suffix}" in figures:
        found[f"copies/excess{suffix}"] = (
            figures[f"copies/excess_low{suffix}"],
            figures[f"copies/excess_high{suffix}"],
        )
    balls = features.balls
    if f"prdc/density{suffix}" in figures and balls is not None:
        each = balls.hold("samples", samples).balls.double() / balls.k
        margin = _SCORE * float(each.std() / len(each) ** 0.5)
        value = figures[f"prdc/density{suffix}"]
        found[f"prdc/density{suffix}"] = (value - margin, value + margin)
    if f"authenticity/c_t{suffix}" in figures:
        value = figures[f"authenticity/c_t{suffix}"]
        found[f"authenticity/c_t{suffix}"] = (value - _SCORE, value + _SCORE)
    if len(samples) >= 2 * _GROUPS:
        found |= _left_out(measures, figures, samples, suffix)
    return found


def _shares(figures: dict[str, float], samples: int, references: int, suffix: str) -> dict[str, tuple[float, float]]:
    """Figures that are a share of so many, or 100 times one."""
    totals = {"prdc/precision": (samples, 1), "prdc/recall": (references, 1), "prdc/coverage": (references, 1)}
    totals["authenticity/auth_pct"] = (samples, 100)
    found = {}
    for name, (total, scale) in totals.items():
        if name + suffix in figures:
            low, high = fraction_interval(round(figures[name + suffix] / scale * total), total)
            found[name + suffix] = (scale * low, scale * high)
    if "memorization/calibrated" in figures:
        found["memorization/calibrated"] = fraction_interval(
            round(figures["memorization/calibrated"] * samples), samples
        )
    return found


def _left_out(
    measures: GeneratedImages, figures: dict[str, float], samples: Tensor, suffix: str
) -> dict[str, tuple[float, float]]:
    group = torch.arange(len(samples), device=samples.device) % _GROUPS
    rest = [samples[group != number] for number in range(_GROUPS)]

    def interval(name: str, measure: Callable[[Tensor], float]) -> list[float]:
        values = [measure(part) for part in rest]
        found[name + suffix] = jackknife_interval(figures[name + suffix], values)
        return values

    found: dict[str, tuple[float, float]] = {}
    distances = {}
    for side, reference in measures.features.references.items():
        factored = _reference(measures, side)
        distances[side] = interval(f"frechet/{side}", lambda part, own=factored: float(own.distance(part)))  # type: ignore[misc]
        if f"kernel/{side}{suffix}" in figures:
            interval(
                f"kernel/{side}",
                lambda part, own=reference: kernel_distance(own, part, subsets=_SUBSETS).mean,  # type: ignore[misc]
            )
    ratios = [test / train for test, train in zip(distances["test"], distances["train"], strict=True)]
    found[f"frechet/ratio{suffix}"] = jackknife_interval(figures[f"frechet/ratio{suffix}"], ratios)
    if f"diversity/vendi{suffix}" in figures:
        interval("diversity/vendi", vendi)
    return found


def _reference(measures: GeneratedImages, side: str) -> FrechetReference:
    metric = measures.frechet[f"{side}_{measures.name}"]
    assert isinstance(metric, FrechetDistance)
    return metric.reference
