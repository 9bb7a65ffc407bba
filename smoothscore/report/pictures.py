"""Images for a page: small PNGs as data URIs, and samples beside the training images they resemble most."""

import base64
import io
import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from smoothscore.data.grid import to_bytes
from smoothscore.distances import decode, nearest
from smoothscore.functional import MemorizationReport
from smoothscore.report.measure import DataSet, MeasuredRun


@dataclass(frozen=True)
class Picture:
    """One image of the page.

    Attributes:
        source: data URI.
        caption: what stands below it.
        alt: what is read out in its place.
    """

    source: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Pair:
    """A sample with its two nearest training images.

    Attributes:
        ratio: d1/d2.
        grade: "copy" below 1/3, "close" below 2/3, else empty.
        pictures: sample, nearest, second nearest.
    """

    ratio: float
    grade: str
    pictures: tuple[Picture, Picture, Picture]


def grade(ratio: float) -> str:
    """How a sample is framed: "copy" below 1/3, "close" below 2/3, else empty."""
    # float32 thresholds, as in the count: a ratio of exactly 2/3 is not below 2/3
    below_third, below_two_thirds = (ratio < float(torch.tensor(limit)) for limit in (1 / 3, 2 / 3))
    return "copy" if below_third else "close" if below_two_thirds else ""


def side_within(images: Tensor, count: int, budget: int) -> int:
    """Side in pixels at which `count` images like these stay within a budget of bytes."""
    size = images.shape[-1]
    mean = sum(map(len, data_uris(images, size))) / len(images)
    return min(size, max(8, int(size * math.sqrt(budget / (mean * count)))))


def data_uris(images: Tensor, side: int) -> list[str]:
    """Images [n, C, H, W], float in [0, 1] (clamped) or uint8, as PNGs at most `side` wide."""
    images = decode(images).cpu().clamp(0, 1)
    if images.shape[-1] > side:
        images = interpolate(images, (side, side), mode="bicubic", antialias=True)
    uris = []
    for image in to_bytes(images).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
        uris.append("data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())
    return uris


def pixel_pairs(measured: MeasuredRun, count: int, side: int) -> list[Pair]:
    """The samples that are most clearly copies, in pixels, most copied first."""
    data = measured.data
    rows = data.measures.memorization.images.rows.to(data.train.device)
    order = _most_copied(measured.pixels, count)
    found = nearest(measured.run.samples.images[order].to(data.train.device), data.train[rows], k=2)
    return _pairs(measured, measured.pixels, order, found.distance, rows[found.index], side)


def feature_pairs(measured: MeasuredRun, count: int, side: int) -> list[Pair]:
    """The samples that are most clearly copies, in features, most copied first."""
    data = measured.data
    metric = data.measures.feature_memorization
    assert metric is not None
    rows = metric.images.rows.to(data.train.device)
    order = _most_copied(measured.features, count)
    samples = measured.run.samples.images[order].to(data.train.device)
    found = nearest(data.measures.featurize(samples.clamp(0, 1)), data.train_features[rows], k=2)
    return _pairs(measured, measured.features, order, found.distance, rows[found.index], side)


def _most_copied(report: MemorizationReport, count: int) -> Tensor:
    return report.ratio.cpu().argsort(stable=True)[:count]


def _pairs(
    measured: MeasuredRun, report: MemorizationReport, order: Tensor, distance: Tensor, match: Tensor, side: int
) -> list[Pair]:
    data: DataSet = measured.data
    samples = data_uris(measured.run.samples.images[order], side)
    first, second = (data_uris(data.train[rows], side) for rows in match.unbind(1))
    seeds = measured.run.samples.seeds[order].tolist()
    pairs = []
    for place, ratio in enumerate(report.ratio.cpu()[order].tolist()):
        (d1, d2), (row1, row2) = distance[place].tolist(), match[place].tolist()
        pictures = (
            Picture(samples[place], f"seed {seeds[place]}", f"Sample, seed {seeds[place]}"),
            Picture(first[place], f"d₁ {d1:.3g}", f"nearest: training image {row1}, distance {d1:.3g}"),
            Picture(second[place], f"d₂ {d2:.3g}", f"second nearest: training image {row2}, distance {d2:.3g}"),
        )
        pairs.append(Pair(ratio, grade(ratio), pictures))
    return pairs
