"""Stopping between two steps, with a checkpoint, when a signal asks for it; on SLURM, queueing again."""

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info

from smoothscore.callbacks.agreement import Agreement
from smoothscore.errors import UserError


class Interruption(Callback):
    """When a signal arrives, finish the step, save `last.ckpt`, and end with exit status 128 + the signal's number.

    The signal only sets a flag. All processes agree on it (one step later where there are several) and save between
    two optimizer steps, so `--ckpt_path last` goes on bit for bit, wherever in a step the signal came. During a
    validation, or just before one, it is acted on after the next step; a training whose last step is done ends as
    usual. In a SLURM job the first process then runs `scontrol requeue`, if the signal is one of `requeue`.

    `smoothscore fit` always has this callback (`--interruption.signals '[]'` turns it off). In Python, put it behind
    the EMA callback in the list, so that the average is saved after its update.

    Args:
        signals: names of the signals that are heeded.
        requeue: those of them after which a SLURM job is put back in the queue; SLURM sends SIGUSR1 before the time
            is over where the script asks for it, and SIGTERM when somebody cancels the job.

    Raises:
        UserError: a name that is no signal, or one that cannot be caught; training outside of the main thread;
            `scontrol requeue` failed.
    """

    def __init__(
        self, *, signals: Sequence[str] = ("SIGTERM", "SIGUSR1"), requeue: Sequence[str] = ("SIGUSR1",)
    ) -> None:
        self.signals = [_number(name) for name in signals]
        self.requeue = [_number(name) for name in requeue]
        self._received = self._agreed = 0
        self._stopping: tuple[signal.Signals, Path | None] | None = None
        self._last_step = 0
        self._agreement: Agreement | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of Lightning's handlers, which exchange messages and save from inside the handler."""
        self._received, self._agreed, self._stopping, self._last_step = 0, 0, None, trainer.global_step
        self._agreement = Agreement(trainer) if self.signals else None
        if self.signals and threading.current_thread() is not threading.main_thread():
            raise UserError("Interruption: signals reach the main thread only: train there, or set signals to [].")
        for number in self.signals:
            signal.signal(number, self._note)  # Lightning puts the earlier handlers back when the training ends

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Save after an optimizer step, if any process was asked to stop."""
        if self._agreement is None or trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self._agreed = self._agreed or self._agreement.later(self._received)
        # A checkpoint between a step and its validation would resume without the validation.
        if self._agreed and not validation_due(trainer):
            self._stopping = (signal.Signals(self._agreed), _save(trainer))

    # The step's own figures are logged after `on_train_batch_end`, so the end waits for whatever comes next.
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """End, if a signal was heeded."""
        self._leave(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End, if a signal was heeded."""
        self._leave(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End, if a signal was heeded."""
        self._leave(trainer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def _leave(self, trainer: Trainer) -> None:
        if self._stopping is None:
            return
        number, path = self._stopping
        for logger in trainer.loggers:
            logger.save()
        kept = f"saved {path}" if path else "saved nothing, since the trainer has no ModelCheckpoint"
        rank_zero_info(f"{number.name}: stopped after step {trainer.global_step} and {kept}.")
        job = _slurm_job()
        if job and path and number in self.requeue:
            if trainer.is_global_zero:
                _requeue(job, path)
            trainer.strategy.barrier("requeued")  # srun may end the others' work as soon as one process has ended
        raise SystemExit(128 + number)


def validation_due(trainer: Trainer) -> bool:
    """Whether a validation follows the training batch that has just ended."""
    loop = trainer.fit_loop
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def _save(trainer: Trainer) -> Path | None:
    """Save the checkpoint that `--ckpt_path last` finds; every process must call this."""
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint):
        return None
    path = callback.last_model_path or callback.format_checkpoint_name({}, callback.CHECKPOINT_NAME_LAST)
    callback.last_model_path = path  # in the checkpoint too, or the resumed run would begin a second file
    trainer.save_checkpoint(path)
    return Path(path)


def _slurm_job() -> str | None:
    """This job's name for `scontrol`; None outside of SLURM."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _requeue(job: str, path: Path) -> None:
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
        reason = (done.stderr.strip() or f"exit status {done.returncode}") if done.returncode else None
    except OSError as error:
        reason = str(error)
    if reason:
        raise UserError(
            f"`scontrol requeue {job}` failed ({reason}): the run stands in {path}; submit the job again with "
            "--ckpt_path last."
        )


def _number(name: str) -> signal.Signals:
    number = getattr(signal, name, None)
    if not isinstance(number, signal.Signals) or number in (signal.SIGKILL, signal.SIGSTOP):
        raise UserError(f'Interruption: "{name}" is no signal that can be caught: take SIGTERM, SIGUSR1 or SIGUSR2.')
    return number
