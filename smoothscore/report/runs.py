"""A run folder as `fit` leaves it: its configuration, its logged figures, its samples."""

import csv
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from smoothscore.data.samples import SampleSet
from smoothscore.errors import UserError


class Curve(NamedTuple):
    """What was logged under one name, ascending in step."""

    step: tuple[int, ...]
    value: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Run:
    """One training, read back.

    Attributes:
        name: what tables call it; unique among the runs that are compared.
        folder: where it lies.
        config: the whole configuration, as plain values.
        curves: name → what was logged under it.
        samples: the images drawn last.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    curves: dict[str, Curve]
    samples: SampleSet

    def last(self, name: str) -> float | None:
        """The last figure logged under a name; None where there is none."""
        curve = self.curves.get(name)
        return curve.value[-1] if curve else None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read run folders, in the order given, and name them.

    Raises:
        UserError: no folder, one given twice, or one that is no complete run (the missing file is named).
    """
    if not folders:
        raise UserError("No run was given: name one or more run folders, as in `smoothscore compare runs/a runs/b`.")
    for folder in folders:
        _check_folder(folder)
    twice = [path for path, count in Counter(folder.resolve() for folder in folders).items() if count > 1]
    if twice:
        raise UserError(f"The run {twice[0]} was given twice: name each run folder once.")
    return [
        Run(
            name,
            folder,
            read_config(folder / "config.yaml"),
            read_metrics(folder / "metrics.csv"),
            SampleSet.load(folder / "samples.npz"),
        )
        for name, folder in zip(run_names(folders), folders, strict=True)
    ]


def run_names(folders: Sequence[Path]) -> list[str]:
    """Short names that tell distinct folders apart: the folder's own, with as many parents as that takes.

    What all paths end with is left out (a/version_0 and b/version_0 are a and b); a bare "version_0" says nothing,
    so it keeps its parent.
    """
    parts = [folder.resolve().parts for folder in folders]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({path[-1] for path in parts}) == 1:
        parts = [path[:-1] for path in parts]
    depths = [2 if re.fullmatch(r"version_\d+", path[-1]) else 1 for path in parts]
    while True:
        names = ["/".join(path[-depth:]) for path, depth in zip(parts, depths, strict=True)]
        shared = {name for name, count in Counter(names).items() if count > 1}
        if not shared:
            return names
        depths = [depth + (name in shared) for depth, name in zip(depths, names, strict=True)]


def read_config(path: Path) -> dict[str, Any]:
    """The configuration that `fit` was called with.

    Raises:
        UserError: no YAML, or no configuration of a training.
    """
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no readable YAML ({reason}): restore the file that `fit` wrote.") from error
    if not isinstance(config, dict) or not isinstance(config.get("data"), dict):
        raise UserError(f"{path} names no data: a run folder holds the whole configuration that `fit` wrote there.")
    return config


def read_metrics(path: Path) -> dict[str, Curve]:
    """Everything in a metrics.csv, one curve per column; where a step was logged twice, the later row counts.

    Raises:
        UserError: a row without a step, or a value that is no number (row and column are named).
    """
    figures: dict[str, dict[int, float]] = {}
    with path.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            step = _number(path, number, "step", row.get("step") or "")
            if not math.isfinite(step):
                raise UserError(f"{path}, row {number}: the step is {step}, but steps are counted: mend that row.")
            for name, text in row.items():
                if name not in (None, "step", "epoch") and text:
                    figures.setdefault(name, {})[int(step)] = _number(path, number, name, text)
    return {
        name: Curve(*zip(*sorted(values.items()), strict=True))  # type: ignore[arg-type]
        for name, values in figures.items()
    }


def _number(path: Path, row: int, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise UserError(
            f'{path}, row {row}: "{text}" under {column} is no number: the file is damaged; mend or delete that row.'
        ) from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise UserError(f"The run folder {folder} does not exist: name a folder that `smoothscore fit` wrote.")
    cures = {
        "config.yaml": "it is no run folder; name the one that `smoothscore fit` wrote (often runs/NAME/version_0)",
        "metrics.csv": "train with RunLogger in trainer.logger, which writes it (the shipped configs do)",
        "samples.npz": "let the run reach a validation with the Generation callback, or draw samples with "
        f"`smoothscore validate --config {folder / 'config.yaml'} --ckpt_path CHECKPOINT`",
    }
    for name, cure in cures.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder} has no {name}: {cure}.")
