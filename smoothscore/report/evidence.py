"""The files of an audit: tables, a summary, and grids of the pairs."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smoothscore import __version__
from smoothscore.data.grid import row_grid, save_png
from smoothscore.data.samples import write_atomically
from smoothscore.data.sources import Images
from smoothscore.distances import decode
from smoothscore.errors import UserError
from smoothscore.functional.matching import mirrored
from smoothscore.report.findings import Audit, Count, Group, Pair, count, groups

SUMMARY = "extraction.json"
_FORMAT = 1
_COLUMNS = 16  # of a grid
_PAIR_ROWS = 8
_MOST_GRIDS = 16


def write_evidence(found: Audit, samples: Images, train: Images, out: Path) -> list[Path]:
    """Write pairs.csv, training_images.csv, extraction.json and the grids of an audit.

    Args:
        found: the audit.
        samples: the images it looked at.
        train: likewise.
        out: the folder.

    Returns:
        The files written.
    """
    table, by_image, summary = out / "pairs.csv", out / "training_images.csv", out / SUMMARY
    write_pairs(table, found.pairs)
    write_groups(by_image, groups(found.flagged))
    content = {
        "format": _FORMAT,
        "version": __version__,
        "count": asdict(count(found.flagged, found.num_samples, found.options.without)),
        "audit": found.to_dict(),
    }
    write_json(summary, content)
    return [table, by_image, summary, *_write_grids(found, samples, train, out / "grids")]


def read_audit(out: Path) -> Audit:
    """The audit that a folder holds.

    Raises:
        UserError: there is none, or it is damaged or of another format.
    """
    path = out / SUMMARY
    if not path.is_file():
        raise UserError(f"There is no {path}: name the folder that `smoothscore extract` wrote with --out.")
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise UserError(f"{path} has format {content['format']}, expected {_FORMAT}: run the extraction again.")
        return Audit.from_dict(content["audit"])
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({error}): run the extraction again, which goes quickly now.") from error


def write_pairs(path: Path, pairs: Sequence[Pair], decisions: Mapping[int, str] | None = None) -> None:
    """Write one row per pair, with the decision where there are any."""
    names = [item.name for item in fields(Pair)]
    rows = []
    for pair in pairs:
        values = [getattr(pair, name) for name in names]
        cells = [" ".join(map(str, value)) if isinstance(value, tuple) else value for value in values]
        rows.append(cells if decisions is None else [*cells, decisions.get(pair.sample, "")])
    _write_csv(path, names if decisions is None else [*names, "decision"], rows)


def write_groups(path: Path, found: Sequence[Group]) -> None:
    """Write one row per training image that is copied."""
    _write_csv(path, [item.name for item in fields(Group)], [list(asdict(group).values()) for group in found])


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def in_words(found: Count, num_samples: int) -> str:
    """A count as a sentence."""
    low, high = (f"{100 * end:.2f}" for end in found.interval)
    text = f"{found.copies:,} of {num_samples:,} samples ({100 * found.share:.2f} %, 95 % interval {low}–{high} %)"
    text += f", of {found.images:,} training images"
    if found.left_out:
        low, high = (f"{100 * end:.2f}" for end in found.without_interval)
        text += (
            f"; without the {len(found.left_out)} most-copied ones {found.without:,} "
            f"({100 * found.without_share:.2f} %, {low}–{high} %)"
        )
    return text


def _write_csv(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _write_grids(found: Audit, samples: Images, train: Images, folder: Path) -> list[Path]:
    """Pages of samples above their matches; and one picture of the most-copied images, each before its copies."""
    for old in folder.glob("*.png"):
        old.unlink()
    files = []
    pairs = found.flagged or list(found.pairs)
    step = _COLUMNS * _PAIR_ROWS
    for number, start in enumerate(range(0, min(len(pairs), step * _MOST_GRIDS), step), start=1):
        page = pairs[start : start + step]
        rows: list[Tensor] = []
        for first in range(0, len(page), _COLUMNS):
            line = page[first : first + _COLUMNS]
            rows += [_padded(sample_images(line, samples)), _padded(train.pixels[[pair.train for pair in line]])]
        files.append(folder / f"pairs-{number:02d}.png")
        save_png(row_grid(torch.stack(rows)), files[-1])
    copied = groups(found.flagged)[: 2 * _PAIR_ROWS]
    if copied:
        columns = min(_COLUMNS, copied[0].copies + 1)
        rows = []
        for group in copied:
            own = [pair for pair in found.flagged if pair.train == group.train][: columns - 1]
            images = torch.cat([decode(train.pixels[[group.train]]), sample_images(own, samples)])
            rows.append(_padded(images, columns))
        files.append(folder / "most-copied.png")
        save_png(row_grid(torch.stack(rows)), files[-1])
    return files


def sample_images(pairs: Sequence[Pair], samples: Images) -> Tensor:
    """The samples of some pairs as float in [0, 1], mirrored where they are compared mirrored."""
    rows = torch.tensor([pair.sample for pair in pairs])
    images = decode(samples.pixels[rows]).float().clamp(0, 1)
    return mirrored(images, torch.tensor([pair.flipped for pair in pairs]))


def _padded(images: Tensor, columns: int = _COLUMNS) -> Tensor:
    images = decode(images).float()
    return torch.cat([images, images.new_ones(columns - len(images), *images.shape[1:])])
