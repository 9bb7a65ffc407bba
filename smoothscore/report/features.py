"""Features of many images, kept on disk block by block."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from smoothscore.data.resumable import Column, Parts, fill_rows
from smoothscore.neighbors import extract_features, extractor_name
from smoothscore.neighbors.cache import digest_key
from smoothscore.neighbors.digests import digest_module

_BLOCK = 512  # images between two notes of progress


def training_features(
    train: Tensor,
    rows: Tensor,
    extractor: nn.Module,
    *,
    digest: str,
    cache_dir: Path,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features of the different training images, computed once for all audits of a data set.

    Args:
        train: [M, *S].
        rows: int64 [U], the rows that are no repeats.
        extractor: module from images to features.
        digest: of `train`.
        cache_dir: where they are kept.
        device: where they are computed.

    Returns:
        float32 [U, F], memory-mapped.
    """
    key = digest_key({"train": digest, "extractor": digest_module(extractor)})
    folder = cache_dir / f"features-{key[:16]}"
    return fill_features(
        folder, {"train": digest}, len(rows), lambda part: train[rows[part]], extractor, device=device, unit="image"
    )


def fill_features(
    folder: Path,
    parts: Parts,
    total: int,
    images: Callable[[slice], Tensor],
    extractor: nn.Module,
    *,
    device: torch.device | str,
    unit: str,
) -> Tensor:
    """Features [total, F] of images that are fetched block by block; see `fill_rows`.

    Raises:
        UserError: an extractor that returns no features or NaN, or a folder with other work.
    """
    width = extract_features(images(slice(0, 1)), extractor, device=device, progress=False).shape[1]

    def compute(part: slice) -> dict[str, Tensor]:
        return {"features": extract_features(images(part), extractor, device=device, progress=False)}

    filled = fill_rows(
        folder,
        {**parts, "extractor": digest_module(extractor)},
        {"features": Column(torch.float32, (width,))},
        total,
        compute,
        block=_BLOCK,
        progress=f"{unit} features ({extractor_name(extractor)})",
        unit=unit,
    )
    return filled["features"]
