"""Stopping at, or skipping, a loss that is not finite or that explodes."""

import json
import math
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from smoothscore.callbacks.agreement import Agreement
from smoothscore.callbacks.logger import run_folder
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError

_SETTLED = 20  # losses before their median says what is usual


class _Seen(NamedTuple):
    """A loss on its way to the host, and the batch it came from."""

    loss: Tensor
    ready: torch.cuda.Event | None
    batch: Any
    sigma: Tensor | None
    step: int


class LossGuard(Callback):
    """Watch each batch's loss: stop the training, or skip the update, where it is not finite or explodes.

    A loss is bad if it is NaN or infinite, or above `factor` times the median of the last 100 good ones. The rows,
    labels and noise levels of a bad batch are written to `bad_batches/step-N-rank-R.json` in the run folder. No
    checkpoint with a bad last loss or with weights that are not finite is ever written.

    "stop" reads each loss one batch later, when it has reached the host by itself, so no device is waited for; the
    run ends with an error and its last good checkpoint. "skip" drops the gradients of an update with a bad loss, or
    with gradients that are not finite, on all processes, so that weights and optimizer state stay as they are; it
    waits for the device once per update. `smoothscore fit` has this callback (`--loss_guard.action skip`).

    Args:
        action: "stop", "skip", or "off".
        factor: how many times the usual loss counts as exploded.
        max_skipped: skipped updates in a row after which the training stops.

    Raises:
        UserError: a factor of at most 1; in training, a bad loss.
    """

    def __init__(
        self, action: Literal["stop", "skip", "off"] = "stop", *, factor: float = 100.0, max_skipped: int = 10
    ) -> None:
        if not factor > 1:
            raise UserError(f"LossGuard: factor is {factor}, but a loss is only bad above the usual one: take 100.")
        self.action = action
        self.factor = factor
        self.max_skipped = max_skipped
        self._usual: deque[float] = deque(maxlen=100)
        self._skipped = 0
        self._batch: Any = None
        self._pending: list[_Seen] = []
        self._reason = ""
        self._agreement: Agreement | None = None
        self._folder = Path()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch."""
        self._pending, self._reason = [], ""
        self._agreement = Agreement(trainer) if self.action != "off" else None
        self._folder = run_folder(trainer) / "bad_batches"

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember which batch the next loss belongs to."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss before, and send this one on its way."""
        if self.action == "off":
            return
        if self.action == "stop":
            self._look(trainer)
        loss, ready = _to_host(loss.detach() * trainer.accumulate_grad_batches, wait=self.action == "skip")
        sigma = getattr(pl_module, "_drawn", (None, None))[1]
        self._pending.append(_Seen(loss, ready, self._batch, sigma, trainer.global_step))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the gradients of a bad update."""
        if self.action != "skip" or self._agreement is None:
            return
        self._look(trainer)
        norms = torch._foreach_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        if not self._reason and norms and not torch.stack(norms).isfinite().all():
            self._reason = "gradients that are not finite"
        reason, self._reason = self._reason, ""
        if not self._agreement.now(bool(reason)):
            self._skipped = 0
            return
        self._skipped += 1
        optimizer.zero_grad(set_to_none=True)  # an optimizer leaves weights without gradient, and their state, alone
        pl_module.log("train/skipped", float(self._skipped))
        if self._skipped > self.max_skipped:
            raise self._error(trainer, f"{self._skipped} bad updates in a row, the last with {reason or 'bad losses'}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Stop, on all processes, where one has seen a bad loss."""
        if self.action == "stop" and self._agreement and self._agreement.later(bool(self._reason)):
            raise self._error(trainer, self._reason or "a bad loss on another process")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the last loss too."""
        self._refuse_to_save(trainer, pl_module)
        self._agreement = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let no checkpoint be written that could not be gone on from."""
        self._refuse_to_save(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What is usual, so that a resumed run judges as a straight one."""
        return {"usual": list(self._usual), "skipped": self._skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what is usual."""
        self._usual.extend(state_dict["usual"])
        self._skipped = state_dict["skipped"]

    def _look(self, trainer: Trainer) -> None:
        """Judge the losses that have reached the host; `_reason` says what is bad about one of them."""
        for seen in self._pending:
            if seen.ready is not None:
                seen.ready.synchronize()
            loss = float(seen.loss)
            usual = median(self._usual) if len(self._usual) >= _SETTLED else None
            if not math.isfinite(loss):
                reason = f"a loss of {loss}"
            elif usual is not None and loss > self.factor * usual:
                reason = f"a loss of {loss:.4g} where {usual:.4g} is usual"
            else:
                self._usual.append(loss)
                continue
            self._reason = f"{reason} in the batch after step {seen.step}"
            _keep(self._folder, trainer.global_rank, seen, loss, usual)
        self._pending.clear()

    def _refuse_to_save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._agreement is None:
            return
        if self.action == "stop":
            self._look(trainer)
        reason = self._reason
        if not reason and not torch.stack([p.isfinite().all() for p in pl_module.parameters()]).all():
            reason = "weights that are not finite"
        if self._agreement.now(bool(reason)):
            raise self._error(trainer, reason or "a bad loss on another process")

    def _error(self, trainer: Trainer, reason: str) -> UserError:
        return UserError(
            f"LossGuard: stopped after step {trainer.global_step}, at {reason}. The bad batches are listed in "
            f"{self._folder}. Lower the learning rate, set trainer.gradient_clip_val, or skip "
            "such batches with --loss_guard.action skip; --ckpt_path last goes on from the last good checkpoint."
        )


def _to_host(loss: Tensor, *, wait: bool) -> tuple[Tensor, torch.cuda.Event | None]:
    """A loss on the host, or on its way there with the event that says when it has arrived."""
    if wait or loss.device.type != "cuda":
        return loss.float().cpu(), None
    host = torch.empty((), pin_memory=True).copy_(loss, non_blocking=True)
    ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
    ready.record()
    return host, ready


def _keep(folder: Path, rank: int, seen: _Seen, loss: float, usual: float | None) -> None:
    """Write down which images and noise levels gave a bad loss."""
    content: dict[str, Any] = {"step": seen.step, "rank": rank, "loss": str(loss), "usual": usual}
    for name in ("index", "label"):
        values = getattr(seen.batch, name, None)
        content["rows" if name == "index" else "labels"] = values.tolist() if isinstance(values, Tensor) else None
    content["sigma"] = None if seen.sigma is None else seen.sigma.tolist()
    path = folder / f"step-{seen.step:08d}-rank-{rank}.json"
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())
