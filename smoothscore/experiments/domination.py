"""How far one noise level, and one center, outweighs the next (Prop. 2, Table 3, Eq. 6)."""

import math

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from smoothscore.data import ImageDataModule
from smoothscore.experiments.base import Finding, Result, Row, check_positive, default_data, new_figure, paper_style
from smoothscore.functional import nearest_pairs
from smoothscore.score import domination_limit, domination_ratio, two_center_log_ratio


def domination(
    alphas: tuple[float, ...] = (1 / 3, 0.4, 0.45),
    dims: tuple[int, ...] = (192, 768, 3072, 12288, 196608, 10**9),
    *,
    data: ImageDataModule | None = None,
    sigmas: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0),
    num_pairs: int = 256,
    seed: int = 0,
) -> Result:
    """The weight of a noise level against the next, and of a noised image's own center against its nearest other.

    Levels (kind = level): at a point α of the way from the shell of σ_i to that of σ_{i+1}, shell-touch levels, the
    ratio of the levels' weights, with and without λ(σ) = σ², tends to exp(18(1−2α)) as d grows.

    Centers (kind = center): at x = μ_j + σε the ratio exp(δ ‖μ_j − μ_l‖²/σ²) of the weights of μ_j and of its nearest
    other image μ_l, over real images.

    Args:
        alphas: where the point lies between the two shells.
        dims: values per image, d = C·H·W; a very large one shows the limit.
        data: images for the centers; the emoji at 32×32 by default.
        sigmas: noise levels for the centers.
        num_pairs: noised images per level.
        seed: of images and noise.

    Raises:
        UserError: a number not above 0, or α outside (0, 1).

    Source: arXiv 2601.19285, Prop. 2 and Table 3; Eq. (6).
    """
    check_positive(alphas=alphas, dims=dims, sigmas=sigmas, num_pairs=num_pairs, beyond_alpha=[1 - a for a in alphas])
    rows = [_level_row(dim, alpha) for alpha in alphas for dim in dims]
    images = default_data(data, num_train=1000, image_size=32).train.pixels
    generator = torch.Generator().manual_seed(seed)
    pairs = nearest_pairs(images, min(num_pairs, len(images)), generator=generator)
    own, other = (images[index].double() / 255 for index in pairs.unbind(1))
    for sigma in tqdm(sigmas, desc="centers", unit="level"):
        noise = torch.randn(own.shape, generator=generator, dtype=own.dtype)
        ratio = two_center_log_ratio(own + sigma * noise, own, other, sigma)
        low, middle, high = torch.quantile(ratio, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
        rows.append(
            {
                "kind": "center",
                "dim": own[0].numel(),
                "alpha": None,
                "sigma": sigma,
                "ratio": math.exp(middle) if middle < 700 else math.inf,
                "unweighted_ratio": None,
                "exact_ratio": None,
                "limit": None,
                "log_ratio_low": low,
                "log_ratio": middle,
                "log_ratio_high": high,
                "dominated": float((ratio > math.log(100)).double().mean()),
            }
        )
    return Result("domination", rows, _findings(rows), _figure(rows, alphas))


def _level_row(dim: int, alpha: float) -> Row:
    ratio = domination_ratio(dim, alpha)
    return {
        "kind": "level",
        "dim": dim,
        "alpha": alpha,
        "sigma": None,
        "ratio": ratio,
        "unweighted_ratio": domination_ratio(dim, alpha, weighted=False),
        "exact_ratio": domination_ratio(dim, alpha, exact=True) if dim > 4 else None,
        "limit": domination_limit(alpha),
        "log_ratio_low": None,
        "log_ratio": math.log(ratio),
        "log_ratio_high": None,
        "dominated": float(ratio > 100),
    }


def _findings(rows: list[Row]) -> list[Finding]:
    levels = [row for row in rows if row["kind"] == "level"]
    centers = [row for row in rows if row["kind"] == "center"]
    last = [row for row in levels if row["dim"] == max(r["dim"] for r in levels)]
    first = [row for row in levels if row["dim"] == min(r["dim"] for r in levels)]

    def listed(some: list[Row]) -> str:
        return ", ".join(f"{row['ratio']:.4g} against {row['limit']:.4g} at α = {row['alpha']:.3g}" for row in some)

    near = all(abs(row["ratio"] / row["limit"] - 1) < 0.01 for row in last)
    shares = ", ".join(f"{row['dominated']:.0%} at σ = {row['sigma']:g}" for row in centers)
    return [
        Finding(f"The ratio tends to exp(18(1−2α)) (Prop. 2; d = {last[0]['dim']})", listed(last), near),
        Finding(
            f"At image sizes the ratio is below its limit (d = {first[0]['dim']})",
            listed(first),
            all(row["ratio"] < row["limit"] for row in first),
        ),
        Finding("One center outweighs its nearest other more than 100 times (Eq. 6), share of noised images", shares),
    ]


@paper_style()
def _figure(rows: list[Row], alphas: tuple[float, ...]) -> Figure:
    figure, axes = new_figure(2)
    levels, centers = axes[0]
    for number, alpha in enumerate(alphas):
        part = [row for row in rows if row["alpha"] == alpha]
        dims = [row["dim"] for row in part]
        color = f"C{number}"
        levels.plot(dims, [row["ratio"] for row in part], "o-", color=color, label=f"α = {alpha:.3g}")
        levels.plot(dims, [row["unweighted_ratio"] for row in part], "x:", color=color)
        levels.axhline(domination_limit(alpha), color=color, linestyle="--", linewidth=0.8)
    levels.set(
        xscale="log", yscale="log", xlabel="d", ylabel="$w_i/w_{i+1}$", title="levels (dashed: limit; dotted: λ = 1)"
    )
    levels.legend()
    part = [row for row in rows if row["kind"] == "center"]
    sigmas = [row["sigma"] for row in part]
    centers.fill_between(sigmas, [r["log_ratio_low"] for r in part], [r["log_ratio_high"] for r in part], alpha=0.3)
    centers.plot(sigmas, [row["log_ratio"] for row in part], "o-", label="median, 10 to 90 %")
    centers.set(
        xscale="log", yscale="log", xlabel="σ", ylabel="$\\ln(w_j/w_l)$", title="own center against its nearest"
    )
    centers.legend()
    return figure
