"""Images of any origin, a folder, a zip, an .npy or .npz file, as one array that need not fit the memory."""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from smoothscore.data.decode import decode_image, picture_size
from smoothscore.data.files import open_tree
from smoothscore.data.folder import image_names
from smoothscore.data.images import ImageSet
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source, map_array
from smoothscore.errors import UserError

_CHANNELS = (1, 3, 4)
_LOW, _HIGH = -0.5, 1.5  # samples of a diffusion model leave [0, 1] a little; [-1, 1] and [0, 255] are something else
_BLOCK = 1 << 25  # values looked at together


@dataclass(frozen=True)
class Images:
    """Images with the names that a reader finds them by.

    Attributes:
        pixels: [n, C, H, W], uint8 or float in [0, 1], memory-mapped where they came from files.
        source: where they came from.
        names: file name of each; None for arrays, whose images are called by their row.
    """

    pixels: Tensor
    source: str
    names: tuple[str, ...] | None = None

    def name(self, row: int) -> str:
        """What a table calls an image."""
        return str(row) if self.names is None else self.names[row]


def open_images(
    path: Path, *, cache_dir: Path, scratch: Path | None = None, resize: int | None = None, skip_bad: bool = False
) -> Images:
    """Open images that any tool may have written, without changing them.

    Args:
        path: a folder or zip of image files; or .npy or .npz with [n, C, H, W] or [n, H, W, C], uint8, or float in
            [0, 1] (up to 0.5 beyond, as unclamped samples have it). An .npz holds one array, or one named `images`.
        cache_dir: where the pixels of image files are packed.
        scratch: folder that an .npz is unpacked into; None is beside the packs.
        resize: bring every image file to its central square of this side; None refuses files of different sizes.
        skip_bad: leave out files that cannot be read, and say how many.

    Returns:
        `Images`.

    Raises:
        UserError: nothing there, no image, files of different sizes or not square (the file is named), an array of
            another shape, type or range, NaN (the row is named).
    """
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        if resize is not None:
            raise UserError(f"{path} is an array, which is taken as it is: resize it yourself, or name image files.")
        return Images(_checked(path, _open_array(path, scratch or cache_dir)), str(path))
    return _open_files(path, cache_dir, resize, skip_bad)


def _open_files(path: Path, cache_dir: Path, resize: int | None, skip_bad: bool) -> Images:
    tree = open_tree(path)
    names = image_names(tree)
    side = resize
    for name in names if resize is None else ():
        try:
            side = max(picture_size(tree.path / name, tree.read(name)))
            break
        except UserError:
            if not skip_bad:
                raise
    if side is None:
        raise UserError(f"None of the {len(names)} image files in {path} can be read: look at {names[0]}.")

    def read(name: str) -> ImageSet:
        content = tree.read(name)
        width, height = picture_size(tree.path / name, content)
        if resize is None and (width, height) != (side, side):
            raise UserError(
                f"{tree.path / name} is {width}×{height}, but {side}×{side} was expected, after the first image; "
                "images are compared pixel by pixel. Bring all to one square size as in training, or give --resize."
            )
        pixels = decode_image(tree.path / name, side, content=content)
        return ImageSet(pixels[None], torch.zeros(1, dtype=torch.int64))

    options = {"resized": int(resize is not None)}
    source = Source("Images", side, tree.stamp(names), {"all": names}, read, options)
    pack = open_pack(source, cache_dir, skip_bad=skip_bad)
    left_out = set(pack.left_out)
    return Images(pack.images.pixels, str(path), tuple(name for name in names if name not in left_out))


def _open_array(path: Path, scratch: Path) -> Tensor:
    try:
        if path.suffix.lower() == ".npz":
            return map_array(_unpack(path, scratch))
        return map_array(path)
    except (OSError, ValueError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path} cannot be read as an array ({error}): write it again with numpy.save.") from error


def _unpack(path: Path, scratch: Path) -> Path:
    """The images of an .npz as an .npy file: an archive cannot be mapped, and need not fit the memory."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        chosen = "images.npy" if "images.npy" in names else names[0] if len(names) == 1 else None
        if chosen is None and "arr_0.npy" in names:
            chosen = "arr_0.npy"
        if chosen is None:
            raise UserError(f"{path} holds {', '.join(sorted(names))}: name the array of images `images`.")
        scratch.mkdir(parents=True, exist_ok=True)
        unpacked = scratch / f"{path.stem}.unpacked.npy"
        with archive.open(chosen) as source, unpacked.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 22)
    return unpacked


def _checked(path: Path, array: Tensor) -> Tensor:
    if array.ndim != 4 or not array.numel():
        raise UserError(f"{path} has shape {list(array.shape)}: give images as [n, C, H, W] or [n, H, W, C].")
    first, last = array.shape[1] in _CHANNELS, array.shape[3] in _CHANNELS
    if first == last:
        raise UserError(
            f"{path} has shape {list(array.shape)}, in which no side or both may be the channels (1 or 3): give images "
            "as [n, C, H, W] or [n, H, W, C]."
        )
    images = array if first else array.permute(0, 3, 1, 2)
    if images.shape[1] == 4:
        raise UserError(f"{path} has four channels: put the images on a background first, as in training.")
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        kind = str(np.dtype(array.numpy().dtype))
        raise UserError(f"{path} holds {kind}: give uint8 from 0 to 255, or floating point from 0 to 1.")
    step = max(1, _BLOCK // images[0].numel())
    for start in range(0, len(images), step):
        rows = images[start : start + step].flatten(1)
        bad = ~((rows >= _LOW) & (rows <= _HIGH)).all(1)  # True for NaN
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            values = rows[row][~rows[row].isnan()]
            span = f"{float(values.min()):.4g} to {float(values.max()):.4g}" if len(values) else "NaN only"
            what = "NaN" if len(values) < rows.shape[1] else f"values from {span}"
            raise UserError(
                f"Row {start + row} of {path} holds {what}, but images lie in [0, 1]: mend it; images in [-1, 1] "
                "become (x + 1)/2, those in [0, 255] uint8."
            )
    return images
