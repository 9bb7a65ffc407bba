"""A folder of image files, classes as subfolders or all in one."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from smoothscore.data.base import ImageDataModule
from smoothscore.data.images import ImageSet, Split, split_rows
from smoothscore.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".npy"}


class ImageFolder(ImageDataModule):
    """Image files under a folder; each subfolder is a class, files directly in it are one class without a name.

    Every image is brought to RGB on white, cropped to its central square and resized. Files are taken in sorted
    order, so rows are stable as long as the folder is.

    Args:
        root: the folder.
        num_train: training images; None is all that are not held out.
        num_test: held-out images; None is a tenth of all.
        split_seed: which images are held out and which are taken.
        skip_bad: leave out files that cannot be read, and say how many, instead of stopping at the first.
        options: those of `ImageDataModule`; `smoothscore fit --data.help=ImageFolder` lists them all.

    Raises:
        UserError: a missing or empty folder, a file that is no readable image or holds NaN (named).
    """

    def __init__(
        self,
        *,
        root: str,
        num_train: int | None = None,
        num_test: int | None = None,
        split_seed: int = 0,
        skip_bad: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root=root, **options)
        self.num_train = num_train
        self.num_test = num_test
        self.split_seed = split_seed
        self.skip_bad = skip_bad

    def read(self) -> Split:
        """List, decode, pack and split the files."""
        images = read_folder(Path(str(self.root)), self.image_size, skip_bad=self.skip_bad)
        num_test = max(2, len(images.pixels) // 10) if self.num_test is None else self.num_test
        if num_test + (self.num_train or 2) > len(images.pixels):
            raise UserError(
                f"{self.root} holds {len(images.pixels)} images, too few for num_train = {self.num_train} and "
                f"num_test = {num_test}: lower one of them."
            )
        return split_rows(images, self.num_train, num_test, self.split_seed)


def read_folder(root: Path, image_size: int, *, skip_bad: bool = False) -> ImageSet:
    """Decode all image files under a folder into one packed set, files in sorted order."""
    if not root.is_dir():
        raise UserError(f"The data folder {root} does not exist: set data.init_args.root to a folder of images.")
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(
            f"The data folder {root} holds no image file ({', '.join(sorted(SUFFIXES))}): expected images in it, or "
            "one subfolder of images per class."
        )
    kept, pixels, bad = [], [], []
    for path in tqdm(paths, desc="decoding images", unit="image", disable=len(paths) < 2000):
        try:
            pixels.append(decode_image(path, image_size))
            kept.append(path)
        except UserError:
            if not skip_bad:
                raise
            bad.append(path)
    if bad:
        tqdm.write(f"{len(bad)} of {len(paths)} files left out as unreadable, the first of them {bad[0]}")
    if not kept:
        raise UserError(f"None of the {len(paths)} image files in {root} can be read, the first of them {paths[0]}.")
    classes = sorted({_class_name(root, path) for path in kept})
    labels = torch.tensor([classes.index(_class_name(root, path)) for path in kept])
    return ImageSet(torch.stack(pixels), labels, tuple(classes))


def decode_image(path: Path, size: int) -> Tensor:
    """One file to uint8 [3, size, size]: RGB on white, EXIF rotation applied, central square, antialiased bicubic.

    Raises:
        UserError: a file that cannot be decoded, or that holds NaN or infinite values; it is named.
    """
    try:
        image = _open_array(path) if path.suffix.lower() == ".npy" else Image.open(path)
        image = _to_rgb(path, ImageOps.exif_transpose(image))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{path} cannot be read as an image ({error}): mend or remove it, or set skip_bad to leave such files out."
        ) from error
    square = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


def _class_name(root: Path, path: Path) -> str:
    parts = path.relative_to(root).parts
    return parts[0] if len(parts) > 1 else ""


def _open_array(path: Path) -> Image.Image:
    """An .npy file: [H, W] or [H, W, 1, 3 or 4]; uint8, or float in [0, 1]."""
    array = np.load(path, allow_pickle=False)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"its shape is {array.shape}, expected [H, W] or [H, W, 1, 3 or 4]")
    if array.dtype != np.uint8:
        array = _float_to_uint8(path, array)
    return Image.fromarray(array.squeeze(2) if array.shape[2:] == (1,) else array)


def _to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "F":
        image = Image.fromarray(_float_to_uint8(path, np.array(image)))
    elif image.mode.startswith("I"):  # 16-bit grey, which Pillow opens as I;16 or I
        image = Image.fromarray((np.array(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert("RGB")


def _float_to_uint8(path: Path, array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
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
