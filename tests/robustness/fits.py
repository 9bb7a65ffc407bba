"""Trainings in processes of their own, to be killed and resumed; forked from a warm server that has imported all."""

import copy
import multiprocessing
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import torch
import yaml
from lightning import Callback

from smoothscore.modules import TemperatureSmoothed

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["smoothscore.cli.training", "tests.robustness.fits"])

STEPS, EPOCH = 24, 8
CONFIG = {
    "seed_everything": 1,
    "data": {
        "class_path": "Emoji",
        # 40 rows in batches of 8 and epochs of 8 steps: nothing divides anything, so every counter matters.
        "init_args": {"image_size": 8, "num_train": 36, "num_test": 6, "batch_size": 8, "epoch_steps": EPOCH, "k": 3,
                      "flip": True},
    },
    "model": {
        "class_path": "TemperatureSmoothed",
        "init_args": {
            "sigma_max": 10.0,
            "warmup_steps": 10,
            "network": {"class_path": "UNet", "init_args": {"image_size": 8, "nf": 8, "ch_mult": [1, 2],
                                                            "conditioned": False, "dropout": 0.0}},
        },
    },
    "trainer": {
        "accelerator": "cpu",
        "max_steps": STEPS,
        "gradient_clip_val": 1.0,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "enable_model_summary": False,
        "enable_progress_bar": False,
        "logger": {"class_path": "RunLogger", "init_args": {"save_dir": "runs", "name": "", "version": "run"}},
        "callbacks": [
            {"class_path": "EMA", "init_args": {"decay": 0.9}},
            {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
             "init_args": {"every_n_train_steps": 3, "save_last": True}},
        ],
    },
}  # fmt: skip


class Kill(Callback):
    """Send this process a signal in the middle of a step, of a checkpoint's writing, or of a validation."""

    def __init__(self, name: str, step: int, *, where: str = "backward", rank: int = 0) -> None:
        self.name, self.step, self.where, self.rank = name, step, where, rank

    def on_after_backward(self, trainer, pl_module):
        self._kill(trainer, "backward", trainer.global_step + 1)

    def on_validation_batch_start(self, trainer, pl_module, *args):
        self._kill(trainer, "validation", trainer.global_step)

    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        self._kill(trainer, "save", trainer.global_step)

    def _kill(self, trainer, where, step):
        if (where, step) == (self.where, self.step) and self.rank in (trainer.global_rank, -1):
            os.kill(os.getpid(), getattr(signal, self.name))


class Spoiled(TemperatureSmoothed):
    """Its loss is NaN in one step of one process: $SMOOTHSCORE_TEST_SPOIL, such as 10:1."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        here = f"{self.trainer.global_step}:{self.trainer.global_rank}"
        return loss * float("nan") if os.environ.get("SMOOTHSCORE_TEST_SPOIL") == here else loss


def write_config(path, *, callbacks=(), every=3, model=CONFIG["model"]["class_path"], **trainer):
    """A training that saves every so many steps."""
    content = copy.deepcopy(CONFIG)
    content["model"]["class_path"] = model
    content["trainer"].update(trainer)
    content["trainer"]["callbacks"][-1]["init_args"]["every_n_train_steps"] = every
    content["trainer"]["callbacks"][:0] = callbacks
    path.write_text(yaml.safe_dump(content))
    return path


def kill(name, step, **options):
    return {"class_path": "tests.robustness.fits.Kill", "init_args": {"name": name, "step": step, **options}}


class Fit:
    """One `smoothscore` command in one or several processes."""

    def __init__(self, folder, args, *, processes=1, env=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        self.logs = [self.folder / f"log{rank}.txt" for rank in range(processes)]
        self._processes = []
        for rank in range(processes):
            variables = {"SMOOTHSCORE_CACHE": str(self.folder.parent / "cache"), **(env or {})}
            if processes > 1:
                variables |= _elastic(rank, processes, port)
            target = (str(self.folder), [str(arg) for arg in args], variables, str(self.logs[rank]))
            self._processes.append(_CONTEXT.Process(target=_run, args=target))
        for process in self._processes:
            process.start()

    @property
    def pids(self):
        return [process.pid for process in self._processes]

    def wait(self, timeout=90):
        """Exit statuses; a process that does not end in time is an error, whatever else happened."""
        for process in self._processes:
            process.join(timeout)
        hanging = [rank for rank, process in enumerate(self._processes) if process.is_alive()]
        for rank in hanging:
            self._processes[rank].kill()
        assert not hanging, f"processes {hanging} hang: {self.log[-3000:]}"
        return [process.exitcode for process in self._processes]

    @property
    def log(self):
        return "\n".join(log.read_text() for log in self.logs if log.exists())


def fit(folder, config, *, processes=1, resume=True, env=None, more=()):
    """Run `smoothscore fit` to its end, whatever that is: exit statuses and what it printed."""
    args = ["fit", "--config", config, *(["--ckpt_path", "last"] if resume else []), *more]
    if processes > 1:
        args += ["--trainer.devices", processes, "--trainer.strategy", "ddp"]
    run = Fit(folder, args, processes=processes, env=env)
    return run.wait(), run.log


def final_state(folder):
    """What a run ends with: weights, average, moments, schedule and counters."""
    content = torch.load(Path(folder) / "runs" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    ema = next(state for name, state in content["callbacks"].items() if name.startswith("EMA"))
    names = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
    return {"ema": ema, **{name: content[name] for name in names}}


def assert_same_bits(one, other, where="state"):
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same_bits(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            assert_same_bits(*pair, f"{where}.{number}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    else:
        assert one == other, where


def _run(folder, args, variables, log):
    # The file stands for the terminal also of what C++ prints.
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(folder)
    os.environ.update(variables)
    if "SMOOTHSCORE_TEST_FSIZE" in variables:
        limit = int(variables["SMOOTHSCORE_TEST_FSIZE"])
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    torch.set_num_threads(1)
    from smoothscore.cli import main

    main(args)


def _elastic(rank, processes, port):
    """What torchrun sets."""
    return {
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
        "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0",
    }  # fmt: skip


def _free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
