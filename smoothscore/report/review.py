"""The page on which a person decides: every candidate beside its match, without server, network or other files."""

import json
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor
from tqdm import tqdm

from smoothscore import __version__
from smoothscore.data.samples import write_atomically
from smoothscore.data.sources import Images
from smoothscore.report.decisions import FORMAT
from smoothscore.report.evidence import sample_images
from smoothscore.report.findings import Audit, Pair
from smoothscore.report.pictures import data_uris, side_within

PICTURE_BUDGET = 24_000_000  # bytes of all images: such a page opens in a second or two
_ENCODED = 64  # images encoded at a time, between two steps of the progress bar


def write_review(found: Audit, samples: Images, train: Images, path: Path, *, num_pairs: int = 1000) -> None:
    """Write review.html for the first candidates of an audit.

    Training images are stored once, however many candidates show them; large images shrink until all fit the page.

    Args:
        found: the audit.
        samples: the images it looked at.
        train: likewise.
        path: the file.
        num_pairs: candidates shown.
    """
    pairs = found.pairs[:num_pairs]
    rows = sorted({row for pair in pairs for row in pair.nearest})
    side = _side(train, len(pairs) + len(rows))
    with tqdm(total=len(pairs) + len(rows), desc="review page", unit="image", delay=2) as bar:
        sample_uris: list[str] = []
        train_uris: list[str] = []
        for start in range(0, len(pairs), _ENCODED):
            part = pairs[start : start + _ENCODED]
            sample_uris += data_uris(sample_images(part, samples), side)
            bar.update(len(part))
        for start in range(0, len(rows), _ENCODED):
            chunk = rows[start : start + _ENCODED]
            train_uris += data_uris(train.pixels[torch.tensor(chunk)], side)
            bar.update(len(chunk))
    data = {
        "format": FORMAT,
        "audit": found.key,
        "features": found.extractor,
        "pairs": [_plain(pair, samples, train) for pair in pairs],
        "samples": sample_uris,
        "train": dict(zip(map(str, rows), train_uris, strict=True)),
    }
    environment = Environment(
        loader=PackageLoader("smoothscore", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("review.html").render(
        audit=found,
        shown=len(pairs),
        side=side,
        true_side=train.pixels.shape[-1],
        data=_embedded(data),
        version=__version__,
    )
    write_atomically(path, page.encode())


def _side(train: Images, count: int) -> int:
    step = max(1, len(train.pixels) // 32)
    some: Tensor = train.pixels[::step][:32]
    return side_within(some, max(1, count), PICTURE_BUDGET)


def _plain(pair: Pair, samples: Images, train: Images) -> dict[str, Any]:
    return {
        "sample": pair.sample,
        "name": _title(samples, pair.sample),
        "train": pair.train,
        "score": round(pair.score, 5),
        "distance": round(pair.distance, 6),
        "features": None if pair.feature_ratio is None else round(pair.feature_ratio, 5),
        "flipped": pair.flipped,
        "flagged": pair.flagged,
        "repeats": pair.repeats,
        "nearest": list(pair.nearest),
        "names": [_title(train, row) for row in pair.nearest],
        "distances": [round(value, 6) for value in pair.distances],
    }


def _title(images: Images, row: int) -> str:
    return images.name(row) if images.names else f"row {row}"


def _embedded(data: dict[str, Any]) -> Markup:
    """JSON that cannot end the script element it stands in, whatever a file is called."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))
