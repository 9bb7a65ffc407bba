"""The Jacobian of the exact score halfway between two images: how far temperature tames it (Sec. A.5, B.2.4)."""

import math
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from smoothscore.data import ImageDataModule
from smoothscore.distances import Centers, decode
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, default_data, new_figure, paper_style
from smoothscore.functional import random_pairs
from smoothscore.functional.rows import unique_rows
from smoothscore.score import Linearization

Array = np.ndarray[Any, np.dtype[np.float64]]
_TITLES = {"random": "random centers", "images": "images as centers"}
_POINTS = 16  # at once: the iteration keeps up to 300 vectors of each


def jacobian(
    temperatures: tuple[float, ...] = (1.0, 10.0, 100.0, 1000.0),
    centers: tuple[Literal["random", "images"], ...] = ("random", "images"),
    *,
    data: ImageDataModule | None = None,
    num_centers: int = 1000,
    num_points: int = 64,
    spread: float = 0.25,
    perturbation: float = 1e-3,
    seed: int = 0,
) -> Result:
    """Spectral radius, dominant eigenvalue and κ of the exact score's Jacobian between two centers, per temperature.

    J = (1/T) Σ_j w_j (g_j − ḡ)(g_j − ḡ)ᵀ − κ I,  g_j = (μ_j − x)/σ*_j²,  κ = Σ_j w_j/σ*_j²

    Points lie on the perpendicular bisector of two random centers, inside [0, 1]^d, and are perturbed a little. The
    conditioned score has one level for all centers, σ* of the nearest one, and T = 1.

    Args:
        temperatures: T of the unconditioned score; the limit T = ∞, where J = −κ I, is always there.
        centers: "random" are uniform in [0, 1]^d, as many as there are images; "images" are those of the data.
        data: the images; the emoji at 32×32 by default.
        num_centers: how many of them, at most.
        num_points: points, each between another two centers.
        spread: how far a point lies from the middle of its pair, as a share of the way, along the bisector, to a
            random point of [0, 1]^d; at most 1.
        perturbation: standard deviation of each value's perturbation, at least 0.
        seed: of centers and points.

    Raises:
        UserError: a number out of its range, no kind of centers, or all images equal.

    Source: arXiv 2601.19285, Sec. A.5 and B.2.4, Tables 4 and 5, Fig. 11.
    """
    check_positive(temperatures=temperatures, num_points=num_points)
    if not all(map(math.isfinite, temperatures)):
        raise UserError(f"temperatures are {list(temperatures)}: give finite ones, the limit T = ∞ is always there.")
    if num_centers < 2:
        raise UserError(f"num_centers is {num_centers}, but a point lies between two: give at least 2.")
    if not centers:
        raise UserError('centers is empty: give "random", "images" or both.')
    if not 0 <= spread <= 1:
        raise UserError(f"spread is {spread}, but it is a share of the way: give 0 to 1.")
    if not 0 <= perturbation < math.inf:
        raise UserError(f"perturbation is {perturbation}, but it must be finite and at least 0.")
    images = default_data(data, num_train=num_centers, image_size=32).train.pixels
    distinct = unique_rows(images)
    if len(distinct) < 2:
        raise UserError(f"All {len(images)} training images are equal, but a point lies between two: give other data.")
    generator = torch.Generator().manual_seed(seed)
    kept = distinct[torch.randperm(len(distinct), generator=generator)[:num_centers]]
    images = decode(images[kept]).double().flatten(1)
    settings = [("conditioned", 1.0), *(("unconditioned", temperature) for temperature in (*temperatures, math.inf))]
    rows: list[Row] = []
    arrays: dict[str, Array] = {}
    with tqdm(total=len(centers) * len(settings) * num_points, desc="jacobian", unit="point") as bar:
        for kind in dict.fromkeys(centers):
            generator.manual_seed(seed)
            values = images if kind == "images" else torch.rand(images.shape, generator=generator, dtype=images.dtype)
            pairs = random_pairs(len(values), num_points, generator=generator)
            x = bisector_points(values, pairs, spread, perturbation, generator)
            closest = (Centers(values).nearest(x, 2).index.sort(1).values == pairs.sort(1).values).all(1)
            for score, temperature in settings:
                sigma: Literal["nearest"] | None = "nearest" if score == "conditioned" else None
                found = []
                for part in torch.split(x, _POINTS):
                    linear = Linearization(part, values, temperature, sigma=sigma)
                    found.append(torch.stack([linear.dominant().value.double(), linear.kappa]))
                    bar.update(len(part))
                eigenvalue, kappa = torch.cat(found, 1)
                rows.append({"centers": kind, "score": score, "temperature": temperature, "dim": x.shape[1],
                             **_statistics(eigenvalue, kappa), "closest": float(closest.double().mean())})  # fmt: skip
                arrays[_key("eigenvalue", rows[-1])] = eigenvalue.numpy()
                arrays[_key("kappa", rows[-1])] = kappa.numpy()
    return Result("jacobian", rows, _findings(rows, arrays), _figure(rows, arrays), arrays)


def bisector_points(
    centers: Tensor, pairs: Tensor, spread: float, perturbation: float, generator: torch.Generator
) -> Tensor:
    """Points [P, d] of equal distance to two rows of `centers` [M, d] each, pairs [P, 2], but for the perturbation."""
    first, second = (centers[side] for side in pairs.unbind(1))
    middle, apart = (first + second) / 2, second - first
    way = torch.rand(middle.shape, generator=generator, dtype=middle.dtype) - middle
    way -= ((way * apart).sum(1) / apart.square().sum(1))[:, None] * apart
    room = torch.where(way == 0, torch.inf, ((way > 0).to(way) - middle) / way)  # as far as the cube's wall
    points = middle + spread * room.amin(1, keepdim=True).clamp(0, 1) * way
    return points + perturbation * torch.randn(points.shape, generator=generator, dtype=points.dtype)


