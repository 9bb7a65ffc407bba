"""What an experiment returns, and how it is written down: a table, a figure, and what the paper predicts of them."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from smoothscore.data import Emoji, ImageDataModule
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError
from smoothscore.figures import new_figure as new_figure
from smoothscore.figures import paper_style as paper_style
from smoothscore.figures import rendered

Row = Mapping[str, Any]  # numbers, text, or None where a column has no meaning


@dataclass(frozen=True)
class Finding:
    """One thing the paper predicts, and what came out.

    Attributes:
        claim: the prediction, with its equation or table.
        found: the figures that speak for or against it.
        held: whether it held here; None where there is nothing to predict.
    """

    claim: str
    found: str
    held: bool | None = None

    def __str__(self) -> str:
        if self.held is None:
            return f"{self.claim}: {self.found}"
        return f"{self.claim}: {'held' if self.held else 'did not hold'} ({self.found})"


@dataclass(frozen=True)
class Result:
    """The outcome of one experiment.

    Attributes:
        name: of the experiment.
        rows: the table, one mapping per row; columns are those of the first row.
        findings: what the paper predicts and whether it held.
        figure: for a paper.
        arrays: further raw data by name, for a figure of one's own.
    """

    name: str
    rows: Sequence[Row]
    findings: Sequence[Finding]
    figure: Figure
    arrays: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The findings as text, one per line."""
        return "\n".join(f"- {finding}" for finding in self.findings)

    def write(self, folder: Path, options: Mapping[str, Any] | None = None) -> list[Path]:
        """Write NAME.json, NAME.csv, NAME.png, NAME.svg, and NAME.npz where there are arrays.

        Args:
            folder: made where there is none.
            options: what the experiment was called with, kept in the JSON.

        Returns:
            The files.
        """
        table = io.StringIO()
        writer = csv.DictWriter(table, list(self.rows[0]))
        writer.writeheader()
        writer.writerows(self.rows)
        report = {
            "name": self.name,
            "options": _finite(dict(options or {})),
            "summary": [str(finding) for finding in self.findings],
            "rows": [{key: _null(value) for key, value in row.items()} for row in self.rows],
        }
        contents = {
            "json": (json.dumps(report, indent=1, default=str, allow_nan=False, ensure_ascii=False) + "\n").encode(),
            "csv": table.getvalue().encode(),
            **rendered(self.figure),
        }
        if self.arrays:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, **self.arrays)
            contents["npz"] = buffer.getvalue()
        files = [folder / f"{self.name}.{suffix}" for suffix in contents]
        for path, content in zip(files, contents.values(), strict=True):
            write_atomically(path, content)
        return files


def _null(value: Any) -> Any:
    """A number of the table for JSON, which knows no infinity and no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _finite(value: Any) -> Any:
    """Options for JSON, infinity and NaN as text."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def default_data(data: ImageDataModule | None, *, num_train: int, image_size: int) -> ImageDataModule:
    """The given data set, or the embedded emoji."""
    return data if data is not None else Emoji(num_train=num_train, image_size=image_size)


def check_positive(**numbers: float | Sequence[float]) -> None:
    """Refuse options that are not above 0, by name."""
    for name, value in numbers.items():
        values = value if isinstance(value, Sequence) else [value]
        if not values:
            raise UserError(f"{name} is empty: give at least one value.")
        for number in values:
            if not number > 0:
                raise UserError(f"{name} is {number}, but it must be above 0.")
