"""When one training image takes over a sampling path, for each exact score (Sec. B.4.1, Fig. 15)."""

import math
from itertools import pairwise
from statistics import median_low
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from smoothscore.data import ImageDataModule
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, default_data, new_figure, paper_style
from smoothscore.experiments.sampling import Told, Visit, exact_scores, walk
from smoothscore.schedules import shell_touch

Array = np.ndarray[Any, np.dtype[np.float32]]


def collapse(
    temperatures: tuple[float, ...] = (100.0, 500.0, 1000.0),
    *,
    data: ImageDataModule | None = None,
    sigma_min: float = 0.01,
    sigma_max: float = 50.0,
    threshold: float = 0.9,
    told: Told = "actual",
    num_samples: int = 16,
    num_pictures: int = 10,
    seed: int = 0,
) -> Result:
    """The sampling step at which one training image takes over the score, for each exact score.

    x ← x + ½ (1 − (σ_{n+1}/σ_n)²) σ*² s(x, σ*),  σ* = ‖x − nearest training image‖/√d

    from x = σ_max z over shell-touch levels (116 at d = 3072 on [0.01, 50]). A path has collapsed at the first step,
    counted from 1, whose score has more than `threshold` of its weight on one center. All scores start from the same
    noise. The figure shows the first path, values outside [0, 1] clipped.

    Args:
        temperatures: T of the smoothed scores; the conditioned and the unconditioned one are always there.
        data: the images; the emoji at 32×32 by default.
        sigma_min: lowest level.
        sigma_max: highest level, that of the start.
        threshold: weight of one center above which the path has collapsed.
        told: the level that the conditioned score is told: the actual σ*, or the scheduled σ_n.
        num_samples: paths per score.
        num_pictures: pictures per path in the figure.
        seed: of the noise.

    Raises:
        UserError: a number out of its range, or all images equal.

    Source: arXiv 2601.19285, Sec. B.4.1 and Fig. 15; levels: Sec. A.3.
    """
    check_positive(temperatures=temperatures, num_samples=num_samples, num_pictures=num_pictures, threshold=threshold)
    if not threshold < 1:
        raise UserError(
            f"threshold is {threshold}, but it is a share of the weight: give a number below 1, such as 0.9."
        )
    images = default_data(data, num_train=1000, image_size=32).train.pixels
    sigmas = shell_touch(sigma_min, sigma_max, images[0].numel())
    if bool((images == images[0]).all()):
        raise UserError(f"All {len(images)} training images are equal, so one has all the weight: give other data.")
    noise = torch.randn((num_samples, *images.shape[1:]), generator=torch.Generator().manual_seed(seed))
    shown = sorted({round(step) for step in np.linspace(0, len(sigmas) - 1, num_pictures)})
    rows: list[Row] = []
    arrays: dict[str, Array] = {}
    strips: dict[str, list[Tensor]] = {}
    for name, score in exact_scores(images, sorted(set(temperatures))).items():
        path = walk(score, float(sigmas[-1]) * noise, sigmas, told=told, progress=name)
        strips[name], weights, levels = [], [], []
        for step, visit in enumerate(path):
            weights.append(visit.posterior.dominant.weight)
            levels.append(visit.sigma)
            if step in shown:
                strips[name].append(visit.x[0].clamp(0, 1))
        arrays[f"weight_{name}"], arrays[f"sigma_{name}"] = torch.stack(weights).numpy(), torch.stack(levels).numpy()
        temperature = getattr(score, "temperature", None if name == "conditioned" else 1.0)
        rows += _rows(name, temperature, arrays, visit, threshold)
    figure = _figure(arrays, strips, shown, threshold)
    return Result("collapse", rows, _findings(rows, arrays, len(sigmas), threshold), figure, arrays)


def _rows(name: str, temperature: float | None, arrays: dict[str, Array], last: Visit, threshold: float) -> list[Row]:
    rows: list[Row] = []
    for sample, (weight, sigma) in enumerate(zip(arrays[f"weight_{name}"].T, arrays[f"sigma_{name}"].T, strict=True)):
        above = (weight > threshold).nonzero()[0]
        rows.append(
            {
                "score": name,
                "temperature": temperature,
                "sample": sample,
                "collapse_step": int(above[0]) + 1 if len(above) else None,
                "collapse_sigma": float(sigma[above[0]]) if len(above) else None,
                "num_steps": len(weight),
                "largest_weight": float(weight.max()),
                "last_weight": float(weight[-1]),
                "last_sigma": float(sigma[-1]),
                "last_effective_number": float(last.posterior.effective_number[sample]),
                "last_dominant": int(last.posterior.dominant.index[sample]),
            }
        )
    return rows


