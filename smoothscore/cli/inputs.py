"""Images and devices as commands are given them."""

from pathlib import Path

import torch

from smoothscore.data import ImageDataModule
from smoothscore.data.sources import Images, open_images
from smoothscore.errors import UserError


def open_train(
    data: ImageDataModule | None,
    path: str | None,
    *,
    cache_dir: Path,
    scratch: Path,
    resize: int | None,
    skip_bad: bool,
    option: str = "--train",
) -> Images:
    """The images of a data module's training set, or of a folder or array.

    Raises:
        UserError: neither is given, or both.
    """
    if (data is None) == (path is None):
        given = "Neither is" if data is None else "Both are"
        raise UserError(f"{given} given: name the training images with --data or with {option}, not both.")
    if data is not None:
        return Images(data.train.pixels, f"{type(data).__name__}, training images")
    return open_images(Path(str(path)), cache_dir=cache_dir, scratch=scratch, resize=resize, skip_bad=skip_bad)


def open_folder(name: str) -> Path:
    """The folder of `--out`, which need not exist.

    Raises:
        UserError: it is a file.
    """
    folder = Path(name)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file: name a folder, which is made where there is none.")
    return folder


def open_device(name: str | None) -> torch.device:
    """The device of `--device`; None is cuda where there is one, else cpu.

    Raises:
        UserError: it cannot be used.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used ({str(error).splitlines()[0]}): try --device cpu.") from error
