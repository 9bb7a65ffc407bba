"""What a run is: its configuration, in its folder, in its logger and in its checkpoints."""

import time
from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from smoothscore import __version__
from smoothscore.callbacks.interruption import validation_due
from smoothscore.callbacks.logger import run_folder
from smoothscore.data.samples import write_atomically


class RunRecord(SaveConfigCallback):
    """Keep the configuration of a run, and log the time of a step.

    `config.yaml` in the run folder is what `fit` was called with; where a resumed run's configuration differs, the
    earlier file is kept as `config.1.yaml` and so on. `validate`, `test` and `predict` write `config-validate.yaml`
    and so on. Other loggers get the configuration as hyper-parameters, and every checkpoint carries model and data as
    plain text, so that it can be opened alone. `train/step_ms` is the median of the last 100 steps.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration before anything else is written."""
        if not getattr(trainer, "fast_dev_run", False):
            folder = run_folder(trainer)
            if trainer.is_global_zero and not self.already_saved:
                command = trainer.state.fn.value if trainer.state.fn else stage
                name = "config.yaml" if stage == "fit" else f"config-{command}.yaml"
                text = self.text
                path = folder / name
                if path.is_file() and path.read_text() != text:
                    number = 1 + sum(1 for _ in folder.glob(f"{path.stem}.*.yaml"))
                    path.rename(folder / f"{path.stem}.{number}.yaml")
                write_atomically(path, text.encode())
                self.save_config(trainer, pl_module, stage)
                self.already_saved = True
        self._start: float | None = None
        self._behind = False  # the logs, behind the last checkpoint
        self._in_step = False
        self._steps: deque[float] = deque(maxlen=100)

    @property
    def text(self) -> str:
        """The whole configuration as YAML."""
        return str(self.parser.dump(self.config, skip_unset=False))

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the configuration to the loggers that keep hyper-parameters themselves."""
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams(yaml.safe_load(self.text))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add version, model and data to the checkpoint, as plain text."""
        self._behind = True
        config = yaml.safe_load(self.text)
        parts = {name: config[name] for name in ("model", "data", "trainer") if name in config}
        due = self._in_step and validation_due(trainer)
        checkpoint["smoothscore"] = {"version": __version__, "config": yaml.safe_dump(parts), "validation_due": due}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Say what a resumed run cannot make up for."""
        record = checkpoint.get("smoothscore")
        if trainer.state.fn == TrainerFn.FITTING and isinstance(record, Mapping) and record.get("validation_due"):
            rank_zero_warn(
                f"The run was stopped before the validation after step {checkpoint['global_step']} had ended, and "
                "resuming does not repeat it: run `smoothscore validate` with the same --config and --ckpt_path for it."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Time from one step's start to the next, so that loading counts and no device is waited for."""
        self._in_step = False
        self._flush(trainer)
        now = time.perf_counter()
        if self._start is not None:
            self._steps.append(1000 * (now - self._start))
            pl_module.log("train/step_ms", median(self._steps))
        self._start = now

    def on_train_batch_end(self, *args: Any) -> None:
        """From here to the validation, or to the next step, checkpoints stand before a validation that may follow."""
        self._in_step = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is no part of a step."""
        self._in_step = False
        self._flush(trainer)
        self._start = None

    def _flush(self, trainer: Trainer) -> None:
        """Let the logs reach as far as the checkpoint, whose step is logged after it was saved."""
        if self._behind:
            self._behind = False
            for logger in trainer.loggers:
                logger.save()
