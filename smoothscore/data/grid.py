"""Pictures of images beside their nearest training images."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smoothscore.data.samples import write_atomically
from smoothscore.distances import decode, nearest

Picture = np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]


def image_grid(samples: Tensor, train: Tensor, *, columns: int = 16, scale: int | None = None) -> Picture:
    """Samples in rows, each above its nearest training image.

    Args:
        samples: generated images [n, C, H, W].
        train: training images [M, C, H, W].
        columns: pairs in one row.
        scale: factor by which pixels are enlarged; None makes images about 64 wide.

    Returns:
        uint8 [height, width, 3].
    """
    samples, train = samples.cpu(), train.cpu()
    match = decode(train[nearest(samples, train).index[:, 0]])
    scale = scale or max(1, 64 // samples.shape[-1])
    pairs = torch.cat([_framed(decode(samples), scale), _framed(match, scale)], dim=1)  # each [n, h, w, 3]
    columns = min(columns, len(pairs))
    pad = pairs.new_full((-len(pairs) % columns, *pairs.shape[1:]), 255)
    rows = torch.unflatten(torch.cat([pairs, pad]), 0, (-1, columns))
    grid = rows.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    return np.asarray(grid.numpy())


def save_png(picture: Picture, path: Path) -> None:
    """Write a picture, whole or not at all."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def to_bytes(images: Tensor) -> Tensor:
    """Float images in [0, 1], clamped, to uint8 [n, H, W, 3]."""
    rgb = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return (rgb.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def _framed(images: Tensor, scale: int) -> Tensor:
    enlarged = to_bytes(images).repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return torch.nn.functional.pad(enlarged, (0, 0, 1, 1, 1, 1), value=255)


def row_grid(images: Tensor, *, scale: int | None = None) -> Picture:
    """Images [rows, columns, C, H, W] as a grid: uint8 [height, width, 3]."""
    scale = scale or max(1, 64 // images.shape[-1])
    framed = torch.unflatten(_framed(decode(images.flatten(0, 1)), scale), 0, tuple(images.shape[:2]))
    return np.asarray(framed.permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1).numpy())
