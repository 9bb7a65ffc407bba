"""The clusters of duplicates as one self-contained page."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from smoothscore import __version__
from smoothscore.data.samples import write_atomically
from smoothscore.data.sources import Images
from smoothscore.report.duplicates import Duplicates, Repeat
from smoothscore.report.pictures import data_uris, side_within

PICTURE_BUDGET = 12_000_000  # bytes of all images
_MOST = 16  # repeats shown of one cluster


@dataclass(frozen=True)
class ClusterView:
    """A cluster as the page shows it: the image that stays, some repeats with their images, and how many more."""

    keep: str
    source: str
    repeats: list[tuple[Repeat, str]]
    more: int
    size: int


def write_duplicates_page(found: Duplicates, train: Images, path: Path, *, num_clusters: int = 300) -> None:
    """Write the largest clusters, each the image that stays and the repeats that go.

    Args:
        found: what was found.
        train: the images.
        path: the file.
        num_clusters: clusters shown.
    """
    chosen = list(found.clusters.items())[:num_clusters]
    rows = [row for keep, repeats in chosen for row in (keep, *(repeat.row for repeat in repeats[:_MOST]))]
    step = max(1, len(train.pixels) // 32)
    side = side_within(train.pixels[::step][:32], max(1, len(rows)), PICTURE_BUDGET)
    sources = dict(zip(rows, data_uris(train.pixels[torch.tensor(rows)], side) if rows else [], strict=True))
    views = [
        ClusterView(
            train.name(keep),
            sources[keep],
            [(repeat, sources[repeat.row]) for repeat in repeats[:_MOST]],
            max(0, len(repeats) - _MOST),
            len(repeats) + 1,
        )
        for keep, repeats in chosen
    ]
    environment = Environment(
        loader=PackageLoader("smoothscore", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("duplicates.html").render(
        found=found, views=views, side=side, true_side=train.pixels.shape[-1], version=__version__
    )
    write_atomically(path, page.encode())
