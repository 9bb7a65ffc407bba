"""The two-split test: do two models that never saw the same image draw the same images from the same seeds?"""

from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from matplotlib.figure import Figure
from torch import Tensor

from smoothscore.data import ImageDataModule
from smoothscore.data.grid import row_grid
from smoothscore.data.rebuild import build_data
from smoothscore.data.samples import SampleSet
from smoothscore.distances import Centers, decode
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, new_figure, paper_style
from smoothscore.functional import excess_copies
from smoothscore.functional.intervals import wilson_interval
from smoothscore.functional.rows import check_same_shape, unique_rows
from smoothscore.metrics.copies import LEAST_HELD_OUT

_TURNS = 20  # images of other seeds that every image is compared with, at most


class _Half(NamedTuple):
    """What one run left: samples in the order of common seeds, and the images it was trained on."""

    name: str
    samples: Tensor
    train: Tensor
    held_out: Tensor


def split(first: str, second: str, *, num_shown: int = 8) -> Result:
    """Compare the samples of two runs that were trained on disjoint halves of a data set, seed by seed.

    Two models that learned the distribution draw nearly the same image from the same seed, whichever half they saw; two
    that copy draw each from its own half. Train both with `half: first` and `half: second`, as
    configs/experiment/split does, and with the same sampler and seeds.

    Kinds of distance in pixels, each with the number of pairs and its 10, 50 and 90 % quantiles: `same seed` between
    the two images of a seed, `other seeds` between one run's image and those of 20 other seeds, `own training images`
    and `other training images` from a sample to the nearest image of its own run's half and of the other half. The
    findings add how often the image of the same seed is the nearest of all, and each run's excess copies.

    Args:
        first: run folder, as `smoothscore fit` leaves it, with config.yaml and samples.npz.
        second: that of the run on the other half.
        num_shown: seeds in the picture.

    Raises:
        UserError: a folder that is no run, runs that share training images, images of different shapes, or fewer than
            two common seeds.

    Source: Kadkhodaie et al. 2024 (arXiv 2310.02557), Sec. 3.
    """
    check_positive(num_shown=num_shown)
    halves = _common([_open(Path(folder)) for folder in (first, second)])
    one, other = halves
    _check_disjoint(one, other)
    count = len(one.samples)
    matched = Centers(other.samples).nearest(one.samples).index[:, 0] == torch.arange(count)
    same = _apart(one.samples, other.samples)
    rest = [_apart(one.samples, other.samples.roll(turn, 0)) for turn in range(1, min(count, _TURNS + 1))]
    own = [Centers(half.train).nearest(half.samples) for half in halves]
    cross = [Centers(b.train).nearest(a.samples).distance[:, 0] for a, b in ((one, other), (other, one))]
    distances = {
        "same seed": same,
        "other seeds": torch.cat(rest),
        "own training images": torch.cat([found.distance[:, 0] for found in own]),
        "other training images": torch.cat(cross),
    }
    nearer = same < torch.minimum(*(found.distance[:, 0] for found in own))
    matches = [decode(half.train[found.index[:, 0]]) for half, found in zip(halves, own, strict=True)]
    shown = torch.stack([one.samples, other.samples, *matches])[[0, 2, 1, 3], :num_shown]
    return Result(
        "split",
        [_row(kind, values) for kind, values in distances.items()],
        _findings(halves, matched, nearer),
        _figure(distances, shown, halves),
        {f"distance_{kind.replace(' ', '_')}": values.numpy() for kind, values in distances.items()},
    )


def _apart(one: Tensor, other: Tensor) -> Tensor:
    return (one.double() - other.double()).square().flatten(1).sum(1).sqrt().float()


def _open(folder: Path) -> tuple[str, SampleSet, ImageDataModule]:
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"{path} does not exist: name a run folder, as `smoothscore fit` leaves it.")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no readable YAML: restore the file that `fit` wrote.") from error
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise UserError(f"{path} names no data: a run folder holds the whole configuration that `fit` wrote there.")
    return folder.resolve().name, SampleSet.load(folder / "samples.npz"), build_data(config, path)


