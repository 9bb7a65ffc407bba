"""How far one sampling step drives two points apart where the shells of two images overlap (Eq. 7, Fig. 4)."""

import math
from itertools import cycle, pairwise, product
from typing import Any, Literal

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from smoothscore.data import ImageDataModule
from smoothscore.distances import Centers, decode
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, default_data, new_figure, paper_style
from smoothscore.experiments.checkpoints import batched_score, check_shape, open_checkpoints
from smoothscore.functional import (
    ExpansionPoints,
    expansion_points,
    expansion_prediction,
    expansion_ratio,
    nearest_pairs,
    overlap_sigmas,
    random_pairs,
)
from smoothscore.functional.expansion import Score
from smoothscore.functional.rows import unique_rows
from smoothscore.score import Conditioned, Tempered, Unconditioned

Pairs = Literal["random", "nearest"]
_NETWORKS = ("black", "#56b4e9", "#882255", "#999933")  # colors beside those of the exact scores


def expansion(
    sigmas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0),
    temperatures: tuple[float, ...] = (10.0, 100.0, 1000.0),
    pairs: tuple[Pairs, ...] = ("random", "nearest"),
    *,
    data: ImageDataModule | None = None,
    checkpoints: tuple[str, ...] = (),
    num_pairs: int = 128,
    c: float = 1.01,
    step: float = 1.0,
    seed: int = 0,
) -> Result:
    """How far one step drives two points apart between two images, for exact scores and for networks.

    γ_ex = ‖y' − x'‖/‖y − x‖, x' = x + η σ² s(x, σ), of two points that mirror each other between two images μ0 and
    μ1 at distance L: ‖x − μ1‖ = σ√d, ‖x − μ0‖ = C σ√d. The scores are those of all training images; the prediction

        γ_ex ≈ η L/‖y − x‖ · |1 − 2/(a_w + 1)|

    knows the two alone. Its a_w is exp((C² − 1)d/2) conditioned, C^{d−2} unconditioned, C^{(d−2)/T} at temperature T.

    Args:
        sigmas: noise levels.
        temperatures: T of the smoothed exact scores; the conditioned and the unconditioned one are always there.
        pairs: "random" are the paper's; "nearest", an image and its nearest other, overlap at lower levels too.
        data: the images; those of the first checkpoint by default, without any the emoji at 32×32.
        checkpoints: trained networks to measure beside the exact scores.
        num_pairs: pairs of training images of each kind.
        c: C > 1.
        step: η.
        seed: of pairs and points.

    Raises:
        UserError: a number not above 0, C ≤ 1, nothing to compare, a checkpoint that cannot be opened or takes other
            images, all images equal, or levels at which no pair overlaps.

    Source: arXiv 2601.19285, Sec. 3.2, 5.1.2 and A.5; Eq. (7).
    """
    check_positive(sigmas=sigmas, temperatures=temperatures, num_pairs=num_pairs, step=step)
    if not pairs:
        raise UserError('pairs is empty: give "random", "nearest" or both.')
    opened = open_checkpoints(checkpoints)
    data = next((trained.data for trained in opened.values()), None) if data is None else data
    data = default_data(data, num_train=1000, image_size=32)
    for name, trained in opened.items():
        check_shape(name, trained.module, data.image_shape)
    images = data.train.pixels
    dim = images[0].numel()
    rows = {kind: _draw(images, kind, num_pairs, seed) for kind in pairs}
    lengths = {kind: _length(images, chosen) for kind, chosen in rows.items()}
    ranges = {kind: overlap_sigmas(length, dim, c=c) for kind, length in lengths.items()}
    if not any(bool(((low <= sigma) & (sigma <= high)).any()) for low, high in ranges.values() for sigma in sigmas):
        least, most = (end(float(end(part[side])) for part in ranges.values()) for side, end in ((0, min), (1, max)))
        raise UserError(
            f"No shells overlap at sigmas = {list(sigmas)}: name levels between {least:.3g} and {most:.3g}."
        )

    scores: dict[str, Score] = {"conditioned": Conditioned(images), "unconditioned": Unconditioned(images)}
    scores |= {f"T = {temperature:g}": Tempered(images, temperature) for temperature in temperatures}
    scores |= {f"network {name}": batched_score(trained.module) for name, trained in opened.items()}
    mixtures: dict[str, dict[str, Any]] = {"conditioned": {}, "unconditioned": {"mixture": "unconditioned"}}
    mixtures |= {f"T = {t:g}": {"mixture": "unconditioned", "temperature": t} for t in temperatures}
    table: list[Row] = []
    for kind, sigma in tqdm(list(product(rows, sigmas)), desc="expansion", unit="level"):
        low, high = ranges[kind]
        overlapping = (low <= sigma) & (sigma <= high)
        kept, length = rows[kind][overlapping], lengths[kind][overlapping]
        mu0, mu1 = (decode(images[side]).double() for side in kept.unbind(1))
        shared = {"num_pairs": len(kept), "overlap": len(kept) / len(overlapping), "closest": None}
        if len(kept):
            points = expansion_points(mu0, mu1, sigma, c=c, generator=_generator(seed))
            shared["closest"] = _closest(images, kept, points)
        for name, score in scores.items():
            ratio = predicted = torch.full_like(length, torch.nan)
            if len(kept):
                ratio = expansion_ratio(score, mu0, mu1, sigma, c=c, step=step, generator=_generator(seed)).ratio
            if name in mixtures:
                predicted = expansion_prediction(length, sigma, dim, c=c, step=step, **mixtures[name])
            table.append({"pairs": kind, "score": name, "sigma": sigma, **_statistics(ratio, predicted), **shared})
    blind = {f"network {name}": not trained.module.conditioned for name, trained in opened.items()}
    return Result("expansion", table, _findings(table, blind), _figure(table))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _draw(images: Tensor, kind: Pairs, num_pairs: int, seed: int) -> Tensor:
    """Rows [P, 2] of different images."""
    distinct = unique_rows(images)
    if len(distinct) < 2:
        raise UserError(f"All {len(images)} training images are equal, but a pair needs two: give other data.")
    if kind == "nearest":
        return nearest_pairs(images, min(num_pairs, len(distinct)), generator=_generator(seed))
    return distinct[random_pairs(len(distinct), num_pairs, generator=_generator(seed))]