def _steps(rows: list[Row], name: str) -> list[float]:
    """Collapse steps of a score, infinite where it never collapsed."""
    return [row["collapse_step"] or math.inf for row in rows if row["score"] == name]


def _told(rows: list[Row], name: str) -> str:
    steps = sorted(_steps(rows, name))
    if math.isinf(steps[0]):
        return f"{name} never"
    first, middle, last = ("never" if math.isinf(s) else f"{s:g}" for s in (steps[0], median_low(steps), steps[-1]))
    level = median_low([row["collapse_sigma"] for row in rows if row["score"] == name and row["collapse_sigma"]])
    return f"{name} at step {middle} ({first} to {last}), σ* = {level:.3g}"


def _findings(rows: list[Row], arrays: dict[str, Array], num_steps: int, threshold: float) -> list[Finding]:
    names = list(dict.fromkeys(row["score"] for row in rows))
    findings = []
    for early, late in pairwise(names):
        first, second = _steps(rows, early), _steps(rows, late)
        comparable = not all(map(math.isinf, first))
        pairs = list(zip(first, second, strict=True))
        found = f"of {num_steps} steps, median: {_told(rows, early)}; {_told(rows, late)}"
        if comparable:
            counts = (sum(a < b for a, b in pairs), sum(a == b for a, b in pairs), sum(a > b for a, b in pairs))
            found += "; on the same noise earlier {} times, at the same step {}, later {}".format(*counts)
        claim = f"{early} collapses before {late} (B.4.1, Fig. 15; weight above {threshold:g})"
        findings.append(Finding(claim, found, median_low(first) < median_low(second) if comparable else None))
    for name in names:
        temperature = next(row["temperature"] for row in rows if row["score"] == name)
        if temperature is not None and temperature >= 1000:
            largest = float(arrays[f"weight_{name}"].max())
            findings.append(
                Finding(
                    f"at {name} no center ever takes over (Fig. 15 d)",
                    f"largest weight {largest:.3g} over all steps and samples",
                    all(map(math.isinf, _steps(rows, name))),
                )
            )
    return findings


@paper_style()
def _figure(arrays: dict[str, Array], strips: dict[str, list[Tensor]], shown: list[int], threshold: float) -> Figure:
    columns = len(shown)
    figure, axes = new_figure(columns, len(strips) + 2, height=0.92)
    grid = axes[0, 0].get_gridspec()
    for axis in axes[-2:].flat:
        axis.remove()
    curves = figure.add_subplot(grid[-2:, :])
    for number, (name, strip) in enumerate(strips.items()):
        weight = arrays[f"weight_{name}"]
        for axis, picture, step in zip(axes[number], strip, shown, strict=True):
            draw_image(axis, picture)
            axis.set_xlabel(f"{weight[step, 0]:.2g}" if weight[step, 0] < 0.995 else "1.00", labelpad=1)
            if number == 0:
                axis.set_title(f"step {step + 1}", fontsize=7)
        axes[number, 0].set_ylabel(name, fontsize=7)
        steps = np.arange(1, len(weight) + 1)
        low, middle, high = np.quantile(weight, [0.1, 0.5, 0.9], axis=1)
        style: dict[str, Any] = {"linestyle": "--", "zorder": 3} if name == "unconditioned" else {}
        curves.fill_between(steps, low, high, color=f"C{number}", alpha=0.2, linewidth=0)
        curves.plot(steps, middle, color=f"C{number}", label=name, **style)
    curves.axhline(threshold, color="0.5", linestyle=":", linewidth=0.8)
    curves.set(xlabel="step", ylabel="largest weight", xlim=(1, len(weight)), ylim=(-0.02, 1.02))
    curves.legend(loc="center right")
    return figure


def draw_image(axis: Axes, picture: Tensor) -> None:
    """Show one image [C, H, W] in [0, 1] without ticks, in gray unless it has three channels."""
    channels = picture if len(picture) == 3 else picture[:1].expand(3, -1, -1)
    axis.imshow(channels.permute(1, 2, 0).clamp(0, 1).numpy(), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