def _common(runs: list[tuple[str, SampleSet, ImageDataModule]]) -> tuple[_Half, _Half]:
    seeds = [samples.seeds for _, samples, _ in runs]
    common = seeds[0][torch.isin(seeds[0], seeds[1])].sort().values
    if len(common) < 2:
        raise UserError(
            f"{runs[0][0]} and {runs[1][0]} have {len(common)} seeds in common, but at least 2 are compared: draw both "
            "with the same `seed` of the Generation callback."
        )
    shapes = [tuple(samples.images.shape[1:]) for _, samples, _ in runs]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"{runs[0][0]} draws images of shape {shapes[0]}, {runs[1][0]} of {shapes[1]}; take two equal ones."
        )
    for name, samples, data in runs:
        check_same_shape(f"{name}: samples.npz", samples.images, "the images", data.train.pixels.shape[1:])
    halves = []
    for name, samples, data in runs:
        order = samples.seeds.argsort()
        place = order[torch.searchsorted(samples.seeds[order], common)]
        halves.append(_Half(name, samples.images[place], data.train.pixels, data.test.pixels))
    return halves[0], halves[1]


def _check_disjoint(one: _Half, other: _Half) -> None:
    parts = [half.train[unique_rows(half.train)] for half in (one, other)]
    shared = sum(map(len, parts)) - len(unique_rows(torch.cat(parts)))
    if shared:
        raise UserError(
            f"{one.name} and {other.name} share {shared} training images, so that equal samples would mean nothing: "
            "train them with data.init_args.half first and second, and remove duplicates (`smoothscore dedup`)."
        )


def _row(kind: str, values: Tensor) -> Row:
    low, middle, high = values.double().quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
    return {"kind": kind, "pairs": len(values), "low": low, "median": middle, "high": high}


def _findings(halves: tuple[_Half, _Half], matched: Tensor, nearer: Tensor) -> list[Finding]:
    count = len(matched)

    def share(flags: Tensor) -> str:
        low, high = wilson_interval(int(flags.sum()), count)
        return f"{float(flags.double().mean()):.0%} of {count} seeds (95 % interval {low:.0%} to {high:.0%})"

    findings = [
        Finding(
            f"Of all images of {halves[1].name}, that of the same seed is the nearest",
            f"{share(matched)}; by chance {1 / count:.1%}",
        ),
        Finding(
            "Models that learned the distribution: the two images of a seed are nearer to each other than to any "
            "training image, for most seeds",
            share(nearer),
            bool(nearer.double().mean() > 0.5),
        ),
    ]
    for half in halves:
        claim = f"{half.name}, {len(half.train)} training images: copies in excess of held-out images, in pixels"
        if len(half.held_out) < LEAST_HELD_OUT:
            findings.append(Finding(claim, f"takes {LEAST_HELD_OUT} held-out images, there are {len(half.held_out)}"))
            continue
        copies = excess_copies(half.samples, half.train, half.held_out)
        findings.append(
            Finding(
                claim,
                f"{copies.excess:.0%} ({copies.interval[0]:.0%} to {copies.interval[1]:.0%}), "
                f"p = {copies.p_value:.2g}, by labels {copies.label_p_value:.2g}",
            )
        )
    return findings


@paper_style()
def _figure(distances: dict[str, Tensor], shown: Tensor, halves: tuple[_Half, _Half]) -> Figure:
    figure, axes = new_figure(2, width=7.6)
    top = float(max(values.max() for values in distances.values()))
    for kind, values in distances.items():
        axes[0, 0].hist(
            values.numpy(), bins=40, range=(0, top), density=True, histtype="step", label=kind, linewidth=1.4
        )
    axes[0, 0].set(xlabel="distance in pixels", ylabel="density")
    axes[0, 0].legend()
    panel, names = axes[0, 1], [half.name for half in halves]
    picture = row_grid(shown)
    panel.imshow(picture)
    height = len(picture) / 4
    labels = [names[0], "nearest of its half", names[1], "nearest of its half"]
    panel.set_yticks([(row + 0.5) * height for row in range(4)], labels)
    panel.set_xticks([])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    panel.set_title("one column per seed")
    return figure
