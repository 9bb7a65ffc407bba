"""Extraction over any number of samples: both stages block by block on disk, and what they find as records."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from smoothscore.data.base import default_cache_dir
from smoothscore.data.resumable import Column, fill_rows
from smoothscore.data.sources import Images
from smoothscore.functional.extraction import check_options, feature_ratio, lowest
from smoothscore.functional.matching import Matcher, Matches, mirrored
from smoothscore.functional.rows import check_same_shape, equal_rows
from smoothscore.neighbors import extractor_name
from smoothscore.neighbors.cache import digest_key
from smoothscore.neighbors.digests import digest_module, digest_tensor
from smoothscore.report.features import fill_features, training_features
from smoothscore.report.findings import Audit, Options, Pair

SHOWN = 5  # nearest training images that are kept of every sample
_SAMPLES = 1024  # between two notes of progress


def audit(
    samples: Images,
    train: Images,
    state: Path,
    *,
    options: Options | None = None,
    extractor: nn.Module | None = None,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
) -> Audit:
    """Find the samples that are most likely copies; see `smoothscore.functional.extract` for the two stages.

    Everything that takes long is kept in `state` block by block, under the digests of what it depends on: a run that
    was killed goes on, and a state of other images or options is refused.

    Args:
        samples: of any model, [n, *S].
        train: what it was trained on, [M, *S].
        state: folder of unfinished work.
        options: of both stages.
        extractor: features of the second stage; None stops after the first.
        device: where features and distances are computed.
        cache_dir: where features of the training images are kept; None is the package's cache.

    Returns:
        An `Audit`.

    Raises:
        UserError: options out of range, images of different shapes, fewer than three different training images, NaN
            (the row is named), or a stale state.
    """
    options = options or Options()
    check_options(quantile=options.quantile, margin=options.margin)
    check_same_shape(samples.source, samples.pixels, train.source, train.pixels.shape[1:])
    digests = {"samples": digest_tensor(samples.pixels), "train": digest_tensor(train.pixels)}
    space = {"extractor": digest_module(extractor)}
    found, rows = _first_stage(samples.pixels, train.pixels, state / "pixels", options, digests, device)
    kept = lowest(found.score, options.quantile).nonzero().flatten()
    ratio = torch.full((len(kept),), math.nan)
    if extractor is not None:
        ratio = _second_stage(
            samples.pixels, train.pixels, rows, found, kept, extractor, state / "features", cache_dir, digests, device
        )
    flagged = ratio < options.margin if extractor is not None else torch.ones(len(kept), dtype=torch.bool)
    settings = {"quantile": options.quantile, "neighbors": options.neighbors, "flips": options.flips,
                "margin": options.margin}  # fmt: skip
    return Audit(
        digest_key({**digests, **space, **{name: str(value) for name, value in settings.items()}}),
        samples.source,
        train.source,
        len(samples.pixels),
        len(train.pixels),
        len(rows),
        None if extractor is None else extractor_name(extractor),
        options,
        tuple(_ordered(_pairs(samples, train, found, kept, ratio, flagged))),
    )


def _first_stage(
    samples: Tensor,
    train: Tensor,
    state: Path,
    options: Options,
    digests: dict[str, str],
    device: torch.device | str,
) -> tuple[Matches, Tensor]:
    """Scores of all samples, and the training rows that are no repeats."""
    matcher = Matcher(train.to(device), neighbors=options.neighbors, flips=options.flips, shown=SHOWN)
    shown = (matcher.shown,)
    columns = {
        "index": Column(torch.int64, shown),
        "distance": Column(torch.float32, shown),
        "score": Column(torch.float32),
        "flipped": Column(torch.bool),
    }
    parts: dict[str, str | int] = {**digests, "neighbors": options.neighbors, "flips": options.flips}

    def compute(rows: slice) -> dict[str, Tensor]:
        return matcher.match(samples[rows].to(device))._asdict()

    filled = fill_rows(
        state, parts, columns, len(samples), compute, block=_SAMPLES, progress="comparing pixels", unit="sample"
    )
    return Matches(**filled), matcher.rows.cpu()


def _second_stage(
    samples: Tensor,
    train: Tensor,
    rows: Tensor,
    found: Matches,
    kept: Tensor,
    extractor: nn.Module,
    state: Path,
    cache_dir: Path | None,
    digests: dict[str, str],
    device: torch.device | str,
) -> Tensor:
    def sample_at(part: slice) -> Tensor:
        images = mirrored(samples[kept[part]], found.flipped[kept[part]])
        return images if images.dtype == torch.uint8 else images.float().clamp(0, 1)

    reference = training_features(
        train, rows, extractor, digest=digests["train"], cache_dir=cache_dir or default_cache_dir(), device=device
    )
    parts = {**digests, "kept": digest_tensor(kept)}
    own = fill_features(state, parts, len(kept), sample_at, extractor, device=device, unit="sample")
    place = torch.searchsorted(rows, found.index[kept, 0])
    return feature_ratio(own.to(device), reference.to(device), place).cpu()


def _pairs(samples: Images, train: Images, found: Matches, kept: Tensor, ratio: Tensor, flagged: Tensor) -> list[Pair]:
    repeats = Counter(equal_rows(train.pixels).tolist())
    pairs = []
    for place, row in enumerate(kept.tolist()):
        nearest = found.index[row].tolist()
        measured = float(ratio[place])
        pairs.append(
            Pair(
                row,
                samples.name(row),
                nearest[0],
                train.name(nearest[0]),
                float(found.score[row]),
                float(found.distance[row, 0]),
                measured if math.isfinite(measured) else None,
                bool(found.flipped[row]),
                bool(flagged[place]),
                repeats[nearest[0]],
                tuple(nearest),
                tuple(found.distance[row].tolist()),
            )
        )
    return pairs


def _ordered(pairs: Sequence[Pair]) -> list[Pair]:
    """Flagged pairs first; of these the most-copied training image foremost; within one, the clearest copy first."""
    copied = Counter(pair.train for pair in pairs if pair.flagged)
    return sorted(pairs, key=lambda pair: (not pair.flagged, -copied[pair.train] * pair.flagged, _clearest(pair)))


def _clearest(pair: Pair) -> tuple[float, ...]:
    # Pairs outside the groups are not kept together by their training image.
    return (pair.train, pair.score) if pair.flagged else (pair.score, pair.train)
