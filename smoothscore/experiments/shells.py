"""Where the mass of a noised image lies (Prop. 1, B.2.1, Figs. 8 to 10)."""

import math

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tqdm import tqdm

from smoothscore.experiments.base import Finding, Result, check_positive, new_figure, paper_style
from smoothscore.score import sample_shell, shell, shell_mass


def shells(
    dims: tuple[int, ...] = (192, 768, 3072, 12288),
    sigmas: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0),
    *,
    num_samples: int = 20_000,
    width: float = 3.0,
    seed: int = 0,
) -> Result:
    """The share of noised images that lie in the shell of their noise level, per dimension and level.

    ‖x − μ‖ for x ~ N(μ, σ²I_d) is close to N(σ√d, σ²/2), so the shell σ√d ± wσ/√2 holds erf(w/√2) of the mass.

    Args:
        dims: values per image, d = C·H·W.
        sigmas: noise levels.
        num_samples: noised images per dimension and level.
        width: w, half the thickness of the shell in standard deviations of the radius.
        seed: of the noise.

    Raises:
        UserError: a number not above 0.

    Source: arXiv 2601.19285, Prop. 1 and Sec. B.2.1.
    """
    check_positive(dims=dims, sigmas=sigmas, num_samples=num_samples, width=width)
    limit = math.erf(width / math.sqrt(2))
    rows, radii = [], {}
    with tqdm(total=len(dims) * len(sigmas), desc="shells", unit="level") as bar:
        for dim in dims:
            for number, sigma in enumerate(sigmas):
                generator = torch.Generator().manual_seed(seed + 1000 * number + dim)
                found = sample_shell(sigma, dim, num_samples, width, generator=generator)
                exact = shell_mass(dim, width)
                deviation = math.sqrt(exact * (1 - exact) / num_samples)
                rows.append(
                    {
                        "dim": dim,
                        "sigma": sigma,
                        "radius": shell(sigma, dim, width).radius,
                        "mean_radius": float(found.radius.mean()),
                        "mass": found.mass,
                        "standard_deviation": found.standard_deviation,
                        "exact_mass": exact,
                        "limit": limit,
                        "deviations": (found.mass - exact) / deviation if deviation else 0.0,
                    }
                )
                radii[dim] = (found.radius / sigma).numpy()
                bar.update()
    worst = max(abs(float(row["deviations"])) for row in rows)
    away = max(abs(float(row["mass"]) - limit) for row in rows)
    # the largest of n standard normal values: 4 standard deviations are passed by chance in 1 of 1000 such tables
    findings = [
        Finding(
            f"The {width:g}σ shell holds {limit:.4f} of the mass at every level (Prop. 1, a limit for large d)",
            f"largest distance from it {away:.4f} over {len(rows)} dimensions and levels",
            away < 0.005,
        ),
        Finding(
            "The share is that of the chi distribution of finite d",
            f"largest distance {worst:.1f} binomial standard deviations",
            worst < 4,
        ),
    ]
    arrays = {f"radius_over_sigma_{dim}": values for dim, values in radii.items()}
    return Result("shells", rows, findings, _figure(radii, width), arrays)


@paper_style()
def _figure(radii: dict[int, np.ndarray], width: float) -> Figure:  # type: ignore[type-arg]
    figure, axes = new_figure(len(radii), height=2.0, width=1.75 * max(len(radii), 2))
    for axis, (dim, radius) in zip(axes[0], radii.items(), strict=True):
        _histogram(axis, radius, dim, width)
    axes[0, 0].set_ylabel("density")
    axes[0, 0].legend(loc="upper left", handlelength=1)
    return figure


def _histogram(axis: Axes, radius: np.ndarray, dim: int, width: float) -> None:  # type: ignore[type-arg]
    inner, middle, outer = shell(1.0, dim, width)
    axis.hist(radius, bins=60, density=True, color="#56b4e9", label="drawn")
    grid = np.linspace(middle - 3.2, middle + 3.2, 300)
    axis.plot(grid, np.exp(-((grid - middle) ** 2)) / math.sqrt(math.pi), color="black", label="N(√d, ½)")
    for edge in (inner, outer):
        axis.axvline(edge, color="#d55e00", linestyle="--", linewidth=0.8)
    axis.set(title=f"d = {dim}", xlabel="‖x − μ‖/σ", yticks=[])
    axis.set_ylim(0, 0.9)
