"""Pairs of training images for the expansion ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from smoothscore.distances import nearest
from smoothscore.errors import UserError
from smoothscore.functional.rows import check_rows, unique_rows


def random_pairs(num_images: int, num_pairs: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw pairs of two different rows, uniformly, as in Sec. 5.1.2.

    Args:
        num_images: M ≥ 2.
        num_pairs: P.
        generator: draws the pairs; None is the global generator.

    Returns:
        Row numbers [P, 2], int64, on the generator's device; pairs may repeat, rows of a pair never do.

    Raises:
        UserError: fewer than two images.

    Source: arXiv 2601.19285, Sec. 5.1.2.
    """
    if num_images < 2:
        raise UserError(f"num_images: {num_images}; a pair needs two.")
    device = torch.device("cpu") if generator is None else generator.device
    first = torch.randint(num_images, (num_pairs,), generator=generator, device=device)
    offset = torch.randint(1, num_images, (num_pairs,), generator=generator, device=device)
    return torch.stack([first, (first + offset) % num_images], dim=1)


def nearest_pairs(data: Tensor, num_pairs: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw training images, each with its nearest different training image.

    Their shells overlap down to a much lower σ than those of random pairs: see ``overlap_sigmas``.

    Args:
        data: [M, *S], uint8 (meaning value/255) or floating point; exact duplicates count once.
        num_pairs: P, at most the number of distinct images.
        generator: draws the first image of each pair, without repeats; None is the global generator.

    Returns:
        Row numbers [P, 2], int64, on the device of ``data``.

    Raises:
        UserError: fewer than two distinct images, more pairs than distinct images, or NaN pixels.
    """
    check_rows("data", data)
    rows = unique_rows(data)
    if len(rows) < 2 or num_pairs > len(rows):
        raise UserError(f"data: {len(rows)} distinct image(s), too few for {num_pairs} pairs; ask for fewer pairs.")
    device = torch.device("cpu") if generator is None else generator.device
    drawn = torch.randperm(len(rows), generator=generator, device=device)[:num_pairs].to(data.device)
    found = nearest(data[rows[drawn]], data[rows], k=2).index
    # Rounding may put a close neighbor before the image itself: drop the image by number, not by place.
    other = torch.where(found[:, 0] == drawn, found[:, 1], found[:, 0])
    return torch.stack([rows[drawn], rows[other]], dim=1)