def _length(images: Tensor, rows: Tensor) -> Tensor:
    mu0, mu1 = (decode(images[side]).double().flatten(1) for side in rows.unbind(1))
    length: Tensor = torch.linalg.vector_norm(mu1 - mu0, dim=1)
    return length


def _closest(images: Tensor, rows: Tensor, points: ExpansionPoints) -> float:
    """The share of pairs that are the two images closest to both points, which the prediction takes for granted."""
    centers = Centers(images)
    found = [centers.nearest(point, k=2).index.sort(1).values for point in (points.x, points.y)]
    own = rows.sort(1).values
    return float(((found[0] == own) & (found[1] == own)).all(1).double().mean())


def _statistics(ratio: Tensor, predicted: Tensor) -> dict[str, float | None]:
    """Over pairs; None where there is none."""

    def listed(values: Tensor) -> list[float | None]:
        values = values[values.isfinite()]
        if not len(values):
            return [None] * 4
        return [float(values.mean()), *values.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()]

    columns = zip(("ratio", "ratio_low", "ratio_median", "ratio_high"), listed(ratio), strict=True)
    return {**dict(columns), "prediction": listed(predicted)[0], "of_prediction": listed(ratio / predicted)[2]}


def _findings(table: list[Row], blind: dict[str, bool]) -> list[Finding]:
    measured = [row for row in table if row["ratio"] is not None]
    names = list(dict.fromkeys(row["score"] for row in table))
    at = {(row["pairs"], row["sigma"], row["score"]): row for row in measured}
    places = list(dict.fromkeys((row["pairs"], row["sigma"]) for row in measured))

    def compared(name: str, other: str, column: str = "ratio") -> list[float]:
        return [at[*place, name][column] / at[*place, other][column] for place in places]

    findings = [_against_prediction(name, measured) for name in names if name not in blind]
    ratios, said = (compared("unconditioned", "conditioned", column) for column in ("ratio", "prediction"))
    found = f"{min(ratios):.4g} to {max(ratios):.4g} times it; Eq. (7) says {min(said):.6g} to {max(said):.6g}"
    findings.append(Finding("unconditioned γ_ex is below conditioned (Sec. 3.2)", found, max(ratios) < 1))
    temperatures = {name: float(name.removeprefix("T = ")) for name in names if name.startswith("T = ")}
    temperatures["unconditioned"] = 1.0
    tempered = sorted(temperatures, key=lambda name: temperatures[name])
    falls = [ratio for name, other in pairwise(tempered) for ratio in compared(other, name)]
    found = f"from each temperature to the next {min(falls):.3g} to {max(falls):.3g} times as much"
    findings.append(Finding("γ_ex falls as the temperature rises (Fig. 4)", found, max(falls) < 1 + 1e-6))
    rises = []
    for kind in dict.fromkeys(kind for kind, _ in places):
        # only the ends: fewer pairs overlap at lower levels, so that the mean may go either way in between
        levels = [sigma for other, sigma in places if other == kind]
        low, high = min(levels), max(levels)
        rises += [at[kind, low, name]["ratio"] / at[kind, high, name]["ratio"] for name in names if low < high]
    if rises:
        found = f"from the largest to the smallest level {min(rises):.3g} to {max(rises):.3g} times as much"
        findings.append(Finding("γ_ex rises as the noise level falls (Fig. 4)", found, min(rises) > 1))
    for name, told_nothing in blind.items():
        exact = "unconditioned" if told_nothing else "conditioned"
        ratios = compared(name, exact)
        above = [sigma for (_, sigma), ratio in zip(places, ratios, strict=True) if ratio >= 0.5]
        found = f"{min(ratios):.3g} to {max(ratios):.3g} times it"
        found += f"; below half of it at all levels under σ = {min(above):g}" if above else ""
        findings.append(Finding(f"{name}: γ_ex is far below the {exact} exact score's (Fig. 4)", found, not above))
    for kind in dict.fromkeys(row["pairs"] for row in table):
        part = [row for row in table if row["pairs"] == kind and row["score"] == names[0]]
        for column, claim in (("overlap", "with overlapping shells"), ("closest", "closest to their points, of those")):
            shares = [f"{row[column]:.0%} at σ = {row['sigma']:g}" for row in part if row[column] is not None]
            findings.append(Finding(f"share of {kind} pairs {claim}", ", ".join(shares) or "none overlaps"))
    return findings


