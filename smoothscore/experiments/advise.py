"""What temperature smoothing would do to a data set, and which setting to start from, without training."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from smoothscore.data import ImageDataModule
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, default_data, new_figure, paper_style
from smoothscore.experiments.blends import Blend, blends
from smoothscore.experiments.neighborhoods import Neighborhoods, nearest_images
from smoothscore.functional.rows import unique_rows
from smoothscore.schedules import CollapseTemperature, log_uniform
from smoothscore.score import Conditioned, Unconditioned, effective_number

_COLUMNS = ("kind", "sigma", "score", "k", "numerator", "temperature", "effective_number", "effective_number_low",
            "effective_number_high", "largest_weight", "copied", "moved", "recommended", "row", "other",
            "distance")  # fmt: skip
_FINE_LEVELS = 48  # between sigma_min and σ_collapse, where the weakest is looked for
_BLEND_LEVELS = 6  # among them, at which the blends of n neighbors are looked at
_NAMED_PAIRS = 8  # in the summary; the table has all


def advise(
    ks: tuple[int, ...] = (10, 30, 100),
    numerators: tuple[float, ...] = (1.0, 5.0, 10.0),
    *,
    data: ImageDataModule | None = None,
    sigma_min: float = 0.01,
    sigma_max: float = 50.0,
    num_levels: int = 25,
    num_points: int = 128,
    num_images: int = 5000,
    near: float = 1 / 3,
    least_neighbors: float = 2.0,
    numbers: tuple[float, ...] = (1.05, 1.1, 1.25, 1.5, 2.0, 3.0),
    seed: int = 0,
) -> Result:
    """What one's own data set would do to a model, and the σ_collapse, K, and temperature or n to start from.

    Without training, from noised training images x = μ + σε and the exact scores over all images:

    * σ_collapse is the level below which one image holds more than half of the unconditioned score's weight.
    * K is the smallest of `ks` that is at least twice the number of images that count in that score at σ_collapse.
    * T(σ) = max(c/σ, 1), with the smallest c for which at least `least_neighbors` of the K neighbors count at every
      level from sigma_min to σ_collapse.
    * n, to be set in place of a temperature (`EffectiveNeighbors`), is `least_neighbors`: the same wish, met exactly at
      every level and for every image. For it and for `numbers` the table says how far the means of the neighbors are
      from the image.

    Each is a median over the points; how many count is the effective number exp(−Σ w ln w). docs/advise.md has the
    reasons. Neighbors are those in pixels; images that repeat another are left out.

    Args:
        ks: candidates for K; those that are not below the number of images are left out.
        numerators: further c, for the table.
        data: the images; the emoji at 32×32 by default.
        sigma_min: lowest noise level of the training that is planned.
        sigma_max: highest noise level.
        num_levels: noise levels in the table, equal in log σ.
        num_points: noised images.
        num_images: images whose nearest other image is looked for, among all.
        near: near-duplicates are closer than this times the median distance to the nearest other image.
        least_neighbors: how many neighbors are to count at every level, above 1.
        numbers: further n, for the table; those above K are left out.
        seed: of images and noise.

    Raises:
        UserError: a number out of its range, fewer than two different images, no K below their number, or a
            σ_collapse outside the noise levels.

    Source: arXiv 2601.19285, Eq. (5), (10) and (11).
    """
    check_positive(ks=ks, numerators=numerators, num_points=num_points, num_images=num_images, near=near)
    if not 1 < least_neighbors < min(ks):
        raise UserError(f"least_neighbors is {least_neighbors}: give more than 1 and less than every K in {list(ks)}.")
    if not numbers or not min(numbers) >= 1:
        raise UserError(f"numbers is {list(numbers)}: give numbers of neighbors from 1 on.")
    sigmas = log_uniform(sigma_min, sigma_max, num_levels).tolist()
    pixels = default_data(data, num_train=1000, image_size=32).train.pixels
    kept = unique_rows(pixels)
    ks = tuple(k for k in sorted(set(ks)) if k < len(kept))
    if len(kept) < 2 or not ks:
        raise UserError(f"The data has {len(kept)} different images, too few: give more images, or a smaller K in ks.")
    images = pixels if len(kept) == len(pixels) else pixels[kept]

    scores = {"conditioned": Conditioned(images), "unconditioned": Unconditioned(images)}
    centers = scores["conditioned"].centers
    points = Neighborhoods(centers, num_points, max(ks), seed=seed)
    collapse = {name: points.collapse_level(score, sigma_min, sigma_max, 0.5) for name, score in scores.items()}
    sigma_collapse = collapse["unconditioned"]
    if sigma_collapse is None or collapse["conditioned"] is None:
        raise UserError(
            f"Between sigma_min = {sigma_min:g} and sigma_max = {sigma_max:g} there is no level below which one image "
            "holds half of the weight: widen the range (sigma_min below the closest images, sigma_max above all)."
        )
    edge = scores["unconditioned"].effective_number(points.x(sigma_collapse))
    k = next((k for k in ks if k >= 2 * float(edge.median())), ks[-1])
    fine = log_uniform(sigma_min, sigma_collapse, _FINE_LEVELS).tolist()
    advised = points.least_numerator(fine, k, least_neighbors)

    rows: list[Row] = []
    for sigma in tqdm(sigmas, desc="advise", unit="level"):
        for name, score in scores.items():
            posterior = score.posterior(points.x(sigma), sigma)
            rows.append(_level(sigma, posterior.effective_number, posterior.dominant.weight, score=name))
        for numerator in sorted({*numerators, sigma_collapse, advised}):
            temperature = CollapseTemperature(numerator)(sigma)
            for width in ks:
                weights = points.weights(sigma, temperature, width)
                row = _level(sigma, effective_number(weights), weights.amax(1), score="smoothed", k=width)
                mine = numerator == advised and width == k and sigma <= sigma_collapse
                rows.append({**row, "numerator": numerator, "temperature": temperature, "recommended": mine})
    speaking = sorted({*(n for n in numbers if n <= k), least_neighbors})
    found = blends(points, centers, speaking, fine[:: len(fine) // _BLEND_LEVELS], k)
    rows += [_row(kind="number", sigma=b.sigma, k=k, effective_number=b.number, copied=b.copied, moved=b.moved,
                  recommended=b.number == least_neighbors) for b in found]  # fmt: skip
    distance, pairs = nearest_images(centers, num_images, near, seed)
    limit = near * float(distance.median())
    rows += [_row(kind="pair", row=int(kept[a]), other=int(kept[b]), distance=length) for length, a, b in sorted(pairs)]

    findings = [
        *_on_distances(rows, distance, limit, len(images), len(pixels)),
        *_on_levels(
            points, fine, collapse["conditioned"], sigma_collapse, k, advised, float(edge.median()), least_neighbors
        ),
        _on_numbers(found, least_neighbors, sigma_collapse, k),
        Finding(f"as YAML, beside a network and data: {_yaml(sigma_collapse, k, advised)}", "reasons: docs/advise.md"),
    ]
    arrays = {"nearest_distance": distance.numpy(), "neighbor_distance": points.distance.numpy()}
    figure = _figure(rows, distance, limit, sigma_collapse, k, advised)
    return Result("advise", rows, findings, figure, arrays)


def _on_distances(rows: list[Row], distance: Tensor, limit: float, num_distinct: int, num_all: int) -> list[Finding]:
    quantiles = distance.double().quantile(torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0]).double()).tolist()
    pairs = [f"{row['row']} and {row['other']} at {row['distance']:.3g}" for row in rows if row["kind"] == "pair"]
    more = [f"and {len(pairs) - _NAMED_PAIRS} more in the table"] if len(pairs) > _NAMED_PAIRS else []
    return [
        Finding(
            f"distance of {len(distance)} of {num_distinct} different images to their nearest other image",
            "least {:.3g}, 5% below {:.3g}, median {:.3g}, 95% below {:.3g}, most {:.3g}".format(*quantiles),
        ),
        Finding(
            "images left out since they repeat an earlier one exactly",
            f"{num_all - num_distinct} of {num_all}",
        ),
        Finding(
            f"near-duplicates, pairs of rows closer than {limit:.3g}",
            f"{len(pairs)}: {', '.join([*pairs[:_NAMED_PAIRS], *more])}" if pairs else "none",
        ),
    ]


def _on_levels(
    points: Neighborhoods,
    fine: list[float],
    conditioned: float,
    unconditioned: float,
    k: int,
    advised: float,
    at_edge: float,
    least: float,
) -> list[Finding]:
    paper_level, paper_number = points.weakest(fine, unconditioned, k)
    level, number = points.weakest(fine, advised, k)
    numbers = effective_number(points.weights(level, CollapseTemperature(advised)(level), k))
    fewer = float((numbers < least).double().mean())
    return [
        Finding(
            "the unconditioned score leaves one image with most of the weight at lower levels only (Sec. 3.2)",
            f"below σ = {unconditioned:.4g}, conditioned below σ = {conditioned:.4g}",
            unconditioned < conditioned,
        ),
        Finding(
            f"T = σ_collapse/σ with K = {k} lets {least:g} neighbors count at every level below σ_collapse (Eq. 11)",
            f"σ_collapse = {unconditioned:.3g}: {paper_number:.3g} at σ = {paper_level:.3g}, where they are fewest",
            paper_number >= least,
        ),
        Finding(
            f"recommended: σ_collapse = {unconditioned:.2g}, K = {k}, T = max({advised:.3g}/σ, 1)",
            f"at σ_collapse {at_edge:.3g} images count in the unconditioned score; at σ = {level:.3g}, where the "
            f"neighbors that count are fewest, there are {number:.3g}, and fewer than {least:g} for {fewer:.0%} of the "
            "images",
        ),
    ]


def _on_numbers(found: list[Blend], number: float, sigma_collapse: float, k: int) -> Finding:
    moved = {n: [blend.moved for blend in found if blend.number == n] for n in sorted({b.number for b in found})}
    ranges = ", ".join(f"{min(of):.2f} to {max(of):.2f} for n = {n:g}" for n, of in moved.items())
    rule = f"{{class_path: smoothscore.schedules.EffectiveNeighbors, init_args: {{n: {number:g}}}}}"
    options = f"{{sigma_collapse: {sigma_collapse:.2g}, scale: scheduled, temperature: {rule}}}"
    return Finding(
        f"or n = {number:g} in place of a temperature, with K = {k}: model.init_args {options}",
        f"over the levels the means of the neighbors lie off by {ranges}, of the distance to the nearest other image",
    )


def _yaml(sigma_collapse: float, k: int, numerator: float) -> str:
    temperature = (
        f"{{class_path: smoothscore.schedules.CollapseTemperature, init_args: {{sigma_collapse: {numerator:.3g}}}}}"
    )
    options = f"{{sigma_collapse: {sigma_collapse:.2g}, temperature: {temperature}}}"
    return f"{{data: {{init_args: {{k: {k}}}}}, model: {{class_path: TemperatureSmoothed, init_args: {options}}}}}"


def _row(**values: Any) -> Row:
    return dict.fromkeys(_COLUMNS) | values


def _level(sigma: float, number: Tensor, largest: Tensor, **values: Any) -> Row:
    low, middle, high = number.double().quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist()
    return _row(kind="level", sigma=sigma, effective_number=middle, effective_number_low=low,
                effective_number_high=high, largest_weight=float(largest.median()), **values)  # fmt: skip


@paper_style()
def _figure(rows: list[Row], distance: Tensor, limit: float, sigma_collapse: float, k: int, advised: float) -> Figure:
    figure, axes = new_figure(3)
    histogram, weight, number = axes[0]
    histogram.hist(distance.numpy(), bins=40, color="#56b4e9")
    histogram.axvline(limit, color="#d55e00", linestyle="--", linewidth=0.8, label="near-duplicates")
    histogram.set(xlabel="distance to the nearest other image", ylabel="images")
    histogram.set_ylim(0, 1.2 * histogram.get_ylim()[1])
    histogram.legend(loc="upper right")
    for name, style in (("conditioned", "-"), ("unconditioned", "--")):
        part = [row for row in rows if row["score"] == name]
        weight.plot([row["sigma"] for row in part], [row["largest_weight"] for row in part], style, label=name)
        number.plot([row["sigma"] for row in part], [row["effective_number"] for row in part], style, label=name)
    weight.axhline(0.5, color="0.5", linestyle=":", linewidth=0.8)
    for numerator, color in ((sigma_collapse, "C2"), (advised, "C3")):
        part = [row for row in rows if row["numerator"] == numerator and row["k"] == k]
        part = [row for row in part if row["sigma"] <= sigma_collapse]
        label = f"K = {k}, T = {numerator:.2g}/σ"
        number.plot([row["sigma"] for row in part], [row["effective_number"] for row in part], color=color, label=label)
    for axis in (weight, number):
        axis.axvline(sigma_collapse, color="0.5", linewidth=0.8)
        axis.set(xscale="log", xlabel="σ")
    weight.set_title("largest weight, median")
    number.set(yscale="log", title="effective number, median")
    weight.legend()
    number.legend()
    return figure
