"""The CSV logger of a run folder, and pictures for every logger that can show them."""

import csv
from pathlib import Path

import numpy as np
from lightning import Trainer
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter


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