def _against_prediction(name: str, measured: list[Row]) -> Finding:
    # None where the prediction is 0, at d = 2
    part = [row for row in measured if row["score"] == name and row["of_prediction"] is not None]
    everywhere = [row["of_prediction"] for row in part] or [math.nan]
    supposed = [row["of_prediction"] for row in part if row["closest"] >= 0.9]
    found = f"{min(everywhere):.3g} to {max(everywhere):.3g} times over all levels, median of the pairs"
    if supposed:
        found = f"{min(supposed):.3g} to {max(supposed):.3g} times that; {found}"
    return Finding(
        f"{name}: γ_ex = η L/‖y−x‖·|1 − 2/(a_w+1)| (Eq. 7) where 90% of the pairs are the two closest images",
        found,
        all(abs(value - 1) < 0.1 for value in supposed) if supposed else None,
    )


@paper_style()
def _figure(table: list[Row]) -> Figure:
    kinds = list(dict.fromkeys(row["pairs"] for row in table))
    figure, axes = new_figure(len(kinds) + 1, height=2.8)
    for axis, kind in zip(axes[0], kinds, strict=False):
        _curves(axis, [row for row in table if row["pairs"] == kind])
        axis.set(title=f"{kind} pairs", xlabel="σ")
    axes[0, 0].set_ylabel("$\\gamma_{ex}$, mean")
    for kind, color in zip(kinds, ("0.6", "black"), strict=False):
        part = [row for row in table if row["pairs"] == kind and row["score"] == "conditioned"]
        sigmas = [row["sigma"] for row in part]
        axes[0, -1].plot(sigmas, [row["overlap"] for row in part], "o-", color=color, label=f"{kind}: overlap")
        axes[0, -1].plot(sigmas, [row["closest"] for row in part], "x:", color=color, label=f"{kind}: closest")
    axes[0, -1].set(xscale="log", xlabel="σ", title="share of pairs")
    lines = [*axes[0, 0].get_lines(), *axes[0, -1].get_lines()]
    figure.legend(handles=[line for line in lines if line.get_label()[0] != "_"], loc="outside lower center", ncols=4)
    return figure


def _curves(axis: Axes, part: list[Row]) -> None:
    networks = cycle({"marker": marker, "color": color} for marker, color in zip("s^Dv", _NETWORKS, strict=True))
    for number, name in enumerate(dict.fromkeys(row["score"] for row in part)):
        rows = [row for row in part if row["score"] == name and row["ratio"] is not None]
        style: dict[str, Any] = {"marker": "o", "color": f"C{number}"}
        if name == "conditioned":  # the unconditioned curve lies on it
            style |= {"markersize": 6, "markerfacecolor": "none"}
        if name.startswith("network "):
            style = next(networks)
        sigmas = [row["sigma"] for row in rows]
        axis.plot(sigmas, [row["ratio"] for row in rows], label=name, **style)
        if rows and rows[0]["prediction"] is not None:
            axis.plot(sigmas, [row["prediction"] for row in rows], "--", color=f"C{number}", linewidth=0.8)
    axis.plot([], [], "--", color="0.3", linewidth=0.8, label="Eq. (7)")
    axis.set(xscale="log", yscale="log")