def _statistics(eigenvalue: Tensor, kappa: Tensor) -> dict[str, float]:
    radius = eigenvalue.abs()
    low, middle, high = radius.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
    return {
        "radius": float(radius.mean()),
        "radius_sd": float(radius.std(correction=0)),
        "radius_low": low,
        "radius_median": middle,
        "radius_high": high,
        "eigenvalue": float(eigenvalue.mean()),
        "negative": float((eigenvalue < 0).double().mean()),
        "kappa": float(kappa.mean()),
        "kappa_sd": float(kappa.std(correction=0)),
    }


def _findings(rows: list[Row], arrays: dict[str, Array]) -> list[Finding]:
    findings = []
    for kind in dict.fromkeys(row["centers"] for row in rows):
        told, *rest = (row for row in rows if row["centers"] == kind)
        found = _of_temperatures(sorted(rest, key=lambda row: float(row["temperature"])), arrays)
        for row in rest:
            if row["temperature"] == 1:
                share = row["radius_median"] / told["radius_median"]
                claim = (
                    "conditioned and unconditioned (T = 1) are nearly alike, unconditioned slightly better (Table 4)"
                )
                text = f"median spectral radius {told['radius_median']:.6g} and {row['radius_median']:.6g}"
                found.append(Finding(claim, text, 0.9 < share <= 1))
        share = f"{told['closest']:.0%}"
        found.append(Finding("points whose two closest centers are their own pair", share))
        findings += [Finding(f"{_TITLES[kind]}: {finding.claim}", finding.found, finding.held) for finding in found]
    return findings


def _of_temperatures(rows: list[Row], arrays: dict[str, Array]) -> list[Finding]:
    """What is said of the unconditioned score; rows in order of T."""
    finite = [row for row in rows if math.isfinite(row["temperature"])]
    low = [row["kappa"] for row in finite if row["temperature"] <= 100]
    kappas = [arrays[_key("kappa", row)] for row in rows]
    above = []
    for row, kappa in zip(rows, kappas, strict=True):
        excess = arrays[_key("eigenvalue", row)] / kappa - (row["dim"] / row["temperature"] - 1)
        above.append(float(abs(excess).max() if math.isinf(row["temperature"]) else excess.max()))

    def listed(column: str, form: str = ".4g") -> str:
        return ", ".join(f"{row[column]:{form}} at T = {row['temperature']:g}" for row in rows)

    findings: list[Finding] = []
    for column, name, source in (("radius", "mean", "Table 4"), ("radius_median", "median", "Fig. 11")):
        falls = [
            math.log10(row[column] / other[column]) / math.log10(other["temperature"] / row["temperature"])
            for row, other in pairwise(finite)
        ]
        if falls:
            findings.append(
                Finding(
                    f"the {name} spectral radius falls by about a decade per decade of T ({source})",
                    f"{', '.join(f'{fall:.2f}' for fall in falls)} decades; {listed(column)}",
                    all(0.7 < fall < 1.3 for fall in falls),
                )
            )
    if len(low) > 1:
        findings.append(
            Finding(
                "κ hardly changes up to T = 100 (Table 5)",
                f"mean {listed('kappa')}",
                max(low) < 1.2 * min(low),
            )
        )
    rise = max(float((hotter / colder).max()) for colder, hotter in pairwise(kappas))
    claim = "κ does not rise with T at any point (Sec. A.5)"
    findings.append(Finding(claim, f"{rise:.6g} times at most from one T to the next", rise < 1 + 1e-6))
    claim = "λ_max ≤ (d/T − 1) κ, with J = −κ I at T = ∞ (Sec. A.5)"
    findings.append(Finding(claim, f"λ/κ − (d/T − 1) is {max(above):.2g} at most", max(above) < 1e-4))
    claim = f"at T = {finite[-1]['temperature']:g} most dominant eigenvalues are negative (Sec. B.2.4)"
    findings.append(Finding(claim, f"share {listed('negative', '.0%')}", finite[-1]["negative"] > 0.5))
    return findings


def _key(name: str, row: Row) -> str:
    return f"{name}_{row['centers']}_{row['score']}_{row['temperature']:g}"


@paper_style()
def _figure(rows: list[Row], arrays: dict[str, Array]) -> Figure:
    kinds = list(dict.fromkeys(row["centers"] for row in rows))
    figure, axes = new_figure(len(kinds) + 1)
    for number, kind in enumerate(kinds):
        part = [row for row in rows if row["centers"] == kind]
        labels = ["cond." if row["score"] == "conditioned" else f"{row['temperature']:g}" for row in part]
        labels = ["∞" if label == "inf" else label for label in labels]
        axes[0, number].boxplot(
            [abs(arrays[_key("eigenvalue", row)]) for row in part],
            flierprops={"marker": ".", "markersize": 2},
            medianprops={"color": "#d55e00"},
        )
        axes[0, number].set(yscale="log", title=f"spectral radius, {_TITLES[kind]}")
        places = range(1, len(part) + 1)
        deviation = [row["kappa_sd"] for row in part]
        axes[0, -1].errorbar(places, [row["kappa"] for row in part], deviation, fmt="o-", capsize=2, label=kind)
    for axis in axes[0]:
        axis.set_xticks(range(1, len(labels) + 1), labels)
        axis.set_xlabel("T")
    axes[0, -1].set(title="κ, mean and standard deviation", ylim=(0, None))
    axes[0, -1].legend()
    return figure
