"""One image file of any kind to uint8 RGB pixels."""

import io
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from smoothscore.errors import UserError
from smoothscore.neighbors.npy import load_npy

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".npy"}
_ORIENTATION = 0x0112  # EXIF
_UNREADABLE = (UnidentifiedImageError, OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError)

Array: TypeAlias = npt.NDArray[Any]


def decode_image(path: Path, size: int, *, content: bytes | None = None, crop: int | None = None) -> Tensor:
    """One file to uint8 [3, size, size]: RGB on white, EXIF rotation applied, central square, antialiased bicubic.

    Args:
        path: the file.
        size: side of the result in pixels.
        content: its bytes, where `path` lies in an archive; None reads them from the disk.
        crop: side of the central square that is kept; None keeps the largest.

    Raises:
        UserError: a file that cannot be decoded, that is smaller than `crop`, or that holds NaN or infinite values;
            it is named.
    """
    try:
        file = path if content is None else io.BytesIO(content)
        image = _open_array(path, file) if path.suffix.lower() == ".npy" else Image.open(file)
        image = _to_rgb(path, ImageOps.exif_transpose(image))
        image = image if crop is None else _center(image, crop)
    except _UNREADABLE as error:
        if isinstance(error, UserError):
            raise
        raise unreadable(path, error) from error
    square = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def picture_size(path: Path, content: bytes) -> tuple[int, int]:
    """Width and height of an image file in pixels, as `decode_image` sees it before it crops; nothing is decoded.

    Raises:
        UserError: a file that is no image; it is named.
    """
    try:
        file = io.BytesIO(content)
        if path.suffix.lower() == ".npy":
            return _open_array(path, file).size
        with Image.open(file) as image:
            turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except _UNREADABLE as error:
        if isinstance(error, UserError):
            raise
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    """The error for a file that is no image."""
    return UserError(
        f"{path} cannot be read as an image ({error}): mend or remove it, or set skip_bad to leave such files out."
    )


def shrink(pixels: Tensor, size: int) -> Tensor:
    """uint8 [M, C, H, W] to uint8 [M, C, size, size], by antialiased bicubic interpolation."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    small = interpolate(pixels.float(), size=(size, size), mode="bicubic", antialias=True)
    return small.round().clamp(0, 255).to(torch.uint8)


def _open_array(path: Path, file: Path | io.BytesIO) -> Image.Image:
    """An .npy file: [H, W] or [H, W, 1, 3 or 4]; uint8, or float in [0, 1]."""
    array = load_npy(file)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"its shape is {array.shape}, expected [H, W] or [H, W, 1, 3 or 4]")
    if array.dtype != np.uint8:
        array = _float_to_uint8(path, array)
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "F":
        image = Image.fromarray(_float_to_uint8(path, np.array(image)))
    elif image.mode.startswith("I"):  # 16-bit gray, which Pillow opens as I;16 or I
        image = Image.fromarray((np.array(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _center(image: Image.Image, side: int) -> Image.Image:
    if min(image.size) < side:
        raise ValueError(f"it is {image.width}×{image.height}, expected at least {side}×{side}")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _float_to_uint8(path: Path, array: Array) -> Array:
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise UserError(
            f"{path} holds NaN or infinite values: mend or remove it, or set skip_bad to leave such files out."
        )
    if array.min() < 0 or array.max() > 1:
        raise UserError(
            f"{path} holds values from {array.min():.4g} to {array.max():.4g}, but float images must lie in [0, 1]: "
            "rescale it, or set skip_bad to leave such files out."
        )
    return np.asarray((array * 255).round().astype(np.uint8))
