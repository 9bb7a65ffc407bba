"""A signal ends the training between two steps, with a checkpoint; SLURM queues the job again."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from smoothscore.callbacks import EMA, Interruption
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.modules import NoiseConditioned
from smoothscore.modules.checkpoint import read_checkpoint
from smoothscore.networks import UNet


class Raise(Callback):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, number, step):
        self.number, self.step = number, step

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step + 1 == self.step:
            os.kill(os.getpid(), self.number)


def fit(tmp_path, callbacks, *, steps=6, saver=True, **options):
    torch.manual_seed(0)
    module = NoiseConditioned(UNet(image_size=8, nf=8, ch_mult=(1, 2)))
    savers = [ModelCheckpoint(tmp_path / "c", every_n_train_steps=4, save_last=True)] if saver else []
    trainer = Trainer(
        max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path, callbacks=[*callbacks, *savers], enable_checkpointing=saver, accelerator="cpu",
        **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=Emoji(num_train=40, num_test=4, image_size=8, batch_size=4))
    return trainer


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A `scontrol` that writes down how it was called, after looking for the checkpoint."""
    place = tmp_path / "bin"
    place.mkdir()
    (place / "scontrol").write_text(
        f'#!/bin/sh\ntest -f {tmp_path}/c/last.ckpt && echo "$@" >> {tmp_path}/calls\n'
        f"test ! -f {tmp_path}/refuse || {{ echo 'Job is not requeueable' >&2; exit 1; }}\n"
    )
    (place / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")  # for Lightning: processes are not started by srun
    return tmp_path / "calls"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_the_step_is_finished_and_saved(tmp_path, capfd, name):
    number = getattr(signal, name)
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1)}
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, [EMA(0.9), Raise(number, 3), Interruption()])
    assert caught.value.code == 128 + number
    content = read_checkpoint(tmp_path / "c" / "last.ckpt")
    assert content["global_step"] == 3
    assert next(state for key, state in content["callbacks"].items() if key.startswith("EMA"))["num_updates"] == 3
    assert {n: signal.getsignal(n) for n in before} == before


def test_accumulated_batches_are_finished_too(tmp_path):
    with pytest.raises(SystemExit):
        fit(tmp_path, [Raise(signal.SIGTERM, 3), Interruption()], accumulate_grad_batches=3)
    content = read_checkpoint(tmp_path / "c" / "last.ckpt")
    assert content["global_step"] == 3
    assert content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["processed"] == 9


def test_a_signal_before_the_last_validation_lets_the_training_end(tmp_path):
    trainer = fit(tmp_path, [Raise(signal.SIGTERM, 10), Interruption()], steps=10)  # ten steps are an epoch
    assert trainer.global_step == 10
    assert "val/loss" in trainer.callback_metrics


def test_without_checkpoints_nothing_is_saved(tmp_path):
    with pytest.raises(SystemExit):
        fit(tmp_path, [Raise(signal.SIGTERM, 3), Interruption()], saver=False)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_turned_off(tmp_path):
    received = []
    previous = signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
    try:
        trainer = fit(tmp_path, [Raise(signal.SIGUSR1, 3), Interruption(signals=[])])
    finally:
        signal.signal(signal.SIGUSR1, previous)
    assert received == [1]
    assert trainer.global_step == 6


def test_slurm_requeues_after_the_checkpoint(tmp_path, slurm):
    with pytest.raises(SystemExit) as caught:
        fit(tmp_path, [Raise(signal.SIGUSR1, 3), Interruption()])
    assert caught.value.code == 128 + signal.SIGUSR1
    assert slurm.read_text() == "requeue 4711\n"


def test_an_array_job_is_named_by_its_task(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(SystemExit):
        fit(tmp_path, [Raise(signal.SIGUSR1, 3), Interruption()])
    assert slurm.read_text() == "requeue 12_3\n"


def test_a_canceled_job_is_not_requeued(tmp_path, slurm):
    with pytest.raises(SystemExit):
        fit(tmp_path, [Raise(signal.SIGTERM, 3), Interruption()])
    assert not slurm.exists()
    assert Path(tmp_path / "c" / "last.ckpt").is_file()


@pytest.mark.parametrize("how", ["refused", "absent"])
def test_a_requeue_that_fails_is_an_error(tmp_path, slurm, monkeypatch, how):
    (tmp_path / "refuse").touch()
    if how == "absent":
        monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"scontrol requeue 4711.*--ckpt_path last"):
        fit(tmp_path, [Raise(signal.SIGUSR1, 3), Interruption()])
    assert read_checkpoint(tmp_path / "c" / "last.ckpt")["global_step"] == 3


@pytest.mark.parametrize("name", ["SIGKILL", "SIGNOTHING", "getsignal"])
def test_bad_signals(name):
    with pytest.raises(UserError, match=name):
        Interruption(signals=[name])
