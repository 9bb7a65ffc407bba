"""Sampling paths of each exact score among points of a plane, and images between images (Fig. 1)."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from smoothscore.data import ImageDataModule
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, new_figure, paper_style
from smoothscore.experiments.checkpoints import check_shape, open_checkpoints
from smoothscore.experiments.collapse import draw_image
from smoothscore.experiments.interpolation import Interpolation, interpolate
from smoothscore.experiments.sampling import exact_scores, walk
from smoothscore.functional import random_pairs
from smoothscore.schedules import shell_touch
from smoothscore.score import Conditioned

Array = np.ndarray[Any, np.dtype[np.float32]]
_COLLAPSED = 0.9  # weight of one center
_COPIED = 2 / 3  # d1/d2 below which an image is a copy


def trajectories(
    temperatures: tuple[float, ...] = (100.0, 500.0, 1000.0),
    *,
    checkpoint: str | None = None,
    data: ImageDataModule | None = None,
    num_centers: int = 9,
    dim: int = 3072,
    num_paths: int = 24,
    sigma_min: float = 0.001,
    sigma_max: float = 3.0,
    mix_sigma: float = 1.0,
    pair: tuple[int, int] | None = None,
    seed: int = 0,
) -> Result:
    """Sampling paths of each exact score among the points of a plane, and a network's images between two images.

    The centers lie on an arc of radius 1 in a plane of R^d. In two dimensions alone all weights r^−(d−2) would be equal
    and there would be no thin shells, so the plane is embedded: x starts at σ_max z in all d dimensions, its distance
    from the plane, about σ√d, stands for the noise level, and its projection onto the plane is drawn. The step is that
    of `collapse`, at the actual noise level over shell-touch levels.

    With a checkpoint two of its training images are noised to the level `mix_sigma`, mixed with shares λ from 0 to 1,
    and denoised with its network and with the conditioned exact score, on the same noise.

    Args:
        temperatures: T of the smoothed scores; the conditioned and the unconditioned one are always there.
        checkpoint: a trained network, for images between images.
        data: its training images; the checkpoint's own by default.
        num_centers: points of the arc.
        dim: d of the space around the plane.
        num_paths: paths per score, from the same noise.
        sigma_min: lowest level.
        sigma_max: highest level.
        mix_sigma: level at which the two images are mixed.
        pair: rows of the two images; drawn at random by default.
        seed: of starts, pair and noise.

    Raises:
        UserError: a number out of its range, a checkpoint that cannot be opened or takes other images, data or a pair
            without a checkpoint, a mix_sigma that the network was not trained at, or a pair that is not in the data.

    Source: arXiv 2601.19285, Sec. 1 and Fig. 1.
    """
    check_positive(temperatures=temperatures, num_paths=num_paths, mix_sigma=mix_sigma)
    if num_centers < 2:
        raise UserError(f"num_centers is {num_centers}, but paths run between centers: give at least 2.")
    if dim < 3:
        raise UserError(f"dim is {dim}, but the plane has to lie in a larger space: give 3 or more.")
    sigmas = shell_touch(sigma_min, sigma_max, dim)
    between = None if checkpoint is None else _between(checkpoint, data, mix_sigma, pair, seed)
    if checkpoint is None and (data is not None or pair is not None):
        raise UserError("data and pair are for the images between two images: give a checkpoint too, or neither.")
    centers = torch.zeros(num_centers, dim)
    centers[:, :2] = arc(num_centers)
    noise = torch.randn(num_paths, dim, generator=torch.Generator().manual_seed(seed))
    rows: list[Row] = []
    arrays: dict[str, Array] = {"centers": centers[:, :2].numpy()}
    for name, score in exact_scores(centers, sorted(set(temperatures))).items():
        visits = list(walk(score, float(sigmas[-1]) * noise, sigmas, progress=name))
        arrays[f"path_{name}"] = torch.stack([visit.x[:, :2] for visit in visits]).numpy()
        weight = torch.stack([visit.posterior.dominant.weight for visit in visits]).numpy()
        arrays[f"weight_{name}"] = weight
        temperature = getattr(score, "temperature", None if name == "conditioned" else 1.0)
        last, distance = visits[-1], score.centers.nearest(visits[-1].x).distance[:, 0]
        for path in range(num_paths):
            above = (weight[:, path] > _COLLAPSED).nonzero()[0]
            rows.append(
                _row(
                    kind="path",
                    score=name,
                    temperature=temperature,
                    path=path,
                    collapse_step=int(above[0]) + 1 if len(above) else None,
                    num_steps=len(visits),
                    last_weight=float(weight[-1, path]),
                    last_sigma=float(last.sigma[path]),
                    last_x=float(last.x[path, 0]),
                    last_y=float(last.x[path, 1]),
                    in_plane=float((last.x[path, :2] - centers[:, :2]).norm(dim=1).min()),
                    distance=float(distance[path]),
                )
            )
    findings = _findings(rows, len(sigmas))
    if between is not None:
        for name, found in between.items():
            shares = zip(found.share.tolist(), found.ratio.tolist(), found.nearest.tolist(), strict=True)
            rows += [_row(kind="image", score=name, share=s, ratio=r, nearest=n) for s, r, n in shares]
        findings.append(_on_images(between))
    return Result("trajectories", rows, findings, _figure(arrays, between), arrays)


def arc(num: int) -> Tensor:
    """Points [num, 2] of three quarters of the unit circle, unevenly spaced."""
    place = torch.linspace(0, 1, num)
    angle = 1.5 * math.pi * (place + 0.06 * torch.sin(9 * place)) - math.pi / 4
    return torch.stack([angle.cos(), angle.sin()], 1)


_COLUMNS = ("kind", "score", "temperature", "path", "collapse_step", "num_steps", "last_weight", "last_sigma", "last_x",
            "last_y", "in_plane", "distance", "share", "ratio", "nearest")  # fmt: skip


def _row(**values: Any) -> Row:
    return dict.fromkeys(_COLUMNS) | values


def _between(
    checkpoint: str, data: ImageDataModule | None, sigma: float, pair: tuple[int, int] | None, seed: int
) -> dict[str, Interpolation]:
    ((name, trained),) = open_checkpoints([checkpoint]).items()
    module = trained.module
    if not module.sigma_min < sigma <= module.sigma_max:
        raise UserError(
            f"mix_sigma is {sigma:g}, but checkpoint {name} was trained on {module.sigma_min:g} to "
            f"{module.sigma_max:g}: name a level between."
        )
    images = (trained.data if data is None else data).train.pixels
    check_shape(name, module, tuple(images.shape[1:]))
    if pair is None:
        first, second = random_pairs(len(images), 1, generator=torch.Generator().manual_seed(seed))[0].tolist()
        pair = (first, second)
    if not all(0 <= row < len(images) for row in pair) or bool((images[pair[0]] == images[pair[1]]).all()):
        raise UserError(f"pair is {list(pair)}: give rows of two different images, of 0 to {len(images) - 1}.")
    options: dict[str, Any] = {"sigma": sigma, "sigma_min": module.sigma_min, "seed": seed}
    return {
        f"network {name}": interpolate(module.score, images, pair, **options),
        "exact, conditioned": interpolate(Conditioned(images), images, pair, **options),
    }


def _findings(rows: list[Row], num_steps: int) -> list[Finding]:
    names = list(dict.fromkeys(row["score"] for row in rows))
    paths = {name: [row for row in rows if row["score"] == name] for name in names}
    share = {name: sum(row["last_weight"] > _COLLAPSED for row in part) / len(part) for name, part in paths.items()}
    steps = {name: np.median([row["collapse_step"] or math.inf for row in part]) for name, part in paths.items()}
    away = {name: float(np.median([row["in_plane"] for row in part])) for name, part in paths.items()}

    def listed(values: dict[str, Any], form: str) -> str:
        return ", ".join(f"{value:{form}} {name}" for name, value in values.items()).replace("inf ", "never ")

    hottest = names[-1]
    return [
        Finding(
            "paths of the conditioned score end on a training point (Fig. 1 a)",
            f"share that ends with more than {_COLLAPSED:g} of the weight on one: {listed(share, '.0%')}",
            share["conditioned"] == 1,
        ),
        Finding(
            "the collapse comes later for the unconditioned than for the conditioned score (Fig. 1 c)",
            f"median step of {num_steps}: {listed(steps, 'g')}",
            bool(steps["conditioned"] < steps["unconditioned"]),
        ),
        Finding(
            "the collapse comes the later, the higher the temperature (Fig. 1 d)",
            f"median step of {num_steps}: {listed(steps, 'g')}",
            all(steps[a] < steps[b] or math.isinf(steps[a]) for a, b in pairwise(names[1:])),
        ),
        Finding(
            f"at {hottest} paths end between the training points (Fig. 1 d)",
            f"median distance in the plane to the nearest one: {listed(away, '.3g')}",
            share[hottest] < 0.5 and away[hottest] > 2 * away["conditioned"],
        ),
    ]


def _on_images(between: dict[str, Interpolation]) -> Finding:
    copied = {name: int((found.ratio[1:-1] < _COPIED).sum()) for name, found in between.items()}
    network, exact = copied
    found = ", ".join(f"{count} of {len(between[network].ratio) - 2} {name}" for name, count in copied.items())
    claim = "between two images a network gives images of its own, the exact score copies (Fig. 1 b)"
    return Finding(claim, f"copies, d1/d2 < 2/3: {found}", copied[network] < copied[exact])


@paper_style()
def _figure(arrays: dict[str, Array], between: dict[str, Interpolation] | None) -> Figure:
    names = [key.removeprefix("path_") for key in arrays if key.startswith("path_")]
    figure, axes = new_figure(len(names), 1 if between is None else 2, height=1.75, width=1.5 * max(len(names), 4))
    for axis, name in zip(axes[0], names, strict=True):
        paths, weight = arrays[f"path_{name}"], arrays[f"weight_{name}"]
        for path in range(paths.shape[1]):
            taken = weight[:, path] > _COLLAPSED
            axis.plot(*paths[:, path].T, color="#0072b2", linewidth=0.6)
            axis.plot(*np.where(taken[:, None], paths[:, path], np.nan).T, color="#d55e00", linewidth=0.9)
        axis.plot(*paths[-1].T, "o", color="#009e73", markersize=1.5, zorder=4)
        axis.plot(*arrays["centers"].T, "o", color="black", markersize=3.5, markerfacecolor="white", zorder=3)
        axis.spines[:].set_visible(True)
        axis.set(title=name, xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=[], yticks=[], aspect="equal")
    for color, label in (("#0072b2", "path"), ("#d55e00", f"one weight above {_COLLAPSED:g}")):
        axes[0, 0].plot([], [], color=color, label=label)
    axes[0, 0].plot([], [], "o", color="#009e73", markersize=1.5, label="end")
    axes[0, 0].plot([], [], "o", color="black", markersize=3.5, markerfacecolor="white", label="training point")
    if between is None:
        figure.legend(loc="outside lower center", ncols=4)
        return figure
    figure.legend(loc="outside upper center", ncols=4)
    grid = axes[1, 0].get_gridspec()
    for axis in axes[1]:
        axis.remove()
    inner = grid[1, :].subgridspec(len(between), len(next(iter(between.values())).share))
    for number, (name, found) in enumerate(between.items()):
        for column, picture in enumerate(found.denoised):
            axis = figure.add_subplot(inner[number, column])
            draw_image(axis, picture)
            axis.set_xlabel(f"{found.ratio[column]:.2f}", labelpad=1, fontsize=7)
            if number == 0:
                axis.set_title(f"λ = {found.share[column]:.3g}", fontsize=7)
            if column == 0:
                axis.set_ylabel(name.replace("network ", "network\n").replace("exact, ", "exact,\n"), fontsize=7)
    return figure
