"""Lists of rows that a training leaves out, bound by a digest to the data set that they are rows of."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from smoothscore.data.images import ImageSet
from smoothscore.data.resumable import Column, fill_rows
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError
from smoothscore.neighbors.digests import digest_tensor

FORMAT = "smoothscore exclusion 1"
_IN_MEMORY = 2**30  # bytes of images that are left in memory; more are written beside the packs and mapped
_BLOCK = 2**26


@dataclass(frozen=True)
class Exclusion:
    """Rows of one data set that are left out.

    Attributes:
        data: digest of the training images, all of them.
        num_rows: M, how many they are.
        rows: int64 [n], ascending, the rows left out.
    """

    data: str
    num_rows: int
    rows: Tensor

    def save(self, path: Path) -> None:
        """Write JSON, or CSV where the file is called so: one row per excluded image."""
        if path.suffix.lower() == ".csv":
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["row", "num_rows", "data", "format"])
            # A list without rows still has to say whose it is.
            facts = [self.num_rows, self.data, FORMAT]
            writer.writerows([[row, *facts] for row in self.rows.tolist()] or [["", *facts]])
            write_atomically(path, text.getvalue().encode())
            return
        content = {"format": FORMAT, "data": self.data, "num_rows": self.num_rows, "rows": self.rows.tolist()}
        write_atomically(path, (json.dumps(content) + "\n").encode())

    @classmethod
    def load(cls, path: Path) -> "Exclusion":
        """Read what `save` wrote.

        Raises:
            UserError: a missing or damaged file, or rows that cannot be.
        """
        if not path.is_file():
            raise UserError(f"The exclusion list {path} does not exist: write it with `smoothscore dedup`.")
        try:
            content = _read_csv(path) if path.suffix.lower() == ".csv" else json.loads(path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f'its format is "{content["format"]}", expected "{FORMAT}"')
            given = [_whole(row) for row in content["rows"]]
            data, num_rows = str(content["data"]), _whole(content["num_rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no exclusion list ({type(error).__name__}: {error}): write one with `smoothscore dedup`."
            ) from error
        for row in given:
            if not 0 <= row < num_rows:
                raise UserError(f"{path} excludes row {row}, but the data set has rows 0 to {num_rows - 1}: mend it.")
        return cls(data, num_rows, torch.tensor(sorted(set(given)), dtype=torch.int64))


def exclude_rows(train: ImageSet, path: Path, cache_dir: Path) -> tuple[ImageSet, Tensor]:
    """The training images without the rows of a list.

    Args:
        train: all training images.
        path: the list.
        cache_dir: where more than 1 GiB of remaining images are written and mapped from.

    Returns:
        The remaining images, in their order, and int64 [M'] the rows that they had.

    Raises:
        UserError: no list, one of another data set, or one that leaves fewer than two images.
    """
    excluded = Exclusion.load(path)
    if excluded.num_rows != len(train.pixels) or excluded.data != digest_tensor(train.pixels):
        raise UserError(
            f"{path} belongs to another data set of {excluded.num_rows:,} images (digest {excluded.data[:20]}…), and "
            f"this one has {len(train.pixels):,}: run `smoothscore dedup` with the data options of this training "
            "(image_size, num_train and split_seed change the rows)."
        )
    keep = torch.ones(len(train.pixels), dtype=torch.bool)
    keep[excluded.rows] = False
    rows = keep.nonzero().flatten()
    if len(rows) < 2:
        raise UserError(
            f"{path} leaves {len(rows)} of {len(train.pixels)} images, but at least 2 are needed: shorten it."
        )
    return keep_rows(train, rows, cache_dir, digest=excluded.data), rows


def keep_rows(train: ImageSet, rows: Tensor, cache_dir: Path, *, digest: str | None = None) -> ImageSet:
    """The images at the given rows, written to the disk and mapped from there where they are more than 1 GiB.

    Args:
        train: all training images.
        rows: int64 [M'], ascending.
        cache_dir: where they are written.
        digest: of all pixels, where it is known.
    """
    pixels = train.pixels
    if pixels[0].numel() * pixels.element_size() * len(rows) <= _IN_MEMORY:
        return train.rows(rows)
    mapped = _mapped(pixels, rows, digest or digest_tensor(pixels), cache_dir)
    return ImageSet(mapped, train.labels[rows], train.classes)


def half_rows(count: int, half: Literal["first", "second"], seed: int) -> Tensor:
    """Rows of one of two disjoint halves of ``count`` rows, dealt at random: int64, ascending; an odd one is unused."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    size = count // 2
    return (order[:size] if half == "first" else order[size : 2 * size]).sort().values


def _mapped(pixels: Tensor, rows: Tensor, digest: str, cache_dir: Path) -> Tensor:
    name = digest_tensor(rows).partition(":")[2][:8] + digest.partition(":")[2][:8]
    column = Column(pixels.dtype, tuple(pixels.shape[1:]))
    step = max(1, _BLOCK // (pixels[0].numel() * pixels.element_size()))
    filled = fill_rows(
        cache_dir / f"kept-{name}",
        {"data": digest, "rows": digest_tensor(rows)},
        {"pixels": column},
        len(rows),
        lambda part: {"pixels": pixels[rows[part]]},
        block=step,
        progress="leaving out images",
        unit="image",
    )
    return filled["pixels"]


def _read_csv(path: Path) -> dict[str, Any]:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    if not lines:
        raise ValueError("it holds no row")
    head = lines[0]
    if any((line["format"], line["data"], line["num_rows"]) != (head["format"], head["data"], head["num_rows"])
           for line in lines):  # fmt: skip
        raise ValueError("its rows name different data sets")
    rows = [line["row"] for line in lines if line["row"] != ""]
    return {"format": head["format"], "data": head["data"], "num_rows": head["num_rows"], "rows": rows}


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"{value!r} is no row number")
    return int(value)
