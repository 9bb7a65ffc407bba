"""The CSV logger of a run folder, and pictures, tables and curves for every logger that can show them."""

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from PIL import Image


class RunLogger(CSVLogger):
    """A CSV logger whose folder is the run: `save_dir/name/version` holds config, metrics, checkpoints, samples.

    It differs from Lightning's in one thing: a run that is resumed in its own folder keeps its earlier rows, which
    Lightning's logger deletes.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """The writer of metrics.csv."""
        if self._experiment is None:
            self._experiment = _AppendingWriter(log_dir=self.log_dir)
        return self._experiment  # type: ignore[return-value]


class _AppendingWriter(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="") as file:
                self.metrics_keys = list(csv.DictReader(file).fieldnames or [])


def run_folder(trainer: Trainer) -> Path:
    """The folder of this run; every process must call it."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def log_image(trainer: Trainer, name: str, image: np.ndarray) -> None:  # type: ignore[type-arg]
    """Show a picture, uint8 [H, W, 3], in every logger that can, under a name like generation/grid."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, image, trainer.global_step, dataformats="HWC")


def log_table(trainer: Trainer, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Show a table in every logger that can; a cell that is uint8 [H, W, 3] is a picture where there are pictures.

    W&B gets a table to sort and filter, TensorBoard the same as text without pictures.
    """
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            image = importlib.import_module("wandb").Image
            cells = [[image(cell) if isinstance(cell, np.ndarray) else cell for cell in row] for row in rows]
            logger.log_table(name, columns=list(columns), data=cells, step=trainer.global_step)
        elif isinstance(logger, TensorBoardLogger):
            kept = [
                place for place in range(len(columns)) if not any(isinstance(row[place], np.ndarray) for row in rows)
            ]
            lines = [[columns[place] for place in kept], ["---"] * len(kept)]
            lines += [[_cell(row[place]) for place in kept] for row in rows]
            text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
            logger.experiment.add_text(name, text, trainer.global_step)


def log_curves(
    trainer: Trainer,
    name: str,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    x_label: str,
    y_label: str,
) -> None:
    """Show lines over a logarithmic axis as one picture, in every logger that can show pictures.

    Args:
        trainer: whose loggers.
        name: such as expansion/curve.
        x: positions, above 0.
        curves: values at these positions by label; NaN where there is none.
        x_label: of the axis.
        y_label: of the axis.
    """
    if not any(isinstance(logger, WandbLogger | TensorBoardLogger) for logger in trainer.loggers):
        return
    figures = importlib.import_module("matplotlib.figure")  # slow to import, needed only here
    figure = figures.Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for label, values in curves.items():
        axes.plot(x, values, marker="o", label=label)
    axes.set(xscale="log", xlabel=x_label, ylabel=y_label, title=f"step {trainer.global_step:,}")
    axes.set_ylim(bottom=0)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    log_image(trainer, name, np.asarray(Image.open(buffer).convert("RGB")))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
